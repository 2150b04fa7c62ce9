// How a siege takes away what is not on disk: the power, or the memory alone.
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "base/check.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "tests/crash/siege.h"

namespace thermocline::crash {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kMomentPatience{500};
constexpr uint64_t kMostAfterMomentUs = 3000;
constexpr uint64_t kMostWithoutPowerMs = 200;
constexpr size_t kLoadsAfterLoss = 40;
constexpr milliseconds kLoadPatience{5000};

/// Until a file in `directory` comes, or one goes.
void AwaitFile(const std::string& directory, uint32_t event) {
  const UniqueFd notify(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!notify || ::inotify_add_watch(notify.get(), directory.c_str(), event) < 0) return;
  pollfd ready{.fd = notify.get(), .events = POLLIN, .revents = 0};
  ::poll(&ready, 1, static_cast<int>(kMomentPatience.count()));
}

}  // namespace

bool Siege::MountLoopDisk() {
  disk_ = std::make_unique<LoopDisk>(directories_.arena + ".disk", directories_.root + "/disk");
  const absl::Status made = disk_->Make(variant_.loop_mib * MiB);
  if (made.ok()) {
    std::filesystem::create_directory(directories_.data);
    return true;
  }
  report_.skipped = "a loop device cannot be mounted here (" + std::string(made.message()) + ")";
  return false;
}

/// A third of them while a file of the store has just come: a segment, a log. A third while one
/// has just gone: a segment that was given up, or folded into others.
void Siege::AwaitMoment() {
  const uint64_t kind = Uniform(rng_, 0, 2);
  if (kind == 0) return;
  AwaitFile(directories_.data + "/store/db", kind == 1 ? IN_CREATE | IN_MOVED_TO : IN_DELETE);
  std::this_thread::sleep_for(std::chrono::microseconds(Uniform(rng_, 0, kMostAfterMomentUs)));
}

/// The daemon, and its clients, find the disk gone before they go themselves.
void Siege::CutPower() {
  ledger_.counters().cutting_power = 1;
  const absl::Status cut = disk_->Cut();
  TC_CHECK(cut.ok());
  ++report_.cuts;
  std::this_thread::sleep_for(milliseconds(Uniform(rng_, 0, kMostWithoutPowerMs)));
  EndDaemon();
  crew_.Disband();
  ledger_.counters().cutting_power = 0;
  LoseMemory();
  --report_.reboots;  // it is counted as a cut
  const absl::Status back = disk_->Remount();
  if (!back.ok()) watcher_.Violation("the disk does not come back: " + std::string(back.message()));
}

void Siege::LoseMemory() {
  TC_CHECK(!daemon_.running());
  watcher_.Leave();
  for (const auto& entry : std::filesystem::directory_iterator(directories_.arena)) {
    std::filesystem::remove(entry.path());
  }
  ++report_.reboots;
}

/// Returns once they commit.
void Siege::StartLoad() {
  const uint64_t before = ledger_.counters().committed_blocks;
  const auto deadline = std::chrono::steady_clock::now() + kLoadPatience;
  crew_.StartAll();
  while (ledger_.counters().committed_blocks == before) {
    if (std::chrono::steady_clock::now() > deadline) return;
    std::this_thread::sleep_for(milliseconds(1));
  }
}

void Siege::LookAfterLoss() {
  if (variant_.roomy) watcher_.CheckDurable(kLoadsAfterLoss);
}

}  // namespace thermocline::crash
