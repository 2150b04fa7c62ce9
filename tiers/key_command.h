// A command that prints keys: of a vault, a key management service, a file that only another user
// may read. It runs without a shell, as the daemon's user, with the daemon's environment and its
// standard error, so that what it complains of is in the log; with nothing to read, no other
// descriptor, signals as a program expects them, and a process group of its own, which is killed
// when it takes too long or prints too much.
#pragma once
#include <chrono>
#include <cstddef>
#include <span>
#include <stop_token>
#include <string>

#include "base/status.h"

namespace thermocline {

inline constexpr std::chrono::seconds kKeyCommandPatience{10};

/// Writes what `command`, a program's absolute path and its arguments apart by blanks, prints, into
/// `room`, and returns how many bytes.
/// Thread: any; waits until the command ends, for `patience` at most, and until `stop` is
/// requested. Errors: InvalidArgument for no absolute path, NotFound and the like when it cannot be
/// started,
///         Aborted when it fails, DeadlineExceeded, ResourceExhausted when it prints more than
///         fits, Cancelled.
absl::StatusOr<size_t> RunKeyCommand(const std::string& command, std::span<std::byte> room,
                                     std::chrono::milliseconds patience = kKeyCommandPatience,
                                     const std::stop_token& stop = {});

}  // namespace thermocline
