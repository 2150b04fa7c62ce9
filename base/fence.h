// Fences, in a form that ThreadSanitizer's builds take.
#pragma once
#include <atomic>

namespace thermocline {

// ThreadSanitizer does not model fences and GCC says so; with nothing but atomics in shared memory
// there is nothing that it could misjudge.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wtsan"
#endif
/// Nothing before it is seen later than anything behind it. Two processes that each write a word
/// and then look at the other's need one between the two, or neither may see the other.
inline void FullFence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
/// What was read before it is older than what is read behind it.
inline void AcquireFence() { std::atomic_thread_fence(std::memory_order_acquire); }
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

}  // namespace thermocline
