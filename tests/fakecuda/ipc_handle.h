// What an IPC handle holds: whose descriptor stands for the object. Internal.
#pragma once
#include <cstdint>

#include "base/unique_fd.h"

namespace thermocline::fakecuda {

struct IpcHandle {
  enum class Kind : uint32_t { kMemory = 0x6d656d30, kEvent = 0x65766e74 };
  Kind kind;
  int32_t process;
  int32_t fd;  ///< there
  uint64_t offset;
  uint64_t bytes;
};

/// The object's descriptor, duplicated into this process.
/// Errors: an invalid descriptor if the exporter has gone, or has closed it.
UniqueFd OpenOfProcess(const IpcHandle& handle);

}  // namespace thermocline::fakecuda
