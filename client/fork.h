// Whether this process is still the one that opened a session. A forked child inherits the
// mappings and the socket, but neither the heartbeat thread nor the right to read: its parent's
// leases are its parent's.
#pragma once
#include <cstdint>

namespace thermocline {
inline namespace client_v1 {

/// Raised in the child by every fork of this process since the first call.
/// Thread: any; async-signal-safe after the first call.
uint64_t ForkGeneration();

}  // namespace client_v1
}  // namespace thermocline
