// The lock of a daemon's mover: whoever may write into the daemon's slots, hot ones and those of
// its arena, holds it for as long as it lives. A daemon that is killed leaves its mover behind,
// amid a batch of copies maybe; the next daemon takes the lock before it believes that any slot is
// free, and ends that mover first.
//
// It is an flock on a file beside the hot metadata; the daemon takes it and hands its descriptor to
// the movers that it starts, one after the other. Each writes there who it is, since it is ended by
// that: a process number with its start time, so that no stranger is.
#pragma once
#include <chrono>
#include <string>

#include "base/status.h"
#include "base/unique_fd.h"

namespace thermocline {

/// Takes the lock. A mover that holds it gets `patience` to end by itself, then it is killed; when
/// this returns, nothing of its copies is under way.
/// REQUIRES: no other daemon that lives uses the path.
/// Errors: Unavailable when the mover cannot be ended; those of the system calls, with the path.
absl::StatusOr<UniqueFd> LockMover(const std::string& path, std::chrono::milliseconds patience);

/// Of the calling process: it holds the lock now. Errors: of the system calls.
absl::Status SignMoverLock(int lock);

/// Whether the process of a pidfd ends in that time.
bool WaitForExit(const UniqueFd& pidfd, std::chrono::milliseconds patience);

}  // namespace thermocline
