#include "bench/pinned.h"

#include <cerrno>
#include <cstring>
#include <vector>

namespace thermocline::bench {
namespace {

bool PinTo(int processor) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(processor, &one);
  return sched_setaffinity(0, sizeof one, &one) == 0;
}

/// What the process may run on; none where threads may not be pinned.
struct Processors {
  std::vector<int> numbers;
  std::string refusal;
};

Processors Look() {
  Processors found;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    return {.numbers = {}, .refusal = std::strerror(errno)};
  }
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &allowed)) found.numbers.push_back(i);
  }
  if (!PinTo(found.numbers[0])) return {.numbers = {}, .refusal = std::strerror(errno)};
  sched_setaffinity(0, sizeof allowed, &allowed);
  return found;
}

const Processors& Ours() {
  static const Processors processors = Look();
  return processors;
}

}  // namespace

std::string ProcessorsFor(int threads) {
  const auto& numbers = Ours().numbers;
  if (static_cast<size_t>(threads) > numbers.size()) return "";
  std::string list;
  for (int i = 0; i < threads; ++i) {
    list += (i == 0 ? "" : ",") + std::to_string(numbers[static_cast<size_t>(i)]);
  }
  return list;
}

std::string PinningOf(int threads) {
  const Processors& ours = Ours();
  const std::string list = ProcessorsFor(threads);
  if (!list.empty()) return "pinned to " + list;
  if (!ours.refusal.empty()) return "not pinned (" + ours.refusal + ")";
  return "not pinned (processors: " + std::to_string(ours.numbers.size()) + ")";
}

PinnedThread::PinnedThread(int thread, int threads) {
  const auto& numbers = Ours().numbers;
  if (static_cast<size_t>(threads) > numbers.size()) return;
  is_pinned_ = sched_getaffinity(0, sizeof before_, &before_) == 0 &&
               PinTo(numbers[static_cast<size_t>(thread)]);
}

PinnedThread::~PinnedThread() {
  if (is_pinned_) sched_setaffinity(0, sizeof before_, &before_);
}

}  // namespace thermocline::bench
