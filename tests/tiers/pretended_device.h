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
#include <string>
#include <vector>

#include "base/check.h"
#include "base/file_util.h"
#include "tiers/device_memory.h"

namespace thermocline {

/// Thread: one.
class PretendedDevice final : public DeviceMemory {
 public:
  explicit PretendedDevice(uint64_t chunk_bytes) : chunk_bytes_(chunk_bytes) {}

  std::array<uint8_t, 16> uuid() const override { return uuid_; }
  absl::StatusOr<std::vector<uint32_t>> Chunks() const override {
    std::vector<uint32_t> numbers;
    for (const auto& [number, chunk] : chunks_) numbers.push_back(number);
    return numbers;
  }
  absl::Status Lend(uint32_t chunk) override {
    ++lendings;
    if (Fails()) return absl::UnavailableError("a lending that was made to fail");
    if (is_full) return absl::ResourceExhaustedError("the device is full");
    chunks_[chunk].assign(chunk_bytes_, std::byte{0x77});
    return absl::OkStatus();
  }
  void Return(uint32_t chunk) override { chunks_.erase(chunk); }
  absl::StatusOr<UniqueFd> Export(uint32_t chunk) const override {
    if (!chunks_.contains(chunk)) return absl::NotFoundError("there is no such chunk");
    return MakeSealedMemory("chunk " + std::to_string(chunk), 1);
  }
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

  uint64_t pinner() const override { return pinner_; }
  absl::Status Pin(uint64_t pinner, uint64_t offset, uint64_t bytes) override {
    if (pinner != pinner_) return absl::UnavailableError("it has ended");
    if (pinned.size() >= most_pins) return absl::ResourceExhaustedError("no more may be pinned");
    TC_CHECK(pinned.emplace(offset, bytes).second);
    return absl::OkStatus();
  }
  void Unpin(uint64_t offset) override {
    if (during_unpin) during_unpin();
    pinned.erase(offset);
  }
  /// As when its mover has ended, and maybe another one runs.
  void SetPinner(uint64_t number) {
    pinner_ = number;
    pinned.clear();
  }

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
  std::byte* At(uint64_t offset, uint64_t bytes) {
    const auto found = chunks_.find(static_cast<uint32_t>(offset / chunk_bytes_));
    TC_CHECK(found != chunks_.end());
    TC_CHECK(offset % chunk_bytes_ + bytes <= chunk_bytes_);
    return found->second.data() + offset % chunk_bytes_;
  }

  bool is_full = false;
  int lendings = 0;
  size_t most_pins = SIZE_MAX;
  std::map<uint64_t, uint64_t> pinned;  // bytes by offset
  std::function<void()> during_copy;    // to the device
  std::function<void()> during_unpin;

 private:
  bool Fails() { return chance_(random_) < error_; }

  const uint64_t chunk_bytes_;
  std::array<uint8_t, 16> uuid_{1};
  std::map<uint32_t, std::vector<std::byte>> chunks_;
  uint64_t pinner_ = 0;
  std::mt19937_64 random_{1};
  std::uniform_real_distribution<double> chance_{0, 1};
  double error_ = 0;
  double flip_ = 0;
};

}  // namespace thermocline
