// Device memory and schedules for the tests of kernels: the emulator's, or a GPU's (tests/gpu links
// the same cases to what nvcc makes of the kernels). So no test looks at device memory but through
// copies.
#pragma once
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/simt/emulator.h"
#include "tests/kernels/kernel_inputs.h"

namespace thermocline {

/// An array in device memory.
/// Owner: frees it. Contents begin as NaN (all bits set), or as a copy of the host's.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count)
      : count_(count), data_(static_cast<T*>(simt::AllocateDevice(count * sizeof(T)))) {}
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
    simt::CopyToDevice(data_, host.data(), host.size() * sizeof(T));
  }
  DeviceArray(DeviceArray&& other) noexcept
      : count_(other.count_), data_(std::exchange(other.data_, nullptr)) {}
  DeviceArray& operator=(DeviceArray&&) = delete;
  ~DeviceArray() { simt::FreeDevice(data_); }

  T* data() const { return data_; }
  size_t size() const { return count_; }
  T operator[](size_t i) const { return ToHost(i, 1)[0]; }
  /// Waits for what was launched. Aborts with a message if a kernel failed.
  std::vector<T> ToHost() const { return ToHost(0, count_); }
  void Fill(int byte) { simt::FillDevice(data_, byte, count_ * sizeof(T)); }

 private:
  std::vector<T> ToHost(size_t first, size_t count) const {
    std::vector<T> host(count);
    simt::CopyFromDevice(host.data(), data_ + first, count * sizeof(T));
    return host;
  }

  size_t count_;
  T* data_;
};

/// Runs `test` under the forward and the reverse schedule, and under random ones where that is
/// cheap: the checker needs no luck to see a race.
template <class Test>
void ForEachSchedule(Test test) {
  using Order = simt::Schedule::Order;
  std::vector<simt::Schedule> schedules = {{Order::kForward, 1}, {Order::kReverse, 1}};
  if (!simt::IsChecked()) {
    for (uint64_t i = 0; i < 2; ++i) schedules.push_back({Order::kRandom, TestSeed() + i});
  }
  for (const simt::Schedule& schedule : schedules) {
    SCOPED_TRACE("schedule " + std::to_string(static_cast<int>(schedule.order)) + ", seed " +
                 std::to_string(schedule.seed));
    simt::SetSchedule(schedule);
    test();
  }
  simt::SetSchedule({});
}

}  // namespace thermocline
