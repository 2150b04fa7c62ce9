// What a stack remembers beside its blocks, in one small file `<data_dir>/state.json` that is
// replaced atomically: the spaces that its blocks belong to, and the pins with a time to live.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "hashing/space.h"
#include "tiers/stack_stats.h"

namespace thermocline {

struct StackState {
  struct Pin {
    uint64_t pin = 0;
    uint64_t place_id = 0;
    Fingerprint space;
    uint32_t depth = 0;
    int64_t expires_unix_ms = 0;
    TierKind tier = TierKind::kNone;
  };
  uint64_t epoch = 0;  // of the daemon that wrote it
  std::vector<SpaceSpec> spaces;
  std::vector<Pin> pins;
};

/// The file's content.
std::string FormatState(const StackState& state);
/// Errors: DataLoss when it is not such a file; spaces and pins that make no sense are left out.
absl::StatusOr<StackState> ParseState(const std::string& text);

/// An absent file is an empty state. A damaged one, or one too large to be ours, is renamed to
/// `<path>.damaged`, with a log line, and is an empty state: its blocks are misses then.
/// Errors: of reading.
absl::StatusOr<StackState> ReadStateFile(const std::string& path);

}  // namespace thermocline
