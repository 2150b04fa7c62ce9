// Sleeping on a word of shared memory until another process changes it.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>

namespace thermocline {

/// Sleeps while `word` is `expected`, until somebody wakes it or `deadline` has passed. May return
/// early: look at the word again.
/// Thread: any, of any process that maps the word.
void FutexWait(const std::atomic<uint32_t>& word, uint32_t expected,
               std::chrono::steady_clock::time_point deadline);
/// Wakes all who sleep on `word`, whatever it is.
void FutexWake(const std::atomic<uint32_t>& word);

}  // namespace thermocline
