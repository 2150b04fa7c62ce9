// Random inputs for the kernel tests: seeded, printed, the same for every form.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/cpu/cpu_kernels.h"

namespace thermocline {

inline uint64_t TestSeed() {
  static const uint64_t seed = [] {
    const char* wanted = std::getenv("TC_SEED");
    const uint64_t value = wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 20231;
    std::printf("seed %llu (TC_SEED overrides)\n", static_cast<unsigned long long>(value));
    return value;
  }();
  return seed;
}

class RandomInputs {
 public:
  explicit RandomInputs(uint64_t salt) : random_(TestSeed() * 1000003 + salt) {}

  uint32_t Bits() { return static_cast<uint32_t>(random_()); }
  /// In [-1, 1), a multiple of 2^-23.
  float Float() { return static_cast<float>(static_cast<int32_t>(Bits()) >> 8) * 0x1p-23f; }
  std::vector<float> Floats(size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = Float();
    return values;
  }

 private:
  std::mt19937_64 random_;
};

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace thermocline
