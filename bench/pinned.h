// Threads that stay on a processor each, so that a ratio tells nothing of where the kernel has put
// them. Only those that start none themselves: theirs would have to share that processor.
#pragma once
#include <sched.h>

#include <string>

namespace thermocline::bench {

/// Of `threads` threads, one to a processor that the process may run on: their numbers, as in
/// "0,1". Empty: they are not pinned.
std::string ProcessorsFor(int threads);

/// "pinned to 0,1", or why not.
std::string PinningOf(int threads);

/// Pins the calling thread, number `thread` of `threads`, for as long as this is there.
/// Thread: its own. The first use in the process, of all here, is of a thread that is not pinned.
class PinnedThread {
 public:
  PinnedThread(int thread, int threads);
  ~PinnedThread();
  PinnedThread(const PinnedThread&) = delete;
  PinnedThread& operator=(const PinnedThread&) = delete;

 private:
  cpu_set_t before_;
  bool is_pinned_ = false;
};

}  // namespace thermocline::bench
