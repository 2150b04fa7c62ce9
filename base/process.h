// Other processes, told apart for certain: a pid is reused, a pid with its start time is not.
#pragma once
#include <sys/types.h>

#include <cstdint>

#include "base/status.h"
#include "base/unique_fd.h"

namespace thermocline {

/// When the process started, in clock ticks since boot (/proc/PID/stat, field 22).
/// Errors: NotFound when there is no such process (a zombie still is one).
absl::StatusOr<uint64_t> ProcessStartTime(pid_t pid);

/// A descriptor that becomes readable when the process ends.
/// Errors: NotFound when there is no such process.
absl::StatusOr<UniqueFd> OpenPidFd(pid_t pid);

/// As OpenPidFd, of the process that started at `start_time` and no later namesake: the start time
/// is read once the descriptor holds the pid.
absl::StatusOr<UniqueFd> OpenPidFd(pid_t pid, uint64_t start_time);

/// Whether the process of a pidfd has ended.
bool HasExited(const UniqueFd& pidfd);

/// Whether the process that started at `start_time` has surely ended, reaped by its parent or not.
/// Pid 0 is nobody's.
bool HasExited(pid_t pid, uint64_t start_time);

}  // namespace thermocline
