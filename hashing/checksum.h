// The checksum of a block's payload: XXH3-64, unseeded. Two translation units hold xxHash inlined
// for SSE2 and AVX2, and the best that the processor has is chosen at the first call; Debian's
// library has one build for all and runs at half the speed. It guards against damage, not malice.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace thermocline {

/// Thread: any.
/// Cost:   reads the bytes once, at memory speed when they are not in a cache.
uint64_t Checksum(std::span<const std::byte> bytes);

/// Copies `source` to `destination` and returns the checksum of what was copied, in one pass of
/// pieces that fit the first-level cache. What is summed is the copy, not the source: a source that
/// another process changes meanwhile cannot come apart from its sum.
/// REQUIRES: equal sizes, no overlap.
/// Thread:   any.
uint64_t CopyAndChecksum(std::span<std::byte> destination, std::span<const std::byte> source);

/// The chosen form, "avx2" or "sse2": for logs and benches.
const char* ChecksumForm();

}  // namespace thermocline
