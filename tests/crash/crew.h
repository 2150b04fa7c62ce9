// The client processes of a test that kills daemons: started, stopped (SIGSTOP) and killed from
// outside, and looked after when they end by themselves.
#pragma once
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace thermocline::crash {

/// Thread: one.
/// Owner:  disbands them in its destructor.
class Crew {
 public:
  struct Options {
    std::vector<std::string> command;  // "--seed N" is added
    std::string log;
    std::function<uint64_t()> next_seed;
    std::function<void(const std::string&)> violation;
  };
  Crew(Options options, size_t players);
  ~Crew() { Disband(); }
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  size_t size() const { return players_.size(); }
  pid_t pid(size_t player) const { return players_[player].pid; }
  bool is_running(size_t player) const { return players_[player].pid > 0; }
  bool is_stopped(size_t player) const { return players_[player].stopped; }
  size_t running() const;
  uint64_t starts() const { return starts_; }

  void StartAll();
  /// Continues whoever has been stopped for long enough, and starts whoever is due.
  void Tend();
  void Stop(size_t player, std::chrono::milliseconds time);
  /// kill -9; another is started after `pause`, by Tend.
  void Kill(size_t player, std::chrono::milliseconds pause = {});
  /// Waits until they have left, as they have been told to through the ledger. None is started
  /// after it.
  void Dismiss();
  /// Kills all that are left.
  void Disband();

 private:
  using SteadyTime = std::chrono::steady_clock::time_point;
  struct Player {
    pid_t pid = -1;
    bool stopped = false;
    SteadyTime resume_at;
    SteadyTime start_at;
  };
  void Start(Player& player);

  const Options options_;
  std::vector<Player> players_;
  bool dismissed_ = false;
  uint64_t starts_ = 0;
};

}  // namespace thermocline::crash
