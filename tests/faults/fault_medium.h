// A disk that fails when it is told to, under any program: fault_medium.cc is a library that is
// loaded before it (LD_PRELOAD), in which calls on files below one directory fail, wait, or never
// return. Who holds the control file turns it on and off while the program runs.
#pragma once
#include <atomic>
#include <cstdint>

namespace thermocline::faults {

enum class MediumFault : uint32_t {
  kNone,
  kError,    // EIO
  kNoSpace,  // ENOSPC
  kSlow,     // after delay_ms
  kHang,     // when the fault is over
};

/// What lies in the control file, mapped by both. Zeros: a healthy disk.
/// Thread: any; process: any.
struct MediumControl {
  std::atomic<MediumFault> reads;
  std::atomic<MediumFault> writes;  // of bytes, syncs, and of names
  std::atomic<uint32_t> delay_ms;
  std::atomic<uint32_t> hits;  // calls that met a fault
};

constexpr const char* kMediumControlVariable = "TC_FAULT_MEDIUM_CONTROL";  // path of the file
constexpr const char* kMediumDirectoryVariable = "TC_FAULT_MEDIUM_DIRECTORY";

}  // namespace thermocline::faults
