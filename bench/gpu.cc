// What the kernels reach on a GPU, beside what the device itself does in the same run: bandwidths
// against a plain copy on the device, transfers against one large one.
#include <cstdio>
#include <cstdlib>

#include "bench/gpu_device.h"
#include "bench/report.h"
#include "kernels/activation.h"
#include "kernels/rms_norm.h"

namespace thermocline::bench {

void CheckCuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "bench_gpu: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

DeviceBuffer::DeviceBuffer(size_t bytes) {
  absl::StatusOr<cuda::DeviceBuffer> memory = cuda::DeviceBuffer::Allocate(bytes);
  if (!memory.ok()) {
    std::fprintf(stderr, "bench_gpu: %s\n", memory.status().ToString().c_str());
    std::exit(1);
  }
  memory_ = *std::move(memory);
  // A period that no power of two divides, of numbers of about -1 to 1.
  std::vector<uint16_t> pattern(1'000'003);
  uint32_t state = 1;
  for (uint16_t& number : pattern) {
    state = state * 1664525 + 1013904223;
    number = static_cast<uint16_t>((state >> 16 & 0x83ff) | 0x3800);
  }
  for (size_t at = 0; at < bytes; at += 2 * pattern.size()) {
    const size_t part = std::min(bytes - at, 2 * pattern.size());
    CheckCuda(cudaMemcpy(As<char>() + at, pattern.data(), part, cudaMemcpyHostToDevice),
              "copy to the device");
  }
}

DeviceClock::DeviceClock() {
  CheckCuda(cudaEventCreate(&begin_), "cudaEventCreate");
  CheckCuda(cudaEventCreate(&end_), "cudaEventCreate");
}

DeviceClock::~DeviceClock() {
  cudaEventDestroy(begin_);
  cudaEventDestroy(end_);
}

void DeviceClock::Start() { CheckCuda(cudaEventRecord(begin_, nullptr), "cudaEventRecord"); }

double DeviceClock::Stop() {
  CheckCuda(cudaEventRecord(end_, nullptr), "cudaEventRecord");
  CheckCuda(cudaEventSynchronize(end_), "kernel");
  float milliseconds = 0;
  CheckCuda(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
  return milliseconds;
}

void AddBandwidth(const Device& device, Report& report, const std::string& name, double bytes,
                  double milliseconds) {
  const double gb = GbPerSecond(bytes, milliseconds);
  char note[64];
  std::snprintf(note, sizeof note, "%.1f us", milliseconds * 1e3);
  report.Add({name, "bandwidth", gb, "GB/s", "copy/device", gb / device.copy_gb, note});
}

namespace {

void MeasureCopies(Device& device, Report& report) {
  const size_t bytes = device.quick ? size_t{64} << 20 : size_t{1} << 30;
  const DeviceBuffer from(bytes), to(bytes);
  device.copy_gb =
      GbPerSecond(2.0 * static_cast<double>(bytes), DeviceMilliseconds(device.runs(), [&](int) {
                    CheckCuda(cudaMemcpyAsync(to.As<char>(), from.As<char>(), bytes,
                                              cudaMemcpyDeviceToDevice, nullptr),
                              "copy on the device");
                  }));
  report.Add({"copy/device", "bandwidth", device.copy_gb, "GB/s", "", 0, ""});
  void* pinned = nullptr;
  const size_t pinned_bytes = size_t{256} << 20;
  CheckCuda(cudaHostAlloc(&pinned, pinned_bytes, cudaHostAllocDefault), "cudaHostAlloc");
  for (const bool up : {true, false}) {
    const double ms = DeviceMilliseconds(device.runs(), [&](int) {
      CheckCuda(up ? cudaMemcpyAsync(to.As<char>(), pinned, pinned_bytes / 4,
                                     cudaMemcpyHostToDevice, nullptr)
                   : cudaMemcpyAsync(pinned, from.As<char>(), pinned_bytes / 4,
                                     cudaMemcpyDeviceToHost, nullptr),
                "copy between host and device");
    });
    report.Add({up ? "copy/host_to_device" : "copy/device_to_host", "bandwidth",
                GbPerSecond(static_cast<double>(pinned_bytes) / 4, ms), "GB/s", "", 0, "pinned"});
  }
  CheckCuda(cudaFreeHost(pinned), "cudaFreeHost");
}

void MeasureRows(const Device& device, Report& report) {
  const int rows = device.quick ? 64 : 8192, width = 4096;
  const size_t bytes = size_t{2} * rows * width;
  const DeviceBuffer x(bytes), y(bytes), out(bytes), gain(2 * width);
  AddBandwidth(device, report, "rms_norm/rows:8192/width:4096", 2.0 * static_cast<double>(bytes),
               DeviceMilliseconds(device.runs(), [&](int) {
                 CheckCuda(LaunchRmsNorm({.out = out.As<void>(),
                                          .x = x.As<void>(),
                                          .gain = gain.As<void>(),
                                          .rows = rows,
                                          .width = width,
                                          .x_stride = width,
                                          .out_stride = width},
                                         nullptr),
                           "RMSNorm");
               }));
  AddBandwidth(device, report, "swiglu/rows:8192/width:4096", 3.0 * static_cast<double>(bytes),
               DeviceMilliseconds(device.runs(), [&](int) {
                 CheckCuda(LaunchGatedActivation({.out = out.As<void>(),
                                                  .gate = x.As<void>(),
                                                  .up = y.As<void>(),
                                                  .rows = rows,
                                                  .width = width,
                                                  .gate_stride = width,
                                                  .up_stride = width,
                                                  .out_stride = width},
                                                 nullptr),
                           "SwiGLU");
               }));
}

absl::Status Run(const Arguments& arguments, Report& report) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: no GPU, or no driver for it\n");
    std::exit(77);
  }
  Device device{.quick = arguments.quick};
  cudaDeviceProp properties;
  CheckCuda(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  device.multiprocessors = properties.multiProcessorCount;
  std::printf("%s, %d multiprocessors, compute capability %d.%d\n", properties.name,
              device.multiprocessors, properties.major, properties.minor);
  MeasureCopies(device, report);
  const auto wanted = [&](const char* part) {
    return arguments.only.empty() || arguments.only == part;
  };
  if (wanted("attention")) MeasureAttention(device, report);
  if (wanted("rows")) MeasureRows(device, report);
  return wanted("moves") ? MeasureMoves(device, report) : absl::OkStatus();
}

}  // namespace
}  // namespace thermocline::bench

int main(int argc, char** argv) {
  return thermocline::bench::RunBenchmark(argc, argv, thermocline::bench::Run);
}
