#include "tests/faults/warm_probe.h"

#include <algorithm>

namespace thermocline::faults {
namespace {

constexpr std::chrono::milliseconds kStep{2};
constexpr size_t kMostGets = 1 << 20;

}  // namespace

WarmProbe::WarmProbe(const Subject& subject, int first, int count)
    : caller_(subject.socket()), thread_([this, first, count] { Run(first, count); }) {}

WarmProbe::~WarmProbe() {
  stops_ = true;
  if (thread_.joinable()) thread_.join();
}

void WarmProbe::Run(int first, int count) {
  for (int i = 0; !stops_ && times_ms_.size() < kMostGets; ++i) {
    Got got = Got::kError;
    times_ms_.push_back(Milliseconds([&] { got = caller_.Get(first + i % count); }));
    if (got == Got::kRight) {
      ++right_;
    } else {
      ++not_right_;
    }
    std::this_thread::sleep_for(kStep);
  }
}

WarmPace WarmProbe::Stop() {
  stops_ = true;
  thread_.join();
  WarmPace pace{.gets = static_cast<int>(times_ms_.size()), .not_right = not_right_};
  if (times_ms_.empty()) return pace;
  std::sort(times_ms_.begin(), times_ms_.end());
  pace.median_ms = times_ms_[times_ms_.size() / 2];
  pace.longest_ms = times_ms_.back();
  return pace;
}

}  // namespace thermocline::faults
