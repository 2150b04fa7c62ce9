#include "daemon/session_processes.h"

#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "base/file_util.h"
#include "base/process.h"

namespace thermocline {
namespace asio = boost::asio;
namespace {

constexpr uint64_t kMaxSessionsFileBytes = 1 << 20;

}  // namespace

absl::StatusOr<std::vector<RememberedProcess>> ParseSessionsFile(std::string_view text) {
  std::vector<RememberedProcess> processes;
  std::istringstream lines{std::string(text)};
  std::string line;
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    RememberedProcess process;
    std::string rest;
    if (!(fields >> process.pid >> process.start_time >> process.sessions) || fields >> rest ||
        process.pid <= 0) {
      return absl::DataLossError("a line of the sessions file is not 'pid start_time sessions'");
    }
    processes.push_back(process);
    if (processes.size() > SessionProcesses::kMaxProcesses) {
      return absl::DataLossError("the sessions file lists too many processes");
    }
  }
  return processes;
}

SessionProcesses::SessionProcesses(asio::io_context& io, std::string sessions_file, OnGone on_gone)
    : io_(io), sessions_file_(std::move(sessions_file)), on_gone_(std::move(on_gone)) {}

absl::Status SessionProcesses::ExpectRemembered() {
  if (sessions_file_.empty()) return absl::OkStatus();
  const absl::StatusOr<std::string> text = ReadFile(sessions_file_, kMaxSessionsFileBytes);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  TC_RETURN_IF_ERROR(text.status());
  TC_ASSIGN_OR_RETURN(const auto remembered, ParseSessionsFile(*text));
  for (const RememberedProcess& process : remembered) {
    absl::StatusOr<UniqueFd> pidfd = OpenPidFd(process.pid, process.start_time);
    if (absl::IsNotFound(pidfd.status())) continue;
    TC_RETURN_IF_ERROR(pidfd.status());
    if (HasExited(*pidfd)) continue;
    Watch({process.pid, process.start_time}, *std::move(pidfd)).expected = process.sessions;
  }
  return absl::OkStatus();
}

uint32_t SessionProcesses::expected_sessions() const {
  uint32_t sum = 0;
  for (const auto& [key, process] : processes_) sum += process->expected;
  return sum;
}

void SessionProcesses::ExpectNobody() {
  for (const auto& [key, process] : processes_) process->expected = 0;
}

absl::Status SessionProcesses::Attach(uint64_t session, PeerProcess peer) {
  const Key key(peer.pid, peer.start_time);
  const auto known = processes_.find(key);
  if (known == processes_.end()) {
    const auto of_user =
        std::count_if(processes_.begin(), processes_.end(),
                      [&](const auto& other) { return other.second->uid == peer.uid; });
    const bool may_have_all = peer.uid == ::geteuid();
    if (!may_have_all && static_cast<size_t>(of_user) >= kMaxProcessesOfUser) {
      return absl::ResourceExhaustedError("user " + std::to_string(peer.uid) + " has " +
                                          std::to_string(of_user) +
                                          " processes that have connected and live; end some");
    }
    if (processes_.size() >= kMaxProcesses) {
      return absl::ResourceExhaustedError("too many client processes are known (" +
                                          std::to_string(kMaxProcesses) + "); end some");
    }
  }
  Process& process = known != processes_.end() ? *known->second : Watch(key, std::move(peer.pidfd));
  process.uid = peer.uid;
  process.sessions.insert(session);
  process.question = 0;
  if (process.expected > 0) --process.expected;
  return absl::OkStatus();
}

void SessionProcesses::Detach(pid_t pid, uint64_t start_time, uint64_t session) {
  const auto known = processes_.find(Key(pid, start_time));
  if (known != processes_.end()) known->second->sessions.erase(session);
}

std::vector<SessionProcesses::Idle> SessionProcesses::Idlers() {
  std::vector<Idle> idle;
  for (const auto& [key, process] : processes_) {
    if (!process->sessions.empty() || process->expected > 0 || process->question != 0) continue;
    process->question = ++last_question_;
    idle.push_back({key.first, key.second, process->question});
  }
  return idle;
}

void SessionProcesses::Answer(const Idle& process, bool awaited) {
  const auto known = processes_.find(Key(process.pid, process.start_time));
  if (known == processes_.end() || known->second->question != process.question) return;
  known->second->question = 0;
  if (!awaited) processes_.erase(known);
}

SessionProcesses::Process& SessionProcesses::Watch(Key key, UniqueFd pidfd) {
  auto process = std::make_unique<Process>(asio::posix::stream_descriptor(io_, pidfd.Release()));
  Process& watched = *process;
  processes_.insert_or_assign(key, std::move(process));
  watched.pidfd.async_wait(asio::posix::stream_descriptor::wait_read,
                           [this, key](boost::system::error_code error) {
                             if (error) return;  // the watch was ended
                             const auto known = processes_.find(key);
                             if (known == processes_.end()) return;
                             const std::set<uint64_t> sessions = std::move(known->second->sessions);
                             processes_.erase(known);
                             on_gone_(key.first, key.second, sessions);
                           });
  return watched;
}

absl::Status SessionProcesses::Remember() const {
  if (sessions_file_.empty()) return absl::OkStatus();
  std::string text;
  for (const auto& [key, process] : processes_) {
    // Those without a session too: what they were granted may stay theirs until they end.
    const size_t sessions = process->sessions.size() + process->expected;
    text += std::to_string(key.first) + " " + std::to_string(key.second) + " " +
            std::to_string(sessions) + "\n";
  }
  return WriteFileAtomically(sessions_file_, text);
}

}  // namespace thermocline
