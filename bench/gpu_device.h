// What benchmarks on a GPU share: memory and times of the device.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "base/check.h"
#include "kernels/simt/launch.h"

namespace thermocline::bench {

/// Ends the program with a message: a benchmark has nothing to tell behind a failed call.
void CheckCuda(cudaError_t error, const char* what);
inline void CheckCuda(CudaError error, const char* what) {
  CheckCuda(static_cast<cudaError_t>(error), what);
}

/// Owner: frees it. Contents: random numbers of 16 bits, finite as f16 and as bf16, or 0.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t bytes);
  template <class T>
  explicit DeviceBuffer(const std::vector<T>& host) : DeviceBuffer(host.size() * sizeof(T)) {
    CheckCuda(cudaMemcpy(data_, host.data(), bytes_, cudaMemcpyHostToDevice), "copy to the device");
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer();

  template <class T>
  T* As() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_;
  void* data_ = nullptr;
};

/// Milliseconds that one call of `launch(i)` takes on the device, the median of `runs` after three
/// that warm up; i counts the calls, so that inputs can rotate beyond the cache.
template <class Launch>
double DeviceMilliseconds(int runs, Launch launch);

class DeviceClock {
 public:
  DeviceClock();
  ~DeviceClock();
  void Start();
  double Stop();  ///< waits; milliseconds since Start()

 private:
  cudaEvent_t begin_, end_;
};

double MedianMilliseconds(std::vector<double> values);

template <class Launch>
double DeviceMilliseconds(int runs, Launch launch) {
  DeviceClock clock;
  for (int i = 0; i < 3; ++i) launch(i);
  std::vector<double> times;
  for (int i = 0; i < runs; ++i) {
    clock.Start();
    launch(i + 3);
    times.push_back(clock.Stop());
  }
  return MedianMilliseconds(times);
}

}  // namespace thermocline::bench
