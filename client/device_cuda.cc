// A thread of its own calls what waits for streams and unmaps: on the driver's own thread, which
// tells of a stream, nothing of CUDA may be called, and the heartbeat must not wait for a device.
#include "client/device_cuda.h"

#include <pthread.h>
#include <signal.h>

#include <deque>
#include <thread>
#include <utility>

#include "base/mutex.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"

namespace thermocline {
namespace {

/// Thread: any. Owner: what waits when it goes is still done; shared by the thread.
class Worker {
 public:
  void Push(std::function<void()> task) TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    tasks_.push_back(std::move(task));
    changed_.NotifyAll();
  }
  void Close() TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    closed_ = true;
    changed_.NotifyAll();
  }
  void Run() TC_EXCLUDES(mutex_) {
    while (true) {
      std::function<void()> task;
      {
        MutexLock lock(mutex_);
        while (tasks_.empty() && !closed_) changed_.Wait(mutex_);
        if (tasks_.empty()) return;
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
      task();
    }
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> tasks_ TC_GUARDED_BY(mutex_);  // one a lease or slab that ends
  bool closed_ TC_GUARDED_BY(mutex_) = false;
};

class CudaAccess final : public DeviceAccess {
 public:
  explicit CudaAccess(int device) : device_(device), worker_(std::make_shared<Worker>()) {
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the host's own threads
    thread_ = std::thread([device, worker = worker_] {
      cuda::UseDevice(device).IgnoreError();  // each call says so again
      worker->Run();
    });
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  /// By its own thread, where a lease that ended was the last to have it.
  ~CudaAccess() override {
    worker_->Close();
    thread_.get_id() == std::this_thread::get_id() ? thread_.detach() : thread_.join();
  }

  absl::StatusOr<std::shared_ptr<std::byte>> Map(int fd, uint64_t bytes, bool to_write) override {
    TC_ASSIGN_OR_RETURN(const cuda::DeviceScope scope, cuda::DeviceScope::Enter(device_));
    TC_ASSIGN_OR_RETURN(const cuda::Slab slab, cuda::Slab::Import(device_, fd, bytes));
    TC_ASSIGN_OR_RETURN(
        cuda::SlabMapping mapping,
        cuda::SlabMapping::Map(slab, to_write ? cuda::Access::kReadWrite : cuda::Access::kRead));
    std::byte* const data = mapping.data();
    auto kept = std::make_shared<cuda::SlabMapping>(std::move(mapping));
    return std::shared_ptr<std::byte>(
        data, [kept = std::move(kept), worker = worker_](std::byte*) mutable {
          worker->Push([unmapped = std::move(kept)] {});
        });
  }

  absl::Status After(DeviceStream stream, std::function<void()> then) override {
    TC_ASSIGN_OR_RETURN(const cuda::DeviceScope scope, cuda::DeviceScope::Enter(device_));
    return cuda::CallAfter(
        static_cast<CudaStream>(stream),
        [worker = worker_, then = std::move(then)]() mutable { worker->Push(std::move(then)); });
  }

 private:
  const int device_;
  const std::shared_ptr<Worker> worker_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<DeviceAccess>> OpenCudaAccess(int device) {
  TC_RETURN_IF_ERROR(cuda::Describe(device).status());
  return std::make_shared<CudaAccess>(device);
}

}  // namespace thermocline
