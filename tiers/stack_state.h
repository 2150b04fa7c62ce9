// What a stack remembers beside its blocks, in one small file `<data_dir>/state.json` that is
// replaced atomically: the spaces that its blocks belong to, and the pins with a time to live.
// Without it no block could be used, so it carries a checksum and has a copy, `state.json.copy`.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
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
/// Errors: DataLoss when it is not such a file, or its checksum is another; spaces and pins that
/// make no sense are left out.
absl::StatusOr<StackState> ParseState(std::string_view text);

/// Of the file in this directory, or else of its copy; an empty one when both are absent. A damaged
/// one, or one too large to be ours, is renamed to `<name>.damaged`, with a log line; when both are
/// damaged the state is empty, and its blocks are misses then.
/// Errors: of reading.
absl::StatusOr<StackState> ReadStateFile(const std::string& data_dir);
/// Durable when it returns, the copy too. Errors: of writing; what is there then may be old or new.
absl::Status WriteStateFile(const std::string& data_dir, const StackState& state);

}  // namespace thermocline
