// A named pool of threads with a bounded queue, strands on it: sequences of tasks that never run
// two at a time, and shares of it: queues that have their turns one after the other. Boost.Asio
// inside, kept out of this header.
//
// Who may wait for whom: work that comes from outside is Post()ed and can be refused, which is how
// a slow device pushes back. The answer to work that was admitted is PostCompletion()ed and is not
// refused for lack of room: its number is bounded by what was admitted. Stop() refuses new work and
// runs everything else to its end, completions included.
#pragma once
#include <absl/functional/any_invocable.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

namespace thermocline {

using Task = absl::AnyInvocable<void()>;

class Share;
class Strand;

/// Thread: any. Tasks must not throw: an exception ends the process.
class Executor {
 public:
  struct Options {
    std::string name;           // of the threads, as top shows it; 15 characters count
    int thread_count = 1;       // 1 to 256
    size_t queue_limit = 4096;  // tasks waiting or running, and as many timers
  };
  explicit Executor(Options options);
  /// Stops.
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// False when the queue is full or the executor stops; then `task` is destroyed unrun.
  [[nodiscard]] bool Post(Task task);
  /// As Post, but never refused for a full queue, and accepted from draining tasks. False only
  /// after the last task has ended.
  bool PostCompletion(Task task);
  /// Runs `task` once `delay` has passed. Timers that have not fired when the executor stops are
  /// dropped. False when there are too many timers or the executor stops.
  [[nodiscard]] bool PostAfter(std::chrono::steady_clock::duration delay, Task task);

  Strand MakeStrand();
  Share MakeShare();

  /// Refuses new work, runs what was admitted, joins the threads. Idempotent.
  /// REQUIRES: not called from a task of this executor.
  void Stop();

  /// Tasks waiting or running.
  size_t queued() const;

 private:
  friend class Share;
  friend class Strand;
  struct State;
  std::shared_ptr<State> state_;
};

/// A sequence of tasks of one executor, run in the order posted, one at a time. A copy is the same
/// strand. It may outlive the executor, and then accepts nothing.
/// Thread: any.
class Strand {
 public:
  [[nodiscard]] bool Post(Task task);
  bool PostCompletion(Task task);
  [[nodiscard]] bool PostAfter(std::chrono::steady_clock::duration delay, Task task);
  /// As PostAfter, but never refused for too many timers: for what goes on by itself, of which
  /// there is little.
  bool PostCompletionAfter(std::chrono::steady_clock::duration delay, Task task);
  /// Whether the caller is a task of this strand: for TC_CHECK.
  bool running_here() const;

 private:
  friend class Executor;
  struct Impl;
  explicit Strand(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

/// A queue of its own on an executor, bounded by itself. The threads take one task of each share in
/// turn, so that whoever posts much waits behind its own: before a task that is next in its share
/// at most one of every other share begins. A copy is the same share. It may outlive the executor,
/// and then accepts nothing. Thread: any.
class Share {
 public:
  [[nodiscard]] bool Post(Task task);
  bool PostCompletion(Task task);

 private:
  friend class Executor;
  struct Impl;
  explicit Share(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

}  // namespace thermocline
