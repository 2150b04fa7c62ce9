// std::mutex with clang's thread-safety annotations. Not absl::Mutex: Debian builds it
// uninstrumented, which makes ThreadSanitizer report races that do not exist.
#pragma once
#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define TC_THREAD_ANNOTATION_(x) __attribute__((x))
#else
#define TC_THREAD_ANNOTATION_(x)
#endif
#define TC_CAPABILITY(x) TC_THREAD_ANNOTATION_(capability(x))
#define TC_SCOPED_CAPABILITY TC_THREAD_ANNOTATION_(scoped_lockable)
#define TC_GUARDED_BY(x) TC_THREAD_ANNOTATION_(guarded_by(x))
#define TC_PT_GUARDED_BY(x) TC_THREAD_ANNOTATION_(pt_guarded_by(x))
#define TC_REQUIRES(...) TC_THREAD_ANNOTATION_(requires_capability(__VA_ARGS__))
#define TC_EXCLUDES(...) TC_THREAD_ANNOTATION_(locks_excluded(__VA_ARGS__))
#define TC_ACQUIRE(...) TC_THREAD_ANNOTATION_(acquire_capability(__VA_ARGS__))
#define TC_RELEASE(...) TC_THREAD_ANNOTATION_(release_capability(__VA_ARGS__))
#define TC_NO_THREAD_SAFETY_ANALYSIS TC_THREAD_ANNOTATION_(no_thread_safety_analysis)

namespace thermocline {

class TC_CAPABILITY("mutex") Mutex {
 public:
  void lock() TC_ACQUIRE() { mutex_.lock(); }
  void unlock() TC_RELEASE() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class TC_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) TC_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() TC_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

/// A condition variable over Mutex. Waits may wake spuriously; loop on the condition.
class CondVar {
 public:
  void Wait(Mutex& mutex) TC_REQUIRES(mutex) { condition_.wait(mutex); }
  /// False when `deadline` passed without a wake-up.
  bool WaitUntil(Mutex& mutex, std::chrono::steady_clock::time_point deadline) TC_REQUIRES(mutex) {
    return condition_.wait_until(mutex, deadline) == std::cv_status::no_timeout;
  }
  void NotifyOne() { condition_.notify_one(); }
  void NotifyAll() { condition_.notify_all(); }

 private:
  std::condition_variable_any condition_;
};

}  // namespace thermocline
