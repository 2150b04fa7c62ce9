// The offline check of a store of the log: every block that an entry leads to is read and verified,
// and what lies there without its other half is named. Nothing is changed; the daemon that opens
// the store next drops what is damaged by itself.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace thermocline {

struct FsckReport {
  uint64_t segments = 0;
  uint64_t blocks = 0;         // that were read and are right
  uint64_t bytes = 0;          // of their payloads
  uint64_t sealed_blocks = 0;  // of them: encrypted, so only their checksum on the disk was tried
  uint64_t problem_count = 0;
  std::vector<std::string> problems;  // the first hundred
  std::vector<std::string> notes;     // harmless: what a crash leaves, the first hundred
};

/// Checks <directory>/store.
/// Errors: NotFound when there is none; FailedPrecondition when it is of another form, or a daemon
///         has it open; DataLoss when it cannot be opened at all.
/// Cost:   reads the whole store.
absl::StatusOr<FsckReport> FsckLog(const std::string& directory);

/// For people, with a newline at the end.
std::string FsckText(const FsckReport& report);

}  // namespace thermocline
