#include "tests/crash/crew.h"

#include <signal.h>
#include <sys/wait.h>

#include <algorithm>

#include "base/check.h"
#include "tests/crash/daemon_under_test.h"

namespace thermocline::crash {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

namespace {

constexpr milliseconds kPlayerPatience{60'000};

bool WasKilled(int wait_status) {
  return WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGKILL;
}

}  // namespace

Crew::Crew(Options options, size_t players) : options_(std::move(options)), players_(players) {}

void Crew::Disband() {
  for (Player& player : players_) {
    if (player.pid < 0) continue;
    ::kill(player.pid, SIGKILL);
    ::waitpid(player.pid, nullptr, 0);
    player.pid = -1;
  }
}

size_t Crew::running() const {
  return static_cast<size_t>(std::count_if(players_.begin(), players_.end(),
                                           [](const Player& player) { return player.pid > 0; }));
}

void Crew::StartAll() {
  for (Player& player : players_) Start(player);
}

void Crew::Start(Player& player) {
  std::vector<std::string> command = options_.command;
  command.insert(command.end(), {"--seed", std::to_string(options_.next_seed())});
  player = {};
  player.pid = Spawn(command, options_.log);
  ++starts_;
}

void Crew::Tend() {
  if (dismissed_) return;
  for (Player& player : players_) {
    const auto now = steady_clock::now();
    if (player.pid < 0) {
      if (now >= player.start_at) Start(player);
      continue;
    }
    if (player.stopped && now > player.resume_at) {
      ::kill(player.pid, SIGCONT);
      player.stopped = false;
    }
    const auto status = WaitFor(player.pid, milliseconds(0));
    if (!status) continue;
    if (!WasKilled(*status)) options_.violation("a client ended by " + DescribeExit(*status));
    Start(player);
  }
}

void Crew::Stop(size_t player, milliseconds time) {
  TC_CHECK(is_running(player));
  ::kill(players_[player].pid, SIGSTOP);
  players_[player].stopped = true;
  players_[player].resume_at = steady_clock::now() + time;
}

void Crew::Kill(size_t player, milliseconds pause) {
  TC_CHECK(is_running(player));
  ::kill(players_[player].pid, SIGKILL);
  WaitFor(players_[player].pid, kPlayerPatience);
  players_[player] = {.start_at = steady_clock::now() + pause};
}

void Crew::Dismiss() {
  dismissed_ = true;
  for (Player& player : players_) {
    if (player.pid < 0) continue;
    if (player.stopped) ::kill(player.pid, SIGCONT);
    const auto status = WaitFor(player.pid, kPlayerPatience);
    if (!status) {
      options_.violation("a client hangs: " + std::to_string(player.pid));
      ::kill(player.pid, SIGKILL);
      WaitFor(player.pid, kPlayerPatience);
    } else if (!(WIFEXITED(*status) && WEXITSTATUS(*status) == 0) && !WasKilled(*status)) {
      options_.violation("a client ended by " + DescribeExit(*status));
    }
    player.pid = -1;
  }
}

}  // namespace thermocline::crash
