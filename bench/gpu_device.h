// What benchmarks on a GPU share: memory and times of the device.
#pragma once
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "bench/report.h"
#include "kernels/cuda/memory.h"
#include "kernels/simt/launch.h"

namespace thermocline::bench {

/// Ends the program with a message: a benchmark has nothing to tell behind a failed call.
void CheckCuda(cudaError_t error, const char* what);
inline void CheckCuda(CudaError error, const char* what) {
  CheckCuda(static_cast<cudaError_t>(error), what);
}

/// Device memory of a benchmark. Contents: random numbers of 16 bits, finite as f16 and as bf16, or
/// 0.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t bytes);
  template <class T>
  explicit DeviceBuffer(const std::vector<T>& host) : DeviceBuffer(host.size() * sizeof(T)) {
    CheckCuda(cudaMemcpy(As<void>(), host.data(), bytes(), cudaMemcpyHostToDevice),
              "copy to the device");
  }

  template <class T>
  T* As() const {
    return static_cast<T*>(static_cast<void*>(memory_.data()));
  }
  size_t bytes() const { return memory_.bytes(); }

 private:
  cuda::DeviceBuffer memory_;
};

class DeviceClock {
 public:
  DeviceClock();
  ~DeviceClock();
  void Start();
  double Stop();  ///< waits; milliseconds since Start()

 private:
  cudaEvent_t begin_, end_;
};

struct Device {
  int multiprocessors = 0;
  double copy_gb = 0;  ///< GB/s of a copy on the device, bytes read and written
  bool quick = false;
  int runs() const { return quick ? 3 : 15; }
};

inline double GbPerSecond(double bytes, double milliseconds) { return bytes / milliseconds / 1e6; }
/// A row of so many bytes, against the copy on the device.
void AddBandwidth(const Device& device, Report& report, const std::string& name, double bytes,
                  double milliseconds);

void MeasureAttention(const Device& device, Report& report);
absl::Status MeasureMoves(const Device& device, Report& report);

/// Milliseconds of the device that one call of `launch(i)` takes among others of its kind, launched
/// one behind the other for 2 ms at least: the median of `runs` such rows. i counts the calls, so
/// that inputs can rotate beyond the cache.
template <class Launch>
double DeviceMilliseconds(int runs, Launch launch) {
  DeviceClock clock;
  int calls = 0;
  const auto row = [&](int count) {
    clock.Start();
    for (int i = 0; i < count; ++i) launch(calls++);
    return clock.Stop() / count;
  };
  row(3);
  const int count = static_cast<int>(std::clamp(2 / row(3), 1.0, 100.0));
  std::vector<double> times;
  for (int i = 0; i < runs; ++i) times.push_back(row(count));
  return Median(std::move(times));
}

}  // namespace thermocline::bench
