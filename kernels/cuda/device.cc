#include "kernels/cuda/device.h"

#include <cuda_runtime_api.h>

#include <cstring>
#include <memory>
#include <utility>

#include "kernels/cuda/errors.h"

namespace thermocline::cuda {

static_assert(sizeof(EventHandle) == sizeof(cudaIpcEventHandle_t));

absl::StatusOr<int> DeviceCount() {
  int count = 0;
  TC_RETURN_IF_ERROR(RuntimeStatus(cudaGetDeviceCount(&count), "cudaGetDeviceCount"));
  if (count == 0) return absl::UnavailableError("the CUDA driver knows of no device");
  return count;
}

absl::StatusOr<DeviceInfo> Describe(int device) {
  TC_RETURN_IF_ERROR(DeviceCount().status());
  cudaDeviceProp properties = {};
  TC_RETURN_IF_ERROR(
      RuntimeStatus(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties"));
  DeviceInfo info;
  info.name = properties.name;
  static_assert(sizeof properties.uuid == sizeof info.uuid);
  std::memcpy(info.uuid.data(), &properties.uuid, sizeof info.uuid);
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.total_bytes = properties.totalGlobalMem;
  int reaches = 0;
  TC_RETURN_IF_ERROR(RuntimeStatus(
      cudaDeviceGetAttribute(&reaches, cudaDevAttrCanUseHostPointerForRegisteredMem, device),
      "cudaDeviceGetAttribute"));
  info.reaches_pinned_by_host_address = reaches == 1;
  TC_RETURN_IF_ERROR(
      RuntimeStatus(cudaDriverGetVersion(&info.driver_version), "cudaDriverGetVersion"));
  TC_RETURN_IF_ERROR(
      RuntimeStatus(cudaRuntimeGetVersion(&info.runtime_version), "cudaRuntimeGetVersion"));
  return info;
}

absl::Status UseDevice(int device) { return RuntimeStatus(cudaSetDevice(device), "cudaSetDevice"); }

absl::StatusOr<DeviceScope> DeviceScope::Enter(int device) {
  int before = 0;
  TC_RETURN_IF_ERROR(RuntimeStatus(cudaGetDevice(&before), "cudaGetDevice"));
  TC_RETURN_IF_ERROR(UseDevice(device));
  return DeviceScope(before);
}

DeviceScope::~DeviceScope() {
  if (before_ >= 0) UseDevice(before_).IgnoreError();
}

absl::StatusOr<uint64_t> FreeBytes() {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  TC_RETURN_IF_ERROR(RuntimeStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo"));
  return free_bytes;
}

absl::Status SynchronizeDevice() {
  return RuntimeStatus(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

absl::StatusOr<Event> Event::Create(bool interprocess) {
  CUevent_st* event = nullptr;
  const unsigned flags =
      cudaEventDisableTiming | cudaEventBlockingSync | (interprocess ? cudaEventInterprocess : 0);
  TC_RETURN_IF_ERROR(
      RuntimeStatus(cudaEventCreateWithFlags(&event, flags), "cudaEventCreateWithFlags"));
  return Event(event);
}

absl::StatusOr<Event> Event::Open(const EventHandle& handle) {
  cudaIpcEventHandle_t bytes;
  std::memcpy(&bytes, handle.data(), sizeof bytes);
  CUevent_st* event = nullptr;
  TC_RETURN_IF_ERROR(
      RuntimeStatus(cudaIpcOpenEventHandle(&event, bytes), "cudaIpcOpenEventHandle"));
  return Event(event);
}

Event::~Event() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}

absl::Status CallAfter(CudaStream stream, std::function<void()> then) {
  auto call = std::make_unique<std::function<void()>>(std::move(then));
  const auto run = [](void* argument) {
    const std::unique_ptr<std::function<void()>> owned(
        static_cast<std::function<void()>*>(argument));
    (*owned)();
  };
  TC_RETURN_IF_ERROR(
      RuntimeStatus(cudaLaunchHostFunc(stream, run, call.get()), "cudaLaunchHostFunc"));
  call.release();  // NOLINT: the stream's now
  return absl::OkStatus();
}

absl::StatusOr<EventHandle> Event::Export() const {
  cudaIpcEventHandle_t bytes;
  TC_RETURN_IF_ERROR(RuntimeStatus(cudaIpcGetEventHandle(&bytes, event_), "cudaIpcGetEventHandle"));
  EventHandle handle;
  std::memcpy(handle.data(), &bytes, sizeof bytes);
  return handle;
}

absl::Status Event::Record(CudaStream stream) {
  return RuntimeStatus(cudaEventRecord(event_, stream), "cudaEventRecord");
}

absl::StatusOr<bool> Event::HasPassed() const {
  const cudaError_t error = cudaEventQuery(event_);
  if (error == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  TC_RETURN_IF_ERROR(RuntimeStatus(error, "cudaEventQuery"));
  return true;
}

absl::Status Event::Synchronize() const {
  return RuntimeStatus(cudaEventSynchronize(event_), "cudaEventSynchronize");
}

absl::StatusOr<Stream> Stream::Create(bool urgent) {
  int least = 0;
  int greatest = 0;
  if (urgent) {
    TC_RETURN_IF_ERROR(RuntimeStatus(cudaDeviceGetStreamPriorityRange(&least, &greatest),
                                     "cudaDeviceGetStreamPriorityRange"));
  }
  CudaStream stream = nullptr;
  TC_RETURN_IF_ERROR(
      RuntimeStatus(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest),
                    "cudaStreamCreateWithPriority"));
  return Stream(stream);
}

Stream::~Stream() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::Status Stream::Wait(const Event& event) {
  return RuntimeStatus(cudaStreamWaitEvent(stream_, event.get(), 0), "cudaStreamWaitEvent");
}

absl::Status Stream::Synchronize() const {
  return RuntimeStatus(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

}  // namespace thermocline::cuda
