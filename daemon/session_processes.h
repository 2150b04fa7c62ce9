// The processes behind the sessions, watched through their pidfds: a process is known until it
// ends, even when its sessions have closed, as long as anybody waits for that, because what it was
// granted may be written until then.
// The list is kept in a small file, so that a restarted daemon knows whom to wait for.
#pragma once
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "daemon/session_socket.h"

namespace thermocline {

struct RememberedProcess {
  pid_t pid = 0;
  uint64_t start_time = 0;
  uint32_t sessions = 0;
};
/// One "pid start_time sessions" a line. Errors: DataLoss for anything else.
absl::StatusOr<std::vector<RememberedProcess>> ParseSessionsFile(std::string_view text);

/// Thread: that of the io_context.
class SessionProcesses {
 public:
  /// A process ended; `sessions` are those it still had.
  using OnGone =
      std::function<void(pid_t pid, uint64_t start_time, const std::set<uint64_t>& sessions)>;
  SessionProcesses(boost::asio::io_context& io, std::string sessions_file, OnGone on_gone);

  /// Watches the processes of the last epoch that still live.
  /// Errors: DataLoss when the file says nothing that can be understood, others when it or a
  ///         process cannot be looked at: then there may be some that are not expected.
  absl::Status ExpectRemembered();
  /// Sessions of the last epoch that have neither come back nor gone with their processes.
  uint32_t expected_sessions() const;
  /// None is waited for any longer: who is not back counts as one without sessions.
  void ExpectNobody();

  /// Errors: ResourceExhausted beyond kMaxProcesses, of which a user other than the daemon's has
  ///         kMaxProcessesOfUser: one counts until it ends or is forgotten.
  absl::Status Attach(uint64_t session, PeerProcess peer);
  void Detach(pid_t pid, uint64_t start_time, uint64_t session);
  /// A process without sessions, of the last epoch either. Whether anybody waits for its end has to
  /// be asked; it tells one question from another.
  struct Idle {
    pid_t pid = 0;
    uint64_t start_time = 0;
    uint64_t question = 0;
  };
  /// Those after which nobody asks yet.
  std::vector<Idle> Idlers();
  /// It is forgotten unless somebody waits for its end, or it has come back since the question.
  void Answer(const Idle& process, bool awaited);
  /// Writes the file. Call before a session is told that it is welcome, and when one has ended.
  absl::Status Remember() const;
  void StopWatching() { processes_.clear(); }

  static constexpr size_t kMaxProcesses = 4096;
  static constexpr size_t kMaxProcessesOfUser = kMaxProcesses / 4;

 private:
  using Key = std::pair<pid_t, uint64_t>;
  struct Process {
    explicit Process(boost::asio::posix::stream_descriptor watched) : pidfd(std::move(watched)) {}
    boost::asio::posix::stream_descriptor pidfd;
    std::set<uint64_t> sessions;
    uint32_t expected = 0;
    uint64_t question = 0;     // that is asked after it; 0: none
    std::optional<uid_t> uid;  // not known of one of the last epoch that has not come back
  };
  Process& Watch(Key key, UniqueFd pidfd);

  boost::asio::io_context& io_;
  const std::string sessions_file_;
  const OnGone on_gone_;
  std::map<Key, std::unique_ptr<Process>> processes_;
  uint64_t last_question_ = 0;
};

}  // namespace thermocline
