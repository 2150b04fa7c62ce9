// A stream's thread takes pieces of work off its queue, waits the stream's delay, and does them
// unless the context is corrupted. The legacy default stream is one of them; what it is given waits
// for all that other blocking streams were given before, and they wait for it in turn (CUDA
// Programming Guide, "Default Stream").
//
// A destroyed stream's thread ends when its work is done; nobody waits for it.
#include "tests/fakecuda/streams.h"

#include <pthread.h>
#include <signal.h>

#include <chrono>
#include <deque>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"

struct CUstream_st {
  std::shared_ptr<thermocline::fakecuda::Stream> stream;
};

namespace thermocline::fakecuda {

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  explicit Stream(bool blocking, int64_t delay_us) : blocking_(blocking), delay_us_(delay_us) {}

  /// A thread like the driver's own: it takes no signal that is another's.
  void Start() {
    sigset_t all, before;
    sigfillset(&all);
    TC_CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
    std::thread([self = shared_from_this()] { self->Run(); }).detach();
    TC_CHECK(pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
  }

  bool blocking() const { return blocking_; }

  void Push(std::function<void()> work) TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    queue_.push_back(std::move(work));
    ++given_;
    changed_.NotifyAll();
  }

  uint64_t given() TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return given_;
  }

  void WaitUntilDone(uint64_t count) TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    while (done_ < count) changed_.Wait(mutex_);
  }

  bool IsIdle() TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return done_ == given_;
  }

  void Close() TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    closed_ = true;
    changed_.NotifyAll();
  }

  void SetDelay(int64_t microseconds) TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    delay_us_ = microseconds;
  }

 private:
  void Run() TC_EXCLUDES(mutex_) {
    while (true) {
      std::function<void()> work;
      int64_t delay_us = 0;
      {
        MutexLock lock(mutex_);
        while (queue_.empty() && !closed_) changed_.Wait(mutex_);
        if (queue_.empty()) return;
        work = std::move(queue_.front());
        queue_.pop_front();
        delay_us = delay_us_;
      }
      if (delay_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(delay_us));
      if (PoisonError() == 0) work();
      work = nullptr;
      MutexLock lock(mutex_);
      ++done_;
      changed_.NotifyAll();
    }
  }

  const bool blocking_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> queue_ TC_GUARDED_BY(mutex_);
  uint64_t given_ TC_GUARDED_BY(mutex_) = 0;
  uint64_t done_ TC_GUARDED_BY(mutex_) = 0;
  int64_t delay_us_ TC_GUARDED_BY(mutex_);
  bool closed_ TC_GUARDED_BY(mutex_) = false;
};

namespace {

using StreamPointer = std::shared_ptr<Stream>;

struct Streams {
  Mutex mutex;  ///< held while work is given: the default stream's order is of all streams
  StreamPointer legacy TC_GUARDED_BY(mutex);
  std::map<cudaStream_t, StreamPointer> by_handle TC_GUARDED_BY(mutex);
  std::vector<std::weak_ptr<Stream>> all TC_GUARDED_BY(mutex);  ///< destroyed ones at work, too
  int created TC_GUARDED_BY(mutex) = 0;
  int64_t delay_us TC_GUARDED_BY(mutex) = 0;
  std::map<int, int64_t> delay_of_nth TC_GUARDED_BY(mutex);

  StreamPointer Create(bool blocking, int64_t delay) TC_REQUIRES(mutex) {
    auto stream = std::make_shared<Stream>(blocking, delay);
    stream->Start();
    std::erase_if(all, [](const auto& other) { return other.expired(); });
    all.push_back(stream);
    return stream;
  }

  std::vector<StreamPointer> Living() TC_REQUIRES(mutex) {
    std::vector<StreamPointer> living;
    for (const auto& weak : all) {
      if (StreamPointer stream = weak.lock()) living.push_back(std::move(stream));
    }
    return living;
  }
};

Streams& TheStreams() {
  static Streams& streams = *new Streams;
  return streams;
}

bool IsLegacy(cudaStream_t handle) { return handle == nullptr || handle == cudaStreamLegacy; }

cudaError_t CreateStream(const char* name, cudaStream_t* stream, unsigned flags) {
  return Serve(name, [&] {
    if (stream == nullptr || (flags & ~unsigned{cudaStreamNonBlocking}) != 0) {
      return cudaErrorInvalidValue;
    }
    Streams& streams = TheStreams();
    MutexLock lock(streams.mutex);
    const auto own = streams.delay_of_nth.find(++streams.created);
    auto created = streams.Create(
        flags == 0, own != streams.delay_of_nth.end() ? own->second : streams.delay_us);
    *stream = new CUstream_st{created};
    streams.by_handle[*stream] = std::move(created);
    return cudaSuccess;
  });
}

/// What host functions are called with: known, as a driver's queue knows it, also where a corrupted
/// context never calls them, so that it is no leak of theirs.
/// Thread: any.
class Arguments {
 public:
  uint64_t Add(void* argument) TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    waiting_[++last_] = argument;
    return last_;
  }
  void Remove(uint64_t call) TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    waiting_.erase(call);
  }

 private:
  Mutex mutex_;
  uint64_t last_ TC_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, void*> waiting_ TC_GUARDED_BY(mutex_);
};

Arguments& Uncalled() {
  static Arguments& arguments = *new Arguments;  // streams outlive what is destroyed at exit
  return arguments;
}

}  // namespace

StreamPointer FindStream(cudaStream_t handle) {
  Streams& streams = TheStreams();
  MutexLock lock(streams.mutex);
  if (IsLegacy(handle)) {
    if (streams.legacy == nullptr) streams.legacy = streams.Create(true, streams.delay_us);
    return streams.legacy;
  }
  const auto found = streams.by_handle.find(handle);
  return found == streams.by_handle.end() ? nullptr : found->second;
}

void Submit(const StreamPointer& stream, int poison, std::function<void()> work) {
  if (poison != 0) work = [poison] { Poison(poison); };
  Streams& streams = TheStreams();
  MutexLock lock(streams.mutex);
  std::vector<std::pair<StreamPointer, uint64_t>> before;
  if (stream == streams.legacy) {
    for (const StreamPointer& other : streams.Living()) {
      if (other != stream && other->blocking()) before.emplace_back(other, other->given());
    }
  } else if (stream->blocking() && streams.legacy != nullptr) {
    before.emplace_back(streams.legacy, streams.legacy->given());
  }
  stream->Push([before = std::move(before), work = std::move(work)] {
    for (const auto& [other, given] : before) other->WaitUntilDone(given);
    if (PoisonError() == 0) work();
  });
}

void Drain(const StreamPointer& stream) { stream->WaitUntilDone(stream->given()); }

void DrainAll() {
  Streams& streams = TheStreams();
  std::vector<StreamPointer> living;
  {
    MutexLock lock(streams.mutex);
    living = streams.Living();
  }
  for (const StreamPointer& stream : living) Drain(stream);
}

void SetDelayOfAll(int64_t microseconds) {
  Streams& streams = TheStreams();
  MutexLock lock(streams.mutex);
  streams.delay_us = microseconds;
  streams.delay_of_nth.clear();
  for (const StreamPointer& stream : streams.Living()) stream->SetDelay(microseconds);
}

void SetDelayOfNth(int nth, int64_t microseconds) {
  Streams& streams = TheStreams();
  MutexLock lock(streams.mutex);
  streams.delay_of_nth[nth] = microseconds;
}

void SetDelay(CudaStream stream, int64_t microseconds) {
  if (stream == nullptr) return SetDelayOfAll(microseconds);
  const StreamPointer found = FindStream(stream);
  TC_CHECK(found != nullptr);
  found->SetDelay(microseconds);
}

}  // namespace thermocline::fakecuda

using namespace thermocline;
using namespace thermocline::fakecuda;

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return CreateStream(__func__, stream, 0); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return CreateStream(__func__, stream, flags);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return CreateStream(__func__, stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return Serve(__func__, [&] {
    if (least != nullptr) *least = 0;
    if (greatest != nullptr) *greatest = -5;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return Serve(__func__, [&] {
    if (IsLegacy(stream)) return cudaErrorInvalidResourceHandle;
    Streams& streams = TheStreams();
    MutexLock lock(streams.mutex);
    const auto found = streams.by_handle.find(stream);
    if (found == streams.by_handle.end()) return cudaErrorInvalidResourceHandle;
    found->second->Close();
    streams.by_handle.erase(found);
    delete stream;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return Serve(__func__, [&] {
    const StreamPointer found = FindStream(stream);
    if (found == nullptr) return static_cast<int>(cudaErrorInvalidResourceHandle);
    Drain(found);
    return PoisonError();
  });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return Serve(__func__, [&] {
    const StreamPointer found = FindStream(stream);
    if (found == nullptr) return static_cast<int>(cudaErrorInvalidResourceHandle);
    if (!found->IsIdle()) return static_cast<int>(cudaErrorNotReady);
    return PoisonError();
  });
}

cudaError_t cudaDeviceSynchronize() {
  return Serve(__func__, [] {
    DrainAll();
    return PoisonError();
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t handle, cudaHostFn_t function, void* argument) {
  return ServeOnStream(__func__, handle, [&](const StreamPointer& stream, int poison) {
    if (function == nullptr) return cudaErrorInvalidValue;
    const uint64_t call = Uncalled().Add(argument);
    Submit(stream, poison, [function, argument, call] {
      Uncalled().Remove(call);
      function(argument);
    });
    return cudaSuccess;
  });
}
