// The host side of CUDA: devices, streams and events, without CUDA's headers. What is here is
// complete in every build: without the toolkit each call answers Unimplemented (without_cuda.cc),
// and without a driver Unavailable, so that callers need neither #if nor a library to be there.
//
// The runtime is linked statically by programs; calls of the driver are looked up when they are
// first needed, and libcuda is never linked. The legacy default stream is never used. Every error
// names the call and CUDA's own word for what was wrong.
//
// A process that has used CUDA must not fork (it may spawn).
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "kernels/simt/launch.h"

struct CUevent_st;

namespace thermocline::cuda {

/// Whether the process can do nothing more with CUDA: the error will come back from every call,
/// until the process ends. Annotate and other copies of the message forget it.
bool IsSticky(const absl::Status& status);

/// What a kernel's launch answered. Errors: InvalidArgument for a shape that the kernel does not
/// take, else as CUDA has it.
absl::Status LaunchStatus(CudaError error, std::string_view kernel);

/// How many devices this process can use. Errors: Unimplemented when built without CUDA,
/// Unavailable without a driver, or where it is too old; never 0.
/// Cost: starts the driver, which takes some 100 ms the first time; creates no context.
absl::StatusOr<int> DeviceCount();

struct DeviceInfo {
  std::string name;
  std::array<uint8_t, 16> uuid{};  // of the device, or of its MIG instance
  int compute_major = 0;
  int compute_minor = 0;
  int multiprocessors = 0;
  uint64_t total_bytes = 0;
  bool reaches_pinned_by_host_address = false;  // what others than CUDA allocated, once pinned
  int driver_version = 0;                       // 13010 is 13.1
  int runtime_version = 0;                      // that this program was built with
};
/// Without a context. Errors: as DeviceCount, InvalidArgument for a number that is none.
absl::StatusOr<DeviceInfo> Describe(int device);

/// Makes a device the calling thread's, with its context: whatever is created below lies there.
/// Every thread that uses CUDA calls it first.
absl::Status UseDevice(int device);
/// The same until the scope's end, for threads that are somebody else's: then it is the one that
/// was.
class DeviceScope {
 public:
  static absl::StatusOr<DeviceScope> Enter(int device);
  DeviceScope(DeviceScope&& other) noexcept : before_(std::exchange(other.before_, -1)) {}
  DeviceScope& operator=(DeviceScope&&) = delete;
  ~DeviceScope();

 private:
  explicit DeviceScope(int before) : before_(before) {}
  int before_;  // -1: moved from
};
/// Of the thread's device.
absl::StatusOr<uint64_t> FreeBytes();
/// Waits for everything that this process has under way on the thread's device. Errors: sticky ones
/// of whatever was.
absl::Status SynchronizeDevice();

/// Calls `then` once all that `stream` was given until now is done, unless that fails with a sticky
/// error. On a thread of the driver's, which calls nothing of CUDA and waits for nothing, since
/// what `stream` is given from now on waits for it.
absl::Status CallAfter(CudaStream stream, std::function<void()> then);

/// The name of an interprocess event, for another process.
using EventHandle = std::array<std::byte, 64>;

/// A point in a stream's work, once recorded. Without timing; who waits for it sleeps.
/// Thread: any. Owner: destroys it; the work it stands for goes on.
class Event {
 public:
  /// `interprocess`: may be exported.
  static absl::StatusOr<Event> Create(bool interprocess = false);
  /// Another process's. That one keeps its own for as long as this one is used.
  static absl::StatusOr<Event> Open(const EventHandle& handle);
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~Event();

  absl::StatusOr<EventHandle> Export() const;
  /// Stands for all that `stream` has been given until now. Before it was recorded once, an event
  /// has passed.
  absl::Status Record(CudaStream stream);
  /// Whether the work it stands for is done. Errors: sticky ones of that work, too.
  absl::StatusOr<bool> HasPassed() const;
  absl::Status Synchronize() const;
  CUevent_st* get() const { return event_; }

 private:
  explicit Event(CUevent_st* event) : event_(event) {}
  CUevent_st* event_ = nullptr;
};

/// Work in order, beside that of other streams.
/// Thread: any. Owner: destroys it, once its work is done, without waiting.
class Stream {
 public:
  /// `urgent`: its kernels come before those of others where both wait.
  static absl::StatusOr<Stream> Create(bool urgent = false);
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~Stream();

  /// What is given to this stream from now on waits for the event as it is recorded now.
  absl::Status Wait(const Event& event);
  absl::Status Synchronize() const;
  CudaStream get() const { return stream_; }

 private:
  explicit Stream(CudaStream stream) : stream_(stream) {}
  CudaStream stream_ = nullptr;
};

}  // namespace thermocline::cuda
