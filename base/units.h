// Bytes and durations as people write them: "64MiB", "1.5GiB", "250ms", "10s", "2h".
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace thermocline {

inline constexpr uint64_t KiB = uint64_t{1} << 10;
inline constexpr uint64_t MiB = uint64_t{1} << 20;
inline constexpr uint64_t GiB = uint64_t{1} << 30;
inline constexpr uint64_t kPageBytes = 4096;

inline constexpr uint64_t RoundUp(uint64_t value, uint64_t to) {
  return (value + to - 1) / to * to;
}

/// Accepts a number with an optional fraction and one of B, KiB, MiB, GiB, TiB, KB, MB, GB, TB
/// (none = bytes).
absl::StatusOr<uint64_t> ParseBytes(std::string_view text);
/// Two significant fractional digits at most, in the largest binary unit below the value: "1.5
/// GiB".
std::string FormatBytes(uint64_t bytes);
/// Accepts a number with one of us, ms, s, m, h, d (none = seconds).
absl::StatusOr<std::chrono::microseconds> ParseDuration(std::string_view text);

}  // namespace thermocline
