// Device memory for tests that need no device: chunks of the process's own memory, and calls that
// fail, or spoil a byte, as often as they are told. It outlives the tier that uses it, as a
// custodian does.
#pragma once
#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <span>
#include <vector>

#include "base/check.h"
#include "tiers/device_memory.h"

namespace thermocline {

/// Thread: one.
class PretendedDevice final : public DeviceMemory {
 public:
  std::array<uint8_t, 16> uuid() const override { return uuid_; }
  absl::StatusOr<std::vector<uint32_t>> Chunks() const override {
    std::vector<uint32_t> numbers;
    for (const auto& [number, chunk] : chunks_) numbers.push_back(number);
    return numbers;
  }
  absl::Status Lend(uint32_t chunk) override {
    if (Fails()) return absl::UnavailableError("a lending that was made to fail");
    chunks_[chunk];
    return absl::OkStatus();
  }
  void Return(uint32_t chunk) override { chunks_.erase(chunk); }
  absl::Status Copy(std::span<const DeviceTransfer> transfers, DeviceDirection direction) override {
    if (Fails()) return absl::UnavailableError("a copy that was made to fail");
    if (during_copy && direction == DeviceDirection::kIn) during_copy();
    for (const DeviceTransfer& transfer : transfers) {
      std::byte* const device = At(transfer.offset, transfer.bytes);
      if (direction == DeviceDirection::kOut) {
        std::memcpy(transfer.host, device, transfer.bytes);
      } else {
        std::memcpy(device, transfer.host, transfer.bytes);
        if (chance_(random_) < flip_) device[random_() % transfer.bytes] ^= std::byte{4};
      }
    }
    return absl::OkStatus();
  }

  std::function<void()> during_copy;  // to the device
  void SetFaults(double error, double flip) {
    error_ = error;
    flip_ = flip;
  }
  void SpoilAll() {
    for (auto& [number, chunk] : chunks_) {
      for (std::byte& byte : chunk) byte ^= std::byte{1};
    }
  }
  /// As when its custodian has ended, and another has begun.
  void Replace() {
    chunks_.clear();
    ++uuid_[0];
  }

 private:
  static constexpr uint64_t kChunkSpan = 32768;  // that of the stepped stack
  bool Fails() { return chance_(random_) < error_; }
  std::byte* At(uint64_t offset, uint64_t bytes) {
    const auto found = chunks_.find(static_cast<uint32_t>(offset / kChunkSpan));
    TC_CHECK(found != chunks_.end());
    TC_CHECK(offset % kChunkSpan + bytes <= kChunkSpan);
    return found->second.data() + offset % kChunkSpan;
  }

  std::array<uint8_t, 16> uuid_{1};
  std::map<uint32_t, std::array<std::byte, kChunkSpan>> chunks_;
  std::mt19937_64 random_{1};
  std::uniform_real_distribution<double> chance_{0, 1};
  double error_ = 0;
  double flip_ = 0;
};

}  // namespace thermocline
