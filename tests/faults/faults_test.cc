// The trials that other caches failed (tests/faults/peers.py has them), done to Thermocline: a row
// each: what was done, what happened, and whether that was right. `right`: no wrong byte, no wait
// beyond a deadline, nothing lost that was promised; `late`: so in the end, and wrong bytes before;
// `wrong`, `hung` as they say. Exit code 1 when any is wrong or hung.
//
//   faults_test [--short] [--json FILE]
#include <signal.h>
#include <sys/wait.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/units.h"
#include "tests/faults/subject.h"

namespace thermocline::faults {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr double kSoonMs = 3000;           // a call that takes longer has hung
constexpr milliseconds kImpatience{1000};  // of calls, where a trial is about how long they take
constexpr seconds kScrubPatience{60}, kRecoveryPatience{60};
constexpr int kFew = 16;

struct Outcome {
  bool right = false;
  std::string what;
  bool hung = false;
  bool late = false;  // right in the end, and wrong before
};

struct Scale {
  bool is_short = false;
  int Values(int full) const { return is_short ? full / 6 : full; }
  std::string MiBs(int full) const { return std::to_string(is_short ? full / 4 : full) + "MiB"; }
};

std::string Text(const char* format, double value) {
  char text[160];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

/// How many of `count` puts failed.
int PutAll(Subject& subject, int count) {
  int failed = 0;
  for (int key = 0; key < count; ++key) {
    const absl::Status put = subject.Put(key);
    if (!put.ok() && ++failed == 1) std::printf("put %d: %s\n", key, put.ToString().c_str());
  }
  return failed;
}

std::string Binaries() {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().string();
}

Outcome FlipInMemoryAlways(const Scale&) {
  Subject subject({.binaries = Binaries()});
  const int failed = PutAll(subject, kFew);
  const int flips = subject.FlipInMemory();
  subject.Reconnect(true);
  const Tally tally = subject.GetAll(kFew);
  return {.right = failed == 0 && flips == kFew && tally.wrong == 0 && tally.misses == kFew,
          .what = "verify = always, read at once: of " + std::to_string(flips) + " values " +
                  tally.ToString()};
}

Outcome FlipInMemoryScrubbed(const Scale&) {
  Subject subject({.binaries = Binaries()});
  const int failed = PutAll(subject, kFew);
  const int flips = subject.FlipInMemory();
  const Tally at_once = subject.GetAll(kFew);
  const auto end = steady_clock::now() + kScrubPatience;
  const double ms = Milliseconds([&] {
    while (subject.CorruptBlocks() < kFew && steady_clock::now() < end) {
      std::this_thread::sleep_for(milliseconds(10));
    }
  });
  const Tally tally = subject.GetAll(kFew);
  return {.right = failed == 0 && flips == kFew && tally.misses == kFew,
          .what = "by default, read at once: " + at_once.ToString() +
                  Text("; after %.1f s the scrubber had found them: ", ms / 1e3) + tally.ToString(),
          .late = at_once.wrong > 0};
}

Outcome FlipOnDisk(const Scale& scale) {
  Subject subject({.binaries = Binaries(), .cold_capacity = "1GiB"});
  const int count = scale.Values(256);
  const int failed = PutAll(subject, count);
  const absl::Status flushed = subject.Flush();
  subject.Shutdown();
  const int flips = subject.FlipOnDisk();
  subject.Start();
  const Tally tally = subject.GetAll(count);
  return {.right = failed == 0 && flushed.ok() && flips >= count && tally.wrong == 0 &&
                   tally.right == 0 && tally.errors == 0,
          .what = "of " + std::to_string(count) + " flipped values " + tally.ToString()};
}

Outcome CutFile(const Scale&) {
  Subject subject({.binaries = Binaries(), .cold_capacity = "1GiB"});
  const int failed = PutAll(subject, kFew);
  const absl::Status flushed = subject.Flush();
  subject.Shutdown();
  subject.CutLargestFile();
  subject.Start();
  const Tally tally = subject.GetAll(kFew);
  const absl::Status put = subject.Put(kFew);
  return {.right = failed == 0 && flushed.ok() && tally.wrong == 0 && tally.errors == 0 &&
                   put.ok() && subject.Get(kFew) == Got::kRight,
          .what = "started; of " + std::to_string(kFew) + " values " + tally.ToString() +
                  "; a new put and get went well"};
}

/// The exit code of thermoctl.
int Thermoctl(const Subject& subject, std::vector<std::string> words) {
  std::vector<std::string> all = {Binaries() + "/thermoctl", "--socket", subject.socket()};
  all.insert(all.end(), words.begin(), words.end());
  const auto status = crash::WaitFor(crash::Spawn(all, "/dev/null"), seconds(120));
  return status && WIFEXITED(*status) ? WEXITSTATUS(*status) : -1;
}

Outcome PutOther(const Scale&) {
  Subject subject({.binaries = Binaries()});
  char directory[] = "/tmp/tc-fault-XXXXXX";
  if (::mkdtemp(directory) == nullptr) return {.what = "no directory"};
  const std::string one = std::string(directory) + "/one", two = std::string(directory) + "/two";
  const std::string got = std::string(directory) + "/got";
  std::ofstream(one) << "one value";
  std::ofstream(two) << "another value";
  const int first = Thermoctl(subject, {"put", "--name", "key", one});
  const int second = Thermoctl(subject, {"put", "--name", "key", two});
  const int get = Thermoctl(subject, {"get", "--name", "key", got});
  std::ifstream file(got);
  const std::string content((std::istreambuf_iterator<char>(file)), {});
  std::filesystem::remove_all(directory);
  return {.right = first == 0 && second == 1 && get == 0 && content == "one value",
          .what = second == 1 ? "refused, and says so; a get gives the value that was acknowledged"
                              : "not refused: exit codes " + std::to_string(first) + ", " +
                                    std::to_string(second) + ", " + std::to_string(get)};
}

Outcome Burst(const Scale& scale) {
  Subject subject({.binaries = Binaries(), .warm_capacity = scale.MiBs(256)});
  const int count = scale.Values(600);
  const int failed = PutAll(subject, count);
  const Tally tally = subject.GetAll(count);
  return {.right = failed == 0 && tally.wrong == 0 && tally.errors == 0 &&
                   subject.Get(count - 1) == Got::kRight,
          .what = std::to_string(failed) + " of " + std::to_string(count) + " puts failed; then " +
                  tally.ToString()};
}

Outcome OwnerKilled(const Scale&) {
  Subject subject({.binaries = Binaries()});
  const int failed = PutAll(subject, kFew);
  subject.Reconnect(false, kImpatience);
  subject.Kill();
  Got got = Got::kRight;
  double worst_ms = 0;
  Tally tally;
  for (int key = 0; key < kFew; ++key) {
    worst_ms = std::max(worst_ms, Milliseconds([&] { got = subject.Get(key); }));
    tally.Add(got);
  }
  return {.right = failed == 0 && tally.wrong == 0 && worst_ms < kSoonMs,
          .what = Text("a get took %.1f ms at most: ", worst_ms) + tally.ToString(),
          .hung = worst_ms >= kSoonMs};
}

Outcome OwnerStopped(const Scale& scale) {
  Subject subject({.binaries = Binaries()});
  const int failed = PutAll(subject, kFew);
  subject.Reconnect(false, kImpatience);
  subject.Signal(SIGSTOP);
  const auto end = steady_clock::now() + seconds(scale.is_short ? 2 : 15);
  Tally tally;
  double worst_ms = 0;
  while (steady_clock::now() < end) {
    Got got = Got::kMiss;
    worst_ms = std::max(worst_ms, Milliseconds([&] { got = subject.Get(0); }));
    tally.Add(got);
    std::this_thread::sleep_for(milliseconds(100));
  }
  double put_ms = 0;
  put_ms = Milliseconds([&] { subject.Put(kFew).IgnoreError(); });
  subject.Signal(SIGCONT);
  Got after = Got::kMiss;
  const auto given_up = steady_clock::now() + kRecoveryPatience;
  while ((after = subject.Get(0)) != Got::kRight && steady_clock::now() < given_up) {
    std::this_thread::sleep_for(milliseconds(100));
  }
  return {.right = failed == 0 && tally.wrong == 0 && std::max(worst_ms, put_ms) < kSoonMs &&
                   after == Got::kRight,
          .what = Text("while stopped a get took %.1f ms at most: ", worst_ms) + tally.ToString() +
                  Text("; a put gave up after %.0f ms", put_ms) +
                  (after == Got::kRight ? "; then all is as before" : "; it did not recover"),
          .hung = std::max(worst_ms, put_ms) >= kSoonMs};
}

Outcome Restart(const Scale&) {
  Subject subject({.binaries = Binaries()});
  const int failed = PutAll(subject, kFew);
  subject.Kill();
  const double ms = Milliseconds([&] { subject.Start(); });
  const Tally tally = subject.GetAll(kFew);
  return {.right = failed == 0 && tally.right == kFew,
          .what = Text("serving again after %.0f ms: ", ms) + tally.ToString()};
}

Outcome Later(const Scale& scale) {
  Subject subject({.binaries = Binaries(), .warm_capacity = "256MiB", .cold_capacity = "2GiB"});
  const int count = scale.Values(762);
  const int failed = PutAll(subject, count);
  std::this_thread::sleep_for(seconds(scale.is_short ? 1 : 12));
  const Tally tally = subject.GetAll(count);
  return {
      .right = failed == 0 && tally.right == count,
      .what = "of " + std::to_string(count - failed) + " acknowledged puts " + tally.ToString()};
}

Outcome NeverPut(const Scale&) {
  Subject subject({.binaries = Binaries()});
  Got got = Got::kError;
  const double ms = Milliseconds([&] { got = subject.Get(0); });
  return {.right = got == Got::kMiss && ms < kSoonMs,
          .what = Text("a miss, after %.2f ms", ms),
          .hung = ms >= kSoonMs};
}

struct Trial {
  const char* name;  // as in peers.py
  Outcome (*run)(const Scale&);
};

constexpr Trial kTrials[] = {
    {"a byte flipped in memory", FlipInMemoryAlways},
    {"a byte flipped in memory", FlipInMemoryScrubbed},
    {"a byte flipped on disk", FlipOnDisk},
    {"a file on disk cut in half", CutFile},
    {"another value put under a key", PutOther},
    {"600 MiB put into 256 MiB", Burst},
    {"kill -9 of who holds the values", OwnerKilled},
    {"SIGSTOP of who holds the values", OwnerStopped},
    {"kill -9 of the server, and start", Restart},
    {"762 MiB into memory and disk, read 12 s later", Later},
    {"a key that was never put", NeverPut},
};

int Main(int argc, char** argv) {
  CLI::App app("Trials that other caches failed, done to Thermocline.");
  Scale scale;
  std::string json_file;
  app.add_flag("--short", scale.is_short, "Fewer values and shorter waits");
  app.add_option("--json", json_file, "Writes the rows there");
  CLI11_PARSE(app, argc, argv);
  nlohmann::json rows = nlohmann::json::array();
  int failures = 0;
  for (const Trial& trial : kTrials) {
    const Outcome outcome = trial.run(scale);
    const char* verdict = outcome.hung     ? "hung"
                          : !outcome.right ? "wrong"
                          : outcome.late   ? "late"
                                           : "right";
    failures += outcome.right ? 0 : 1;
    std::printf("%-46s %-6s %s\n", trial.name, verdict, outcome.what.c_str());
    std::fflush(stdout);
    rows.push_back({{"trial", trial.name},
                    {"store", "thermocline"},
                    {"verdict", verdict},
                    {"outcome", outcome.what}});
  }
  if (!json_file.empty()) std::ofstream(json_file) << rows.dump(1) << "\n";
  std::printf("\n%s: %zu trials, %d not right\n", failures == 0 ? "PASS" : "FAIL",
              std::size(kTrials), failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace thermocline::faults

int main(int argc, char** argv) { return thermocline::faults::Main(argc, argv); }
