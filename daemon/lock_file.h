// Lock files: what makes a second daemon on the same directory or socket impossible. The lock is
// the kernel's (flock), so that it goes with the process however that ends; the file's text is the
// pid of its owner, for the message that the second daemon gives.
#pragma once
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/unique_fd.h"

namespace thermocline {

/// Owner: holding the descriptor holds the lock. The file stays when it is let go.
/// Errors: FailedPrecondition "WHAT in use by pid N; ADVICE" when another process has it; the file
///         system's otherwise.
absl::StatusOr<UniqueFd> TakeLock(const std::string& path, std::string_view what,
                                  std::string_view advice);

}  // namespace thermocline
