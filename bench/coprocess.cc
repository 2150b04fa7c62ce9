#include "bench/coprocess.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

extern char** environ;

namespace thermocline::bench {

absl::StatusOr<std::unique_ptr<Coprocess>> Coprocess::Start(std::vector<std::string> words,
                                                            const std::string& error_log) {
  signal(SIGPIPE, SIG_IGN);  // one that has ended is an error of Tell
  std::unique_ptr<Coprocess> process(new Coprocess);
  process->name_ = words[0];
  int to[2], from[2];
  if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe");
  process->to_ = fdopen(to[1], "w");
  process->from_ = fdopen(from[0], "r");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to[0], 0);
  posix_spawn_file_actions_adddup2(&actions, from[1], 1);
  if (!error_log.empty()) {
    posix_spawn_file_actions_addopen(&actions, 2, error_log.c_str(), O_CREAT | O_WRONLY | O_TRUNC,
                                     0600);
  }
  const int error = posix_spawnp(&process->pid_, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(to[0]);
  close(from[1]);
  if (error != 0) return ErrnoStatus(error, "start " + process->name_);
  return process;
}

Coprocess::~Coprocess() {
  if (to_ != nullptr) fclose(to_);
  if (pid_ > 0) waitpid(pid_, nullptr, 0);
  if (from_ != nullptr) fclose(from_);
}

absl::Status Coprocess::Tell(const std::string& line) {
  if (fprintf(to_, "%s\n", line.c_str()) > 0 && fflush(to_) == 0) return absl::OkStatus();
  return absl::UnavailableError(name_ + " has ended");
}

absl::StatusOr<std::string> Coprocess::Hear() {
  std::string line;
  for (int c; (c = fgetc(from_)) != EOF;) {
    if (c == '\n') return line;
    line += static_cast<char>(c);
  }
  return absl::UnavailableError(name_ + " has ended");
}

}  // namespace thermocline::bench
