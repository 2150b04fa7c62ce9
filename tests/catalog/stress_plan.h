// What the catalog's stress is made of on both sides: the plan, the tally, prompts, and noise.
#pragma once
#include <atomic>
#include <cstdint>
#include <random>
#include <vector>

#include "tests/catalog/catalog_testing.h"

namespace thermocline {

inline constexpr uint32_t kParts = 2;
inline constexpr uint64_t kAlphabet = 3;
inline constexpr uint64_t kPoison = ~uint64_t{0};

struct Plan {
  int seconds = 10;
  uint64_t seed = 1;
  uint32_t readers = 2;
  uint32_t run = 4;
  uint32_t places = 1500;
  uint32_t depth = 24;
  uint32_t moves_percent = 50;
  uint32_t drops_percent = 50;
  uint32_t noise_percent = 50;
  uint32_t adopts_percent = 20;
  uint32_t keys_percent = 20;
  uint32_t roots_percent = 20;  // of the time below the passing root
  bool threads = false;
  bool must_notice = false;
};

struct Payload {
  std::atomic<uint64_t> word[8];
};

struct Tally {
  std::atomic<bool> stop;
  std::atomic<uint64_t> pins, places_read, violations, retries, rechecks, extended, adopted;
  std::atomic<uint64_t> keys_read, keys_lost;
  std::atomic<uint64_t> dropped, drops_refused, moved, moves_refused, roots;
};

struct Prompt {
  std::vector<Name> names;
  std::vector<uint64_t> paths;  // by place: stands for the path down to it
};

inline uint64_t Mix(uint64_t path, uint64_t symbol) {
  return ((path ^ (symbol + 1)) * 0x9E3779B97F4A7C15) ^ (path >> 29);
}
inline uint64_t ContentOf(uint64_t path, uint32_t part) { return path * 2 + part; }
inline uint64_t BitsOf(Root root) { return uint64_t{root.tag} << 32 | root.node; }
inline Root RootFromBits(uint64_t bits) {
  return {static_cast<NodeId>(bits), static_cast<uint32_t>(bits >> 32)};
}
/// Stands for the root's own path, of no place.
inline uint64_t PathOf(Root root) { return 7 + (uint64_t{root.tag} << 32); }

// Long common prefixes, forks everywhere: the next name is the usual one more often than not.
inline void MakePrompt(const Plan& plan, std::mt19937_64& random, Root root, Prompt& prompt) {
  prompt.names.clear();
  prompt.paths.clear();
  uint64_t path = PathOf(root);
  for (uint64_t left = 1 + random() % plan.depth; left > 0; --left) {
    const uint64_t symbol = random() % 8 ? 0 : random() % kAlphabet;
    path = Mix(path, symbol);
    prompt.names.push_back(NameOf(symbol));
    prompt.paths.push_back(path);
  }
}

/// Stores that miss every cache. They fill the processor's store buffer, which drains in order, so
/// that the store that comes next stays invisible to others for a long while: what a missing fence
/// forgets about. Without it two threads of one core hardly ever show it.
class Noise {
 public:
  explicit Noise(uint64_t seed) : state_(seed * 2 + 1), lines_(kLines) {}
  void Make() {
    for (int i = 0; i < kStores; ++i) {
      state_ = state_ * 6364136223846793005 + 1442695040888963407;
      lines_[state_ >> (64 - kLinesLog2)].word = state_;
    }
  }

 private:
  static constexpr int kLinesLog2 = 20;
  static constexpr size_t kLines = size_t{1} << kLinesLog2;  // 64 MiB
  static constexpr int kStores = 48;
  struct alignas(64) Line {
    volatile uint64_t word = 0;
  };
  uint64_t state_;
  std::vector<Line> lines_;
};

}  // namespace thermocline
