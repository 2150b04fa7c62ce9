#include "client/fork.h"

#include <pthread.h>

#include <atomic>

namespace thermocline {
inline namespace client_v1 {
namespace {

std::atomic<uint64_t> generation{0};

void InChild() { generation.fetch_add(1, std::memory_order_relaxed); }

}  // namespace

uint64_t ForkGeneration() {
  static const bool registered = ::pthread_atfork(nullptr, nullptr, &InChild) == 0;
  (void)registered;
  return generation.load(std::memory_order_relaxed);
}

}  // namespace client_v1
}  // namespace thermocline
