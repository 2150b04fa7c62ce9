#include "base/executor.h"

#include <pthread.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <deque>
#include <thread>
#include <unordered_set>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"

namespace thermocline {
namespace asio = boost::asio;

// All of it guarded by the mutex of the executor's state.
struct Share::Impl {
  explicit Impl(std::shared_ptr<Executor::State> owner) : state(std::move(owner)) {}
  const std::shared_ptr<Executor::State> state;
  std::deque<Task> waiting;
  size_t pending = 0;  // with those that run
};

// Shared with strands and timers, so that a late Post meets a stopped state, not a dead one.
struct Executor::State : std::enable_shared_from_this<Executor::State> {
  enum class Phase { kRunning, kDraining, kStopped };

  explicit State(size_t limit) : queue_limit(limit) {}

  // `share`: nullptr for what is posted to the executor itself.
  bool Admit(bool completion, Share::Impl* share = nullptr) TC_REQUIRES(mutex) {
    if (phase == Phase::kStopped) return false;
    const size_t queued = share != nullptr ? share->pending : pending - pending_in_shares;
    if (!completion && (phase != Phase::kRunning || queued >= queue_limit)) return false;
    ++pending;
    if (share == nullptr) return true;
    ++share->pending;
    ++pending_in_shares;
    return true;
  }

  void Leave(Share::Impl* share = nullptr) {
    MutexLock lock(mutex);
    if (share != nullptr) {
      --share->pending;
      --pending_in_shares;
    }
    if (--pending == 0) drained.NotifyAll();
  }

  template <typename Context>
  bool Submit(Context&& context, Task task, bool completion) {
    {
      MutexLock lock(mutex);
      if (!Admit(completion)) return false;
    }
    asio::post(context, [this, task = std::move(task)]() mutable noexcept {
      task();
      task = nullptr;  // what it captured dies before Stop() may return
      Leave();
    });
    return true;
  }

  // Each task posts one turn; whose task that turn runs is seen when it comes.
  bool SubmitTo(const std::shared_ptr<Share::Impl>& share, Task task, bool completion) {
    {
      MutexLock lock(mutex);
      if (!Admit(completion, share.get())) return false;
      if (share->waiting.empty()) turns.push_back(share);
      share->waiting.push_back(std::move(task));
    }
    asio::post(context, [this]() noexcept { RunTurn(); });
    return true;
  }

  void RunTurn() {
    std::shared_ptr<Share::Impl> share;
    Task task;
    {
      MutexLock lock(mutex);
      share = std::move(turns.front());
      turns.pop_front();
      task = std::move(share->waiting.front());
      share->waiting.pop_front();
      if (!share->waiting.empty()) turns.push_back(share);
    }
    task();
    task = nullptr;
    Leave(share.get());
  }

  template <typename Context>
  bool SubmitAfter(Context&& context, std::chrono::steady_clock::duration delay, Task task,
                   bool completion) {
    MutexLock lock(mutex);
    if (phase != Phase::kRunning) return false;
    if (!completion && timers.size() >= queue_limit) return false;
    auto timer = std::make_shared<asio::steady_timer>(context, delay);
    timers.insert(timer);
    timer->async_wait([this, timer, task = std::move(task)](const auto& error) mutable noexcept {
      {
        MutexLock lock(mutex);
        timers.erase(timer);
        if (error || phase != Phase::kRunning) return;
        ++pending;
      }
      task();
      task = nullptr;
      Leave();
    });
    return true;
  }

  // Afterwards the context has nothing left to do but to drop the tasks of unfired timers: they may
  // hold strands, which hold this.
  void Drain() {
    MutexLock lock(mutex);
    if (phase == Phase::kRunning) phase = Phase::kDraining;
    while (pending > 0) drained.Wait(mutex);
    phase = Phase::kStopped;
    for (const auto& timer : timers) timer->cancel();
  }

  void Run() noexcept { context.run(); }

  const size_t queue_limit;
  Mutex mutex;
  CondVar drained;
  Phase phase TC_GUARDED_BY(mutex) = Phase::kRunning;
  size_t pending TC_GUARDED_BY(mutex) = 0;
  size_t pending_in_shares TC_GUARDED_BY(mutex) = 0;                    // of these
  std::deque<std::shared_ptr<Share::Impl>> turns TC_GUARDED_BY(mutex);  // shares with tasks waiting
  std::unordered_set<std::shared_ptr<asio::steady_timer>> timers TC_GUARDED_BY(mutex);
  asio::io_context context;
  asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
  std::vector<std::thread> threads;
};

struct Strand::Impl {
  explicit Impl(std::shared_ptr<Executor::State> owner)
      : state(std::move(owner)), strand(state->context.get_executor()) {}
  std::shared_ptr<Executor::State> state;
  asio::strand<asio::io_context::executor_type> strand;
};

Executor::Executor(Options options) : state_(std::make_shared<State>(options.queue_limit)) {
  TC_CHECK(options.thread_count >= 1 && options.thread_count <= 256);
  TC_CHECK(options.queue_limit >= 1);
  for (int i = 0; i < options.thread_count; ++i) {
    state_->threads.emplace_back([state = state_.get(), name = options.name.substr(0, 15)] {
      pthread_setname_np(pthread_self(), name.c_str());
      state->Run();
    });
  }
}

Executor::~Executor() { Stop(); }

bool Executor::Post(Task task) { return state_->Submit(state_->context, std::move(task), false); }

bool Executor::PostCompletion(Task task) {
  return state_->Submit(state_->context, std::move(task), true);
}

bool Executor::PostAfter(std::chrono::steady_clock::duration delay, Task task) {
  return state_->SubmitAfter(state_->context, delay, std::move(task), false);
}

Strand Executor::MakeStrand() { return Strand(std::make_shared<Strand::Impl>(state_)); }

Share Executor::MakeShare() { return Share(std::make_shared<Share::Impl>(state_)); }

void Executor::Stop() {
  for (const std::thread& thread : state_->threads) {
    TC_CHECK(thread.get_id() != std::this_thread::get_id());
  }
  state_->Drain();
  state_->work.reset();
  for (std::thread& thread : state_->threads) {
    if (thread.joinable()) thread.join();
  }
}

size_t Executor::queued() const {
  MutexLock lock(state_->mutex);
  return state_->pending;
}

bool Strand::Post(Task task) { return impl_->state->Submit(impl_->strand, std::move(task), false); }

bool Strand::PostCompletion(Task task) {
  return impl_->state->Submit(impl_->strand, std::move(task), true);
}

bool Strand::PostAfter(std::chrono::steady_clock::duration delay, Task task) {
  return impl_->state->SubmitAfter(impl_->strand, delay, std::move(task), false);
}

bool Strand::PostCompletionAfter(std::chrono::steady_clock::duration delay, Task task) {
  return impl_->state->SubmitAfter(impl_->strand, delay, std::move(task), true);
}

bool Strand::running_here() const { return impl_->strand.running_in_this_thread(); }

bool Share::Post(Task task) { return impl_->state->SubmitTo(impl_, std::move(task), false); }

bool Share::PostCompletion(Task task) {
  return impl_->state->SubmitTo(impl_, std::move(task), true);
}

}  // namespace thermocline
