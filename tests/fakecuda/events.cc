// An event is two numbers: how often it was recorded, and which record has passed. They lie in
// memory that processes share, where waiters sleep on a futex; so an interprocess event needs
// nothing more than a name.
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <map>
#include <memory>

#include "base/check.h"
#include "base/mutex.h"
#include "tests/fakecuda/ipc_handle.h"
#include "tests/fakecuda/streams.h"

struct CUevent_st {};

namespace thermocline::fakecuda {
namespace {

struct Counters {
  std::atomic<uint32_t> recorded;
  std::atomic<uint32_t> passed;
};

class SharedEvent {
 public:
  SharedEvent(UniqueFd fd, bool interprocess) : fd_(std::move(fd)), interprocess_(interprocess) {
    void* const memory =
        mmap(nullptr, sizeof(Counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    TC_CHECK(memory != MAP_FAILED);
    counters_ = static_cast<Counters*>(memory);
  }
  SharedEvent(const SharedEvent&) = delete;
  SharedEvent& operator=(const SharedEvent&) = delete;
  ~SharedEvent() { munmap(counters_, sizeof(Counters)); }

  static std::shared_ptr<SharedEvent> Create(bool interprocess) {
    UniqueFd fd(memfd_create("fakecuda event", MFD_CLOEXEC));
    TC_CHECK(static_cast<bool>(fd));
    TC_CHECK(ftruncate(fd.get(), sizeof(Counters)) == 0);
    return std::make_shared<SharedEvent>(std::move(fd), interprocess);
  }

  int fd() const { return fd_.get(); }
  bool interprocess() const { return interprocess_; }

  uint32_t Record() { return ++counters_->recorded; }
  uint32_t recorded() const { return counters_->recorded; }
  bool HasPassed(uint32_t record) const {
    return static_cast<int32_t>(counters_->passed - record) >= 0;
  }

  void Pass(uint32_t record) {
    uint32_t before = counters_->passed;
    while (static_cast<int32_t>(record - before) > 0 &&
           !counters_->passed.compare_exchange_weak(before, record)) {
    }
    syscall(SYS_futex, &counters_->passed, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  }

  /// Returns early if this process's context is corrupted.
  void Wait(uint32_t record) const {
    while (PoisonError() == 0) {
      const uint32_t passed = counters_->passed;
      if (static_cast<int32_t>(passed - record) >= 0) return;
      constexpr timespec kLookAgain = {.tv_sec = 0, .tv_nsec = 50'000'000};
      syscall(SYS_futex, &counters_->passed, FUTEX_WAIT, passed, &kLookAgain, nullptr, 0);
    }
  }

 private:
  UniqueFd fd_;
  bool interprocess_;
  Counters* counters_;
};

using EventPointer = std::shared_ptr<SharedEvent>;

struct Events {
  Mutex mutex;
  std::map<cudaEvent_t, EventPointer> by_handle TC_GUARDED_BY(mutex);

  void Add(cudaEvent_t* handle, EventPointer event) TC_EXCLUDES(mutex) {
    MutexLock lock(mutex);
    *handle = new CUevent_st;
    by_handle[*handle] = std::move(event);
  }
};

Events& TheEvents() {
  static Events& events = *new Events;
  return events;
}

/// Null if there is none.
EventPointer FindEvent(cudaEvent_t handle) {
  Events& events = TheEvents();
  MutexLock lock(events.mutex);
  const auto found = events.by_handle.find(handle);
  return found == events.by_handle.end() ? nullptr : found->second;
}

}  // namespace

UniqueFd OpenOfProcess(const IpcHandle& handle) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/fd/%d", handle.process, handle.fd);
  return UniqueFd(open(path, O_RDWR | O_CLOEXEC));
}

}  // namespace thermocline::fakecuda

using namespace thermocline;
using namespace thermocline::fakecuda;

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return Serve(__func__, [&] {
    constexpr unsigned kKnown =
        cudaEventBlockingSync | cudaEventDisableTiming | cudaEventInterprocess;
    const bool interprocess = (flags & cudaEventInterprocess) != 0;
    if (event == nullptr || (flags & ~kKnown) != 0 ||
        (interprocess && (flags & cudaEventDisableTiming) == 0)) {
      return cudaErrorInvalidValue;
    }
    TheEvents().Add(event, SharedEvent::Create(interprocess));
    return cudaSuccess;
  });
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  return Serve(__func__, [&] {
    Events& events = TheEvents();
    MutexLock lock(events.mutex);
    if (events.by_handle.erase(handle) == 0) return cudaErrorInvalidResourceHandle;
    delete handle;
    return cudaSuccess;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  return ServeOnStream(__func__, stream, [&](const std::shared_ptr<Stream>& found, int poison) {
    const EventPointer event = FindEvent(handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    const uint32_t record = event->Record();
    Submit(found, poison, [event, record] { event->Pass(record); });
    return cudaSuccess;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned flags) {
  return ServeOnStream("cudaStreamWaitEvent", stream,
                       [&](const std::shared_ptr<Stream>& found, int poison) {
                         const EventPointer event = FindEvent(handle);
                         if (event == nullptr) return cudaErrorInvalidResourceHandle;
                         if (flags != cudaEventWaitDefault) return cudaErrorInvalidValue;
                         const uint32_t record = event->recorded();
                         Submit(found, poison, [event, record] { event->Wait(record); });
                         return cudaSuccess;
                       });
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  return Serve(__func__, [&] {
    const EventPointer event = FindEvent(handle);
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    return event->HasPassed(event->recorded()) ? cudaSuccess : cudaErrorNotReady;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  return Serve(__func__, [&] {
    const EventPointer event = FindEvent(handle);
    if (event == nullptr) return static_cast<int>(cudaErrorInvalidResourceHandle);
    event->Wait(event->recorded());
    return PoisonError();
  });
}

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t* handle, cudaEvent_t of) {
  return Serve(__func__, [&] {
    const EventPointer event = FindEvent(of);
    if (event == nullptr || !event->interprocess()) return cudaErrorInvalidResourceHandle;
    if (handle == nullptr) return cudaErrorInvalidValue;
    const IpcHandle name = {IpcHandle::Kind::kEvent, getpid(), event->fd(), 0, 0};
    static_assert(sizeof name <= sizeof *handle);
    std::memset(handle, 0, sizeof *handle);
    std::memcpy(handle, &name, sizeof name);
    return cudaSuccess;
  });
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t* event, cudaIpcEventHandle_t handle) {
  return Serve(__func__, [&] {
    IpcHandle name;
    std::memcpy(&name, &handle, sizeof name);
    if (event == nullptr || name.kind != IpcHandle::Kind::kEvent) return cudaErrorInvalidValue;
    if (name.process == getpid()) return cudaErrorDeviceUninitialized;
    UniqueFd fd = OpenOfProcess(name);
    if (!fd) return cudaErrorMapBufferObjectFailed;
    TheEvents().Add(event, std::make_shared<SharedEvent>(std::move(fd), true));
    return cudaSuccess;
  });
}
