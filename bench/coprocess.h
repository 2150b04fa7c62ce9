// A process that answers line by line: what a benchmark does through another program's interface,
// or as another client.
#pragma once
#include <sys/types.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace thermocline::bench {

/// Thread: one.
/// Owner:  ends it, by closing its standard input, and waits for it in the destructor.
class Coprocess {
 public:
  /// `words[0]` is looked up on PATH. Its standard error goes to `error_log`; empty: to ours.
  static absl::StatusOr<std::unique_ptr<Coprocess>> Start(std::vector<std::string> words,
                                                          const std::string& error_log = {});
  ~Coprocess();
  Coprocess(const Coprocess&) = delete;
  Coprocess& operator=(const Coprocess&) = delete;

  absl::Status Tell(const std::string& line);
  /// The next line. Errors: Unavailable when it has ended.
  absl::StatusOr<std::string> Hear();
  absl::StatusOr<std::string> Ask(const std::string& line) {
    TC_RETURN_IF_ERROR(Tell(line));
    return Hear();
  }
  pid_t pid() const { return pid_; }

 private:
  Coprocess() = default;

  std::string name_;
  pid_t pid_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
};

}  // namespace thermocline::bench
