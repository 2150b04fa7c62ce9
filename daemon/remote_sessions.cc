#include "daemon/remote_sessions.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/log.h"

namespace thermocline {

std::shared_ptr<RemoteSessions> RemoteSessions::Make(RemoteSessionOptions options,
                                                     SessionRegistry& registry, Executor& timers) {
  std::shared_ptr<RemoteSessions> sessions(new RemoteSessions(options, registry, timers));
  sessions->ScheduleTick();
  return sessions;
}

absl::StatusOr<uint64_t> RemoteSessions::Open(Guest guest) {
  MutexLock lock(mutex_);
  absl::Status refusal;
  if (stopped_) {
    refusal = absl::UnavailableError("the daemon stops; connect again");
  } else if (const auto others = std::count_if(
                 sessions_.begin(), sessions_.end(),
                 [&](const auto& entry) { return entry.second.guest.host == guest.host; });
             static_cast<size_t>(others) >= options_.max_sessions) {
    refusal =
        absl::ResourceExhaustedError("this daemon serves " + std::to_string(options_.max_sessions) +
                                     " remote sessions at most, and all are taken; end "
                                     "some or raise max_remote_sessions");
  }
  if (!refusal.ok()) {
    ++counters_.refused;
    LogRefusal(guest.peer, refusal);
    return refusal;
  }
  const uint64_t number = next_number_++;
  sessions_.emplace(number, Session{.guest = std::move(guest),
                                    .last_beat = Clock::Real().Now(),
                                    .name = {},
                                    .work = std::make_shared<RemoteWork>()});
  return number;
}

void RemoteSessions::CountStranger(const absl::Status& why) {
  {
    MutexLock lock(mutex_);
    ++counters_.refused;
  }
  LogRefusal("", why);
}

void RemoteSessions::LogRefusal(const std::string& peer, const absl::Status& why) {
  const auto left_out = refusal_limit_.Admit();
  if (!left_out) return;
  LogEvent(LogLevel::kWarning, "session_refused",
           {{"peer", peer}, {"reason", why}, {"left_out", *left_out}});
}

void RemoteSessions::Admit(uint64_t session, const std::string& client_name,
                           std::function<void(absl::StatusOr<SessionToken>)> welcome) {
  SessionHost* host = nullptr;
  {
    MutexLock lock(mutex_);
    const auto found = sessions_.find(session);
    if (found == sessions_.end() || found->second.joining || found->second.joined) return;
    found->second.joining = true;
    found->second.name = client_name;
    found->second.last_beat = Clock::Real().Now();
    host = found->second.guest.host;
  }
  // No process stands for it: the session is one.
  host->Join(session, 0, session, SessionMemory(),
             [self = shared_from_this(), host, session, welcome = std::move(welcome)](
                 const absl::Status& joined) { self->OnJoined(*host, session, joined, welcome); });
}

void RemoteSessions::OnJoined(SessionHost& host, uint64_t session, const absl::Status& joined,
                              const std::function<void(absl::StatusOr<SessionToken>)>& welcome) {
  absl::StatusOr<SessionToken> token =
      joined.ok() ? NewSessionToken() : absl::StatusOr<SessionToken>(joined);
  bool gone = false;
  {
    MutexLock lock(mutex_);
    const auto found = sessions_.find(session);
    gone = found == sessions_.end();
    if (!gone && token.ok()) {
      Session& entry = found->second;
      entry.joining = false;
      entry.joined = true;
      registry_.Add(*token, {.session = session,
                             .tenant = entry.guest.tenant,
                             .reads_only = !entry.guest.may_write,
                             .over_tcp = entry.guest.over_tcp,
                             .remote = entry.work});
      ++counters_.opened;
      LogEvent(LogLevel::kInfo, "session_opened",
               {{"session", session},
                {"peer", entry.guest.peer},
                {"client", entry.name},
                {"role", entry.guest.may_write ? "writer" : "reader"}});
    }
  }
  const bool refused = !token.ok() && Remove(session).has_value();
  if (joined.ok() && (gone || refused)) LeaveHost(host, session, std::make_shared<RemoteWork>());
  if (gone) return;
  if (refused) {
    MutexLock lock(mutex_);
    ++counters_.refused;
  }
  welcome(std::move(token));
}

void RemoteSessions::Beat(uint64_t session) {
  MutexLock lock(mutex_);
  const auto found = sessions_.find(session);
  if (found != sessions_.end()) found->second.last_beat = Clock::Real().Now();
}

void RemoteSessions::End(uint64_t session, const char* how) {
  const std::optional<Session> ended = Remove(session);
  if (ended) Return(session, *ended, how);
}

void RemoteSessions::CutOff(uint64_t session, const std::string& why) {
  const std::optional<Session> ended = Remove(session);
  if (!ended) return;
  const absl::Status status =
      absl::PermissionDeniedError("this session was cut off: " + why + "; connect again");
  {
    MutexLock lock(mutex_);
    ++counters_.refused;
  }
  LogRefusal(ended->guest.peer, status);
  Return(session, *ended, "cut off");
  ended->guest.ended(status);
}

void RemoteSessions::Stop(const std::string& reason) {
  std::map<uint64_t, Session> ended;
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    ended.swap(sessions_);
  }
  for (const auto& [number, session] : ended) {
    Return(number, session, "the daemon stops");
    session.guest.ended(absl::UnavailableError(reason));
  }
}

SessionServer::Counters RemoteSessions::counters() const {
  MutexLock lock(mutex_);
  SessionServer::Counters counters = counters_;
  for (const auto& [number, session] : sessions_) counters.sessions += session.joined ? 1 : 0;
  return counters;
}

void RemoteSessions::ScheduleTick() {
  const bool posted = timers_.PostAfter(options_.tick, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->Tick();
  });
  if (posted) return;
  MutexLock lock(mutex_);
  if (!stopped_) LogEvent(LogLevel::kError, "remote_tick_stopped");
}

void RemoteSessions::Tick() {
  // Asked outside the lock: it may read a file.
  std::vector<std::pair<uint64_t, std::function<bool()>>> guests;
  std::vector<std::pair<uint64_t, absl::Status>> over;
  {
    MutexLock lock(mutex_);
    if (stopped_) return;
    const SteadyTime now = Clock::Real().Now();
    for (const auto& [number, session] : sessions_) {
      if (now - session.last_beat <= options_.lease) {
        guests.emplace_back(number, session.guest.still_welcome);
        continue;
      }
      ++counters_.expired;
      over.emplace_back(number, absl::DeadlineExceededError(
                                    "no beat came for " + std::to_string(options_.lease.count()) +
                                    " ms, and what the session held has ended; connect again"));
    }
  }
  for (const auto& [number, still_welcome] : guests) {
    if (still_welcome()) continue;
    over.emplace_back(number, absl::UnauthenticatedError(
                                  "the token of this session is not in the token file any more"));
  }
  for (const auto& [number, why] : over) {
    const std::optional<Session> ended = Remove(number);
    if (!ended) continue;
    Return(number, *ended, std::string_view(why.message().data(), why.message().size()));
    ended->guest.ended(why);
  }
  ScheduleTick();
}

std::optional<RemoteSessions::Session> RemoteSessions::Remove(uint64_t session) {
  MutexLock lock(mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return std::nullopt;
  Session ended = std::move(found->second);
  sessions_.erase(found);
  return ended;
}

void RemoteSessions::Return(uint64_t session, const Session& ended, std::string_view how) {
  registry_.Remove(session);
  // One that is about to join leaves when it has.
  if (ended.joined) LeaveHost(*ended.guest.host, session, ended.work);
  LogEvent(LogLevel::kInfo, "session_ended",
           {{"session", session}, {"peer", ended.guest.peer}, {"how", how}});
}

void RemoteSessions::LeaveHost(SessionHost& host, uint64_t session,
                               const std::shared_ptr<RemoteWork>& work) {
  host.Leave(session, Departure::kLost);
  work->Close([&host, session] { host.ProcessGone(0, session); });
}

}  // namespace thermocline
