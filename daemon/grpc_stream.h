// Cancelling a streaming call from outside: of its session, which has ended while gRPC waits for a
// client that neither reads nor goes away.
#pragma once
#include <grpcpp/grpcpp.h>

#include <thread>

#include "base/mutex.h"

namespace thermocline {

/// Keeps the call's context alive while another thread cancels it.
/// Owner:  the call's reactor, which whoever calls Cancel() keeps alive for so long.
/// Thread: any.
class CancelGate {
 public:
  explicit CancelGate(grpc::CallbackServerContext& context) : context_(context) {}

  void Cancel() TC_EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (over_ || cancelling_ != std::thread::id()) return;
      cancelling_ = std::this_thread::get_id();
    }
    context_.TryCancel();  // gRPC may call the reactor from inside, OnDone included
    MutexLock lock(mutex_);
    cancelling_ = std::thread::id();
    cancelled_.NotifyAll();
  }

  /// To be called in OnDone: when it returns nobody else uses the context.
  void Over() TC_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    over_ = true;
    while (cancelling_ != std::thread::id() && cancelling_ != std::this_thread::get_id()) {
      cancelled_.Wait(mutex_);
    }
  }

 private:
  grpc::CallbackServerContext& context_;
  Mutex mutex_;
  CondVar cancelled_;
  bool over_ TC_GUARDED_BY(mutex_) = false;
  std::thread::id cancelling_ TC_GUARDED_BY(mutex_);
};

}  // namespace thermocline
