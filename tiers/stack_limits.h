// How much a stack has under way, takes at once, and waits: whatever queues there is bounded here.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace thermocline {

// Of a cold tier: less leaves nothing beside the files of an empty one.
inline constexpr uint64_t kLeastColdBytes = uint64_t{4} << 20;
inline constexpr uint32_t kMaxReads = 16;          // promotions under way, in all
inline constexpr uint32_t kMaxReadsPerLoad = 8;    // of one Load
inline constexpr uint32_t kMaxBatchBlocks = 4096;  // of one write job; one is under way at most
// After so many failed or late reads in a row, or one failed write, the cold tier is left alone.
inline constexpr int kReadFailures = 4;
inline constexpr std::chrono::milliseconds kColdPause{5000};
inline constexpr uint32_t kMaxScrubItems = 64;  // of one job; one is under way at most
inline constexpr size_t kMaxSuspects = 1024;
// Places touched for one client and tick, of what it used without a message, and of what it holds:
// a path is touched whole, and may be a long one.
inline constexpr size_t kTouchBudget = size_t{1} << 18;
inline constexpr uint32_t kMaxNamesPerCall = 1u << 16;
inline constexpr uint32_t kMaxSlotsPerReserve = 4096;
inline constexpr uint32_t kMaxWaiters = 4096;
inline constexpr size_t kMaxPrefetches = 1u << 16;           // blocks that wait, in all
inline constexpr size_t kMaxPrefetchesPerClient = 1u << 12;  // of one session
inline constexpr size_t kMaxPins = 1u << 16;

}  // namespace thermocline
