// CUDA as a client's device (ClientOptions::device): hot blocks are read where they lie, slots are
// filled there, leases end and commits come with a stream's work. In a library of its own,
// tc_client_cuda, which needs the runtime.
#pragma once
#include <memory>

#include "base/status.h"
#include "client/client.h"

namespace thermocline {

/// A number of CUDA's, as this process sees its devices: that of the daemon's hot_device. Another
/// one reads there only where it is the other's peer, over the bus.
/// The process must not fork from now on (it may spawn).
/// Errors: Unimplemented when built without CUDA, Unavailable without a driver, InvalidArgument.
absl::StatusOr<std::shared_ptr<DeviceAccess>> OpenCudaAccess(int device);

}  // namespace thermocline
