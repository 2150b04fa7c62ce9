// A process that does nothing but live, for the tests of what is held for living processes.
#pragma once
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

namespace thermocline {

/// Spawned, so that it inherits no lock of the arena's.
class LivingProcess {
 public:
  LivingProcess() {
    char sleep[] = "sleep";
    char seconds[] = "600";
    char* arguments[] = {sleep, seconds, nullptr};
    EXPECT_EQ(::posix_spawnp(&pid_, sleep, nullptr, nullptr, arguments, nullptr), 0);
  }
  LivingProcess(const LivingProcess&) = delete;
  LivingProcess& operator=(const LivingProcess&) = delete;
  ~LivingProcess() { End(); }

  pid_t pid() const { return pid_; }
  /// Ends it, once.
  void End() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_ = 0;
};

}  // namespace thermocline
