#include "tests/faults/patient.h"

#include <algorithm>
#include <cstdio>
#include <thread>

#include "tests/faults/signs.h"

namespace thermocline::faults {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr int kFirstWarm = 100;
constexpr int kWarmValues = 8;
constexpr int kFirstNew = 1000;
constexpr int kNewValues = 112;      // the memory holds 56 beside the warm ones
constexpr double kStallMs = 10'000;  // a slow disk takes longer, a busy machine does not
constexpr int kHitsMeanwhile = 50;
constexpr milliseconds kHitsPatience{60'000};
constexpr double kPutMs = 10'000;  // its slot may be waited for, not the disk
constexpr milliseconds kSignPatience{60'000};
constexpr milliseconds kRecoveryPatience{90'000};
constexpr milliseconds kLook{50};
constexpr const char* kDegraded = "thermocline_tier_degraded{tier=\"cold\"";

std::string Text(const char* format, double first, double second) {
  char text[160];
  std::snprintf(text, sizeof(text), format, first, second);
  return text;
}

}  // namespace

void Findings::Tell(bool as_it_must_be, const std::string& what) {
  if (!text_.empty()) text_ += "; ";
  text_ += (as_it_must_be ? "" : "**WRONG:** ") + what;
  right_ = right_ && as_it_must_be;
}

bool Soon(const std::function<bool()>& condition, milliseconds within) {
  const auto deadline = steady_clock::now() + within;
  while (!condition()) {
    if (steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(kLook);
  }
  return true;
}

Patient::Patient(SubjectOptions options, Findings& findings)
    : subject_([&] {
        options.http = true;
        return options;
      }()),
      findings_(findings),
      next_key_(kFirstNew) {
  bool right = true;
  for (int key = 0; key < kColdValues; ++key) right = subject_.Put(key).ok() && right;
  const absl::Status flushed = subject_.Flush();
  if (!flushed.ok()) findings_.Tell(false, "flush: " + std::string(flushed.message()));
  for (int key = kFirstWarm; key < kFirstWarm + kWarmValues; ++key) {
    right = subject_.Put(key).ok() && subject_.PinWarm(key).ok() && right;
  }
  if (!right) findings_.Tell(false, "the trial's values could not be put");
}

Tally Patient::GetWarm() {
  Tally tally;
  for (int key = kFirstWarm; key < kFirstWarm + kWarmValues; ++key) tally.Add(subject_.Get(key));
  return tally;
}

void Patient::PutMany(bool may_refuse) {
  int failed = 0;
  double longest_ms = 0;
  for (int i = 0; i < kNewValues; ++i) {
    const double ms = Milliseconds([&] { failed += subject_.Put(next_key_++).ok() ? 0 : 1; });
    longest_ms = std::max(longest_ms, ms);
  }
  findings_.Tell(longest_ms < kPutMs && (may_refuse || failed == 0),
                 std::to_string(failed) + " of " + std::to_string(kNewValues) +
                     Text(" puts refused, %.0f ms at most", longest_ms, 0));
}

bool Patient::TakesWrites() {
  const int key = next_key_++;
  return subject_.Put(key).ok() && subject_.Flush(kWarmValues).ok() &&
         subject_.Get(key) == Got::kRight;
}

void Patient::StartProbe() {
  probe_ = std::make_unique<WarmProbe>(subject_, kFirstWarm, kWarmValues);
}

void Patient::TellHitsGoOn() {
  const int before = probe_->right();
  const bool go_on =
      Soon([&] { return probe_->right() >= before + kHitsMeanwhile; }, kHitsPatience);
  findings_.Tell(go_on, "hits in memory go on");
}

void Patient::StopProbe() {
  const WarmPace pace = probe_->Stop();
  probe_.reset();
  findings_.Tell(
      pace.gets > 0 && pace.not_right == 0 && pace.longest_ms < kStallMs,
      std::to_string(pace.gets) + " warm hits" +
          Text(" of %.1f ms, %.0f at most", pace.median_ms, pace.longest_ms) +
          (pace.not_right == 0 ? "" : ", " + std::to_string(pace.not_right) + " missed"));
}

void Patient::TellSigns(const std::string& state, const std::string& event) {
  std::string readyz;
  const bool told = Soon(
      [&] {
        readyz = Readyz();
        return readyz.find("\"degraded\"") != std::string::npos &&
               readyz.find(state) != std::string::npos && Metric(kDegraded) == 1 && Logged(event);
      },
      kSignPatience);
  if (told)
    return findings_.Tell(true,
                          "`/readyz`, `thermocline_tier_degraded` and `" + event + "` tell of it");
  findings_.Tell(false, "told by" +
                            std::string(readyz.find(state) == std::string::npos ? " no" : "") +
                            " /readyz (" + readyz + ")," + (Metric(kDegraded) == 1 ? "" : " no") +
                            " metric," + (Logged(event) ? "" : " no") + " log line " + event);
}

void Patient::TellRecovery() {
  const bool back = Soon(
      [&] {
        subject_.Put(next_key_++).IgnoreError();  // what is asked of the disk finds it well
        subject_.Get(0);
        return Readyz().find("\"degraded\"") == std::string::npos && Metric(kDegraded) == 0;
      },
      kRecoveryPatience);
  findings_.Tell(back && TakesWrites(), "healed, it is ready and takes writes again");
}

void Patient::TellLives() { findings_.Tell(subject_.Lives(), "the daemon lives"); }

std::string Patient::Readyz() const {
  std::string text = HttpGet(subject_.HttpPort(), "/readyz").value_or("no answer");
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

double Patient::Metric(const std::string& series) const {
  return MetricOf(HttpGet(subject_.HttpPort(), "/metrics").value_or(""), series);
}

bool Patient::Logged(const std::string& event) const {
  const std::string log = subject_.Log();
  size_t start = log.rfind(" starting");
  if (start == std::string::npos) start = 0;
  return log.find(event, start) != std::string::npos;
}

}  // namespace thermocline::faults
