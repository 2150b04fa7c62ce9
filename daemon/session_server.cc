#include "daemon/session_server.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <map>
#include <optional>
#include <thread>

#include "base/check.h"
#include "base/log.h"
#include "base/log_limit.h"
#include "daemon/control_area.h"
#include "daemon/session_connection.h"
#include "daemon/session_processes.h"

namespace thermocline {
namespace asio = boost::asio;
using boost::system::error_code;

namespace {

/// Connections to one home that have not been welcomed yet, beyond the sessions.
constexpr size_t kMaxPendingConnections = 64;
constexpr size_t kMaxPendingOfProcess = 16;  // of these
/// Slabs that are being exported for one home, and for one process of it.
constexpr size_t kMaxExports = 64;
constexpr size_t kMaxExportsOfProcess = 16;
constexpr size_t kStranger = SIZE_MAX;  // whose home is none
/// After a failed accept (no descriptors left), so that it does not spin.
constexpr std::chrono::milliseconds kAcceptPause{100};

uint64_t Nanoseconds(std::chrono::milliseconds time) {
  return static_cast<uint64_t>(std::chrono::nanoseconds(time).count());
}

}  // namespace

class SessionServer::Impl final : public SessionConnection::Events {
 public:
  Impl(SessionServerOptions options, SocketClaim claim, SessionRegistry& registry)
      : options_(std::move(options)),
        claim_(std::move(claim)),
        registry_(registry),
        acceptor_(io_),
        accept_pause_(io_),
        tick_(io_),
        grace_(io_),
        refusal_limits_(options_.homes.size() + 1),
        processes_(io_, options_.sessions_file,
                   [this](pid_t pid, uint64_t start_time, const std::set<uint64_t>& sessions) {
                     OnProcessGone(pid, start_time, sessions);
                   }) {}

  absl::Status Start(std::shared_ptr<Impl> self);
  void Stop(const std::string& reason, bool revoke_leases);
  void CutOff(uint64_t number, const std::string& why);
  Counters counters() const;

 private:
  struct Pending {
    std::shared_ptr<SessionConnection> connection;
    size_t home = 0;
    pid_t pid = 0;
    bool asks = false;  // for a slab: it stays until it is answered, even when it has gone
  };
  struct Session {
    std::shared_ptr<SessionConnection> connection;
    size_t home = 0;
    pid_t pid = 0;
    uint64_t start_time = 0;
    std::string name;
    bool admin = false;
    std::shared_ptr<SessionControlArea> area;  // the tenant's, too
    std::shared_ptr<const Staging> staging;    // likewise; or none
    bool welcome = false;
    uint64_t heartbeat = 0;
    bool silent = false;     // its leases were ended
    uint64_t expire_at = 0;  // when they are ended next, should it still be silent
    bool ending = false;     // or are about to be
    bool closed = false;     // its socket has ended, its leases not yet
    // However often it wakes us, the strand is asked once at a time. Shared with the strand.
    std::shared_ptr<std::atomic<bool>> put_posted = std::make_shared<std::atomic<bool>>(false);
  };

  void OnHello(uint64_t number, const v1::Hello& hello) override;
  void OnWake(uint64_t number) override;
  void OnGoodbye(uint64_t number) override;
  void OnEnd(uint64_t number, absl::Status why) override;

  void Accept();
  void OnAccepted(asio::local::stream_protocol::socket socket);
  absl::StatusOr<size_t> HomeOf(const PeerUser& user) const;
  absl::Status Admit(uint64_t number, const Pending& pending, const v1::Hello& hello);
  const SessionHome& HomeOf(const Session& session) const { return options_.homes[session.home]; }
  void OnJoined(uint64_t number, const absl::Status& joined);
  void FindSlab(uint64_t number, const Pending& pending, const v1::Hello& hello);
  void HandOver(uint64_t number, const absl::StatusOr<ExportedSlab>& slab);
  absl::Status Welcome(uint64_t number, Session& session);
  void OnProcessGone(pid_t pid, uint64_t start_time, const std::set<uint64_t>& sessions);
  void EndSession(uint64_t number, Departure how, const char* words);
  void Tick();
  void TickSession(uint64_t number, Session& session, uint64_t now);
  void CheckGrace();
  void AskAfter(const SessionProcesses::Idle& process, size_t home);
  void EndGrace(const char* why);
  void CountRefusal(uint64_t number, pid_t pid, size_t home, const absl::Status& why);

  const SessionServerOptions options_;
  SocketClaim claim_;
  SessionRegistry& registry_;

  asio::io_context io_{1};
  asio::local::stream_protocol::acceptor acceptor_;
  asio::steady_timer accept_pause_;
  asio::steady_timer tick_;
  asio::steady_timer grace_;
  std::vector<LogLimit> refusal_limits_;  // by home; the last is that of strangers
  SessionProcesses processes_;
  std::map<uint64_t, Pending> pending_;  // before Hello
  std::map<uint64_t, Session> sessions_;
  std::weak_ptr<Impl> self_;
  uint64_t next_number_ = 1;
  bool grace_over_ = false;
  bool all_are_known_ = true;  // else somebody may be missing of whom we do not know
  std::atomic<uint64_t> open_{0}, opened_{0}, refused_{0}, expired_{0};
  std::thread thread_;
};

absl::Status SessionServer::Impl::Start(std::shared_ptr<Impl> self) {
  self_ = self;
  if (const absl::Status remembered = processes_.ExpectRemembered(); !remembered.ok()) {
    all_are_known_ = false;
    LogEvent(LogLevel::kWarning, "sessions_file_unreadable",
             {{"file", options_.sessions_file}, {"reason", remembered}});
  }
  TC_ASSIGN_OR_RETURN(UniqueFd listener, ListenAt(claim_, options_.socket_mode));
  acceptor_.assign(asio::local::stream_protocol(), listener.Release());
  Accept();
  Tick();
  CheckGrace();
  if (!grace_over_) {
    LogEvent(LogLevel::kInfo, "grace_started",
             {{"sessions", processes_.expected_sessions()}, {"ms", options_.grace.count()}});
    grace_.expires_after(options_.grace);
    grace_.async_wait([this](error_code error) {
      if (!error) EndGrace("time");
    });
  }
  thread_ = std::thread([this] {
    ::pthread_setname_np(::pthread_self(), "tc-sessions");
    io_.run();
  });
  return absl::OkStatus();
}

void SessionServer::Impl::Stop(const std::string& reason, bool revoke_leases) {
  if (!thread_.joinable()) return;
  asio::post(io_, [this, reason, revoke_leases] {
    error_code ignored;
    acceptor_.close(ignored);
    ::unlink(claim_.path.c_str());
    v1::Goodbye goodbye;
    goodbye.set_reason(reason);
    for (auto& [number, session] : sessions_) {
      registry_.Remove(number);
      if (revoke_leases) {
        session.area->EndLeases();
        session.area->SetLeaseUntil(0);
      }
      if (session.closed) continue;
      session.connection->Send(FrameKind::kGoodbye, goodbye).IgnoreError();
      session.connection->Close();
    }
    for (auto& [number, pending] : pending_) {
      pending.connection->Refuse(absl::UnavailableError(reason));
    }
    // The processes stay remembered in the file: a next daemon must wait for them.
    processes_.StopWatching();
    io_.stop();
  });
  thread_.join();
  open_ = 0;
}

void SessionServer::Impl::CutOff(uint64_t number, const std::string& why) {
  asio::post(io_, [this, number, why] {
    const auto found = sessions_.find(number);
    if (found == sessions_.end()) return;
    Session& session = found->second;
    const absl::Status status =
        absl::PermissionDeniedError("this session was cut off: " + why + "; connect again");
    CountRefusal(number, session.pid, session.home, status);
    session.area->EndLeases();
    session.area->SetLeaseUntil(0);
    registry_.Remove(number);  // once it is told, no call of its is taken
    session.connection->Refuse(status);
    EndSession(number, Departure::kLost, "cut off");
  });
}

SessionServer::Counters SessionServer::Impl::counters() const {
  return {.sessions = open_, .opened = opened_, .refused = refused_, .expired = expired_};
}

// ---- who comes

void SessionServer::Impl::Accept() {
  acceptor_.async_accept([this](error_code error, asio::local::stream_protocol::socket socket) {
    if (error == asio::error::operation_aborted || !acceptor_.is_open()) return;
    if (!error) {
      OnAccepted(std::move(socket));
      return Accept();
    }
    if (const auto left_out = refusal_limits_.back().Admit()) {
      LogEvent(LogLevel::kError, "accept_failed",
               {{"reason", error.message()}, {"left_out", *left_out}});
    }
    accept_pause_.expires_after(kAcceptPause);
    accept_pause_.async_wait([this](error_code aborted) {
      if (!aborted) Accept();
    });
  });
}

void SessionServer::Impl::OnAccepted(asio::local::stream_protocol::socket socket) {
  const uint64_t number = next_number_++;
  auto connection = std::make_shared<SessionConnection>(std::move(socket), number, *this);
  const absl::StatusOr<PeerUser> user = UserOf(connection->fd());
  const absl::StatusOr<size_t> home = user.ok() ? HomeOf(*user) : user.status();
  if (!home.ok()) {
    CountRefusal(number, user.ok() ? user->pid : 0, kStranger, home.status());
    return connection->Refuse(home.status());
  }
  pending_.emplace(number, Pending{connection, *home, user->pid});
  connection->Start(options_.hello_deadline);
}

// Before it has said a word: a stranger's words are not read, and nobody takes the room of others.
absl::StatusOr<size_t> SessionServer::Impl::HomeOf(const PeerUser& user) const {
  TC_ASSIGN_OR_RETURN(const size_t home, options_.home_of(user));
  size_t of_home = 0, of_process = 0;
  for (const auto& [number, pending] : pending_) {
    of_home += pending.home == home && !pending.asks ? 1 : 0;
    of_process += pending.pid == user.pid && !pending.asks ? 1 : 0;
  }
  if (of_home < kMaxPendingConnections && of_process < kMaxPendingOfProcess) return home;
  return absl::ResourceExhaustedError("too many connections that have not said hello (" +
                                      std::to_string(of_process) + " of this process, " +
                                      std::to_string(of_home) + " in all); try again");
}

void SessionServer::Impl::OnHello(uint64_t number, const v1::Hello& hello) {
  const auto found = pending_.find(number);
  TC_CHECK(found != pending_.end());
  const Pending pending = found->second;
  if (hello.slab() != 0) return FindSlab(number, pending, hello);
  pending_.erase(found);
  if (const absl::Status admitted = Admit(number, pending, hello); !admitted.ok()) {
    return pending.connection->Refuse(admitted);
  }
  Session& session = sessions_.at(number);
  session.connection = pending.connection;
  HomeOf(session).host->Join(
      number, session.pid, session.start_time, {session.area->memory(), session.staging},
      [weak = self_, number](absl::Status joined) {
        if (const auto self = weak.lock()) {
          asio::post(self->io_,
                     [raw = self.get(), number, joined] { raw->OnJoined(number, joined); });
        }
      });
}

absl::Status SessionServer::Impl::Admit(uint64_t number, const Pending& pending,
                                        const v1::Hello& hello) {
  pid_t pid = 0;
  const absl::Status status = [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(PeerProcess peer, IdentifyPeer(pending.connection->fd()));
    pid = peer.pid;
    TC_RETURN_IF_ERROR(CheckRole(hello, peer.uid, ::geteuid()));
    const auto open = std::count_if(sessions_.begin(), sessions_.end(), [&](const auto& entry) {
      return entry.second.home == pending.home;
    });
    if (static_cast<size_t>(open) >= options_.max_sessions) {
      return absl::ResourceExhaustedError("this daemon serves " +
                                          std::to_string(options_.max_sessions) +
                                          " sessions at most, and all are taken; end some or "
                                          "raise max_sessions");
    }
    Session session;
    session.home = pending.home;
    TC_ASSIGN_OR_RETURN(
        session.area, SessionControlArea::Create(HomeOf(session).epoch,
                                                 BootNanoseconds() + Nanoseconds(options_.lease)));
    if (const uint64_t bytes = HomeOf(session).staging_bytes; bytes > 0) {
      TC_ASSIGN_OR_RETURN(session.staging, Staging::Create(bytes));
    }
    session.pid = peer.pid;
    session.start_time = peer.start_time;
    session.name = CleanName(hello.client_name());
    session.admin = hello.admin();
    TC_RETURN_IF_ERROR(processes_.Attach(number, std::move(peer)));
    sessions_.emplace(number, std::move(session));
    return absl::OkStatus();
  }();
  if (!status.ok()) CountRefusal(number, pid, pending.home, status);
  return status;
}

void SessionServer::Impl::OnJoined(uint64_t number, const absl::Status& joined) {
  const auto found = sessions_.find(number);
  if (found == sessions_.end()) return;  // it has gone meanwhile
  Session& session = found->second;
  const absl::Status status = joined.ok() ? Welcome(number, session) : joined;
  if (!status.ok()) {
    CountRefusal(number, session.pid, session.home, status);
    session.connection->Refuse(status);
    return EndSession(number, Departure::kLost, "refused");
  }
  session.connection->EndHelloDeadline();
  ++opened_;
  open_ = sessions_.size();
  LogEvent(LogLevel::kInfo, "session_opened",
           {{"session", number},
            {"pid", session.pid},
            {"client", session.name},
            {"admin", session.admin}});
  CheckGrace();
}

absl::Status SessionServer::Impl::Welcome(uint64_t number, Session& session) {
  TC_ASSIGN_OR_RETURN(const SessionToken token, NewSessionToken());
  // A client of whom the next daemon would not know could be left reading what that reuses.
  TC_RETURN_IF_ERROR(Annotate(processes_.Remember(), "remember the session"));
  const SessionHome& home = HomeOf(session);
  registry_.Add(token, {.session = number, .tenant = home.tenant, .admin = session.admin});
  v1::Welcome welcome;
  welcome.set_session_token(token.data(), token.size());
  welcome.set_epoch(home.epoch);
  welcome.set_session(number);
  welcome.set_grpc_socket(options_.grpc_socket);
  if (session.admin) welcome.set_admin_socket(options_.admin_socket);
  welcome.set_arena_bytes(home.arena_bytes);
  welcome.set_daemon_version(options_.daemon_version);
  welcome.set_staging_bytes(home.staging_bytes);
  session.welcome = true;
  std::vector<int> fds = {home.arena_fd, session.area->fd(), home.catalog_fd};
  if (session.staging != nullptr) fds.push_back(session.staging->fd());
  return session.connection->Send(FrameKind::kWelcome, welcome, fds);
}

void SessionServer::Impl::FindSlab(uint64_t number, const Pending& pending,
                                   const v1::Hello& hello) {
  const SessionHome& home = options_.homes[pending.home];
  const std::optional<SessionIdentity> identity =
      registry_.Find(ToHex({reinterpret_cast<const uint8_t*>(hello.session_token().data()),
                            hello.session_token().size()}));
  if (!identity || identity->tenant != home.tenant || identity->remote != nullptr) {
    return HandOver(number, absl::UnauthenticatedError(
                                "the token is of no session of this user's; connect again"));
  }
  size_t of_home = 0, of_process = 0;
  for (const auto& [other, asking] : pending_) {
    of_home += asking.asks && asking.home == pending.home ? 1 : 0;
    of_process += asking.asks && asking.pid == pending.pid ? 1 : 0;
  }
  if (of_home >= kMaxExports || of_process >= kMaxExportsOfProcess) {
    return HandOver(
        number, absl::ResourceExhaustedError("too many slabs are being exported already (" +
                                             std::to_string(of_process) + " for this process, " +
                                             std::to_string(of_home) + " in all); try again"));
  }
  pending_.at(number).asks = true;
  home.host->ExportSlab(hello.slab(), [weak = self_, number](absl::StatusOr<ExportedSlab> slab) {
    const auto self = weak.lock();
    if (!self) return;
    asio::post(self->io_,
               [raw = self.get(), number, slab = std::move(slab)] { raw->HandOver(number, slab); });
  });
}

void SessionServer::Impl::HandOver(uint64_t number, const absl::StatusOr<ExportedSlab>& slab) {
  const auto found = pending_.find(number);
  TC_CHECK(found != pending_.end());
  const Pending pending = found->second;
  pending_.erase(found);
  if (!slab.ok()) {
    CountRefusal(number, pending.pid, pending.home, slab.status());
    return pending.connection->Refuse(slab.status());
  }
  v1::Slab message;
  message.set_bytes(slab->bytes);
  const int fd = slab->fd.get();
  pending.connection->Send(FrameKind::kSlab, message, {&fd, 1}).IgnoreError();  // or it has gone
  pending.connection->Close();
}

// ---- who goes

void SessionServer::Impl::OnWake(uint64_t number) {
  const auto found = sessions_.find(number);
  if (found == sessions_.end()) return;
  const auto& posted = found->second.put_posted;
  if (!posted->exchange(true)) HomeOf(found->second).host->Put(number, posted);
}

void SessionServer::Impl::OnGoodbye(uint64_t number) {
  EndSession(number, Departure::kGoodbye, "goodbye");
}

void SessionServer::Impl::OnEnd(uint64_t number, absl::Status why) {
  if (const auto pending = pending_.find(number); pending != pending_.end()) {
    if (!why.ok()) CountRefusal(number, 0, pending->second.home, why);
    if (!pending->second.asks) pending_.erase(pending);
    return;
  }
  const auto found = sessions_.find(number);
  if (found == sessions_.end()) return;
  Session& session = found->second;
  if (!why.ok()) CountRefusal(number, session.pid, session.home, why);
  if (!session.welcome) return EndSession(number, Departure::kLost, "left before it was welcome");
  // The process may be alive and reading: its leases stay until lease_until.
  session.closed = true;
  registry_.Remove(number);
  LogEvent(LogLevel::kInfo, "session_closed", {{"session", number}, {"pid", session.pid}});
}

void SessionServer::Impl::OnProcessGone(pid_t pid, uint64_t start_time,
                                        const std::set<uint64_t>& sessions) {
  for (const uint64_t number : sessions) {
    EndSession(number, Departure::kProcessGone, "process ended");
  }
  // Which tenants a process of the last epoch was a client of is not known.
  for (const SessionHome& home : options_.homes) home.host->ProcessGone(pid, start_time);
  CheckGrace();
}

void SessionServer::Impl::EndSession(uint64_t number, Departure how, const char* words) {
  const auto found = sessions_.find(number);
  if (found == sessions_.end()) return;
  Session& session = found->second;
  registry_.Remove(number);
  session.connection->Close();
  HomeOf(session).host->Leave(number, how);
  processes_.Detach(session.pid, session.start_time, number);
  LogEvent(LogLevel::kInfo, "session_ended",
           {{"session", number}, {"pid", session.pid}, {"how", words}});
  sessions_.erase(found);
  open_ = sessions_.size();
  // Unwritten it lists one session too many, for which a next daemon would wait in vain.
  if (const absl::Status written = processes_.Remember(); !written.ok()) {
    LogEvent(LogLevel::kError, "sessions_file_unwritable", {{"reason", written}});
  }
}

// ---- leases in time

void SessionServer::Impl::Tick() {
  const uint64_t now = BootNanoseconds();
  for (auto next = sessions_.begin(); next != sessions_.end();) {
    const auto current = next++;  // TickSession may erase it
    if (current->second.welcome) TickSession(current->first, current->second, now);
  }
  for (const SessionProcesses::Idle& process : processes_.Idlers()) AskAfter(process, 0);
  tick_.expires_after(options_.tick);
  tick_.async_wait([this](error_code error) {
    if (!error) Tick();
  });
}

void SessionServer::Impl::TickSession(uint64_t number, Session& session, uint64_t now) {
  SessionControlArea& area = *session.area;
  const uint64_t heartbeat = area.Heartbeat();
  if (!session.closed && heartbeat != session.heartbeat) {
    // What it leased since the last silence began may have ended with the rest. From here on that
    // cannot be: the rest has ended.
    if (session.ending) return;
    session.heartbeat = heartbeat;
    if (session.silent) area.EndLeases();
    session.silent = false;
    session.expire_at = 0;
    area.SetLeaseUntil(now + Nanoseconds(options_.lease));
    return;
  }
  if (now <= area.LeaseUntil()) return;
  if (session.closed) return EndSession(number, Departure::kLost, "closed");
  // What it has pinned since, it pinned in vain: once more for as long as it is silent.
  if (session.ending || now <= session.expire_at) return;
  session.expire_at = now + Nanoseconds(options_.lease);
  session.ending = true;
  if (!session.silent) area.EndLeases();
  HomeOf(session).host->ExpireLeases(number, [weak = self_, number] {
    const auto self = weak.lock();
    if (!self) return;
    asio::post(self->io_, [raw = self.get(), number] {
      const auto found = raw->sessions_.find(number);
      if (found != raw->sessions_.end()) found->second.ending = false;
    });
  });
  if (session.silent) return;
  session.silent = true;
  ++expired_;
  LogEvent(LogLevel::kWarning, "session_silent", {{"session", number}, {"pid", session.pid}});
}

// One home after the other: a process of which none waits for the end is forgotten.
void SessionServer::Impl::AskAfter(const SessionProcesses::Idle& process, size_t home) {
  if (home == options_.homes.size()) return processes_.Answer(process, false);
  options_.homes[home].host->Awaits(
      process.pid, process.start_time, [weak = self_, process, home](bool awaits) {
        const auto self = weak.lock();
        if (!self) return;
        asio::post(self->io_, [raw = self.get(), process, home, awaits] {
          awaits ? raw->processes_.Answer(process, true) : raw->AskAfter(process, home + 1);
        });
      });
}

void SessionServer::Impl::CheckGrace() {
  if (!grace_over_ && all_are_known_ && processes_.expected_sessions() == 0)
    EndGrace("nobody is missing");
}

void SessionServer::Impl::EndGrace(const char* why) {
  if (grace_over_) return;
  grace_over_ = true;
  grace_.cancel();
  processes_.ExpectNobody();
  LogEvent(LogLevel::kInfo, "grace_ended", {{"why", why}});
  for (const SessionHome& home : options_.homes) home.host->EndGrace();
}

void SessionServer::Impl::CountRefusal(uint64_t number, pid_t pid, size_t home,
                                       const absl::Status& why) {
  ++refused_;
  const auto left_out = refusal_limits_[std::min(home, options_.homes.size())].Admit();
  if (!left_out) return;
  LogEvent(LogLevel::kWarning, "session_refused",
           {{"session", number}, {"pid", pid}, {"reason", why}, {"left_out", *left_out}});
}

// ---- the handle

SessionServer::SessionServer(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
SessionServer::~SessionServer() { Stop("the daemon stops", false); }

absl::StatusOr<std::unique_ptr<SessionServer>> SessionServer::Start(SessionServerOptions options,
                                                                    SocketClaim claim,
                                                                    SessionRegistry& registry) {
  TC_CHECK(!options.homes.empty() && options.home_of);
  auto impl = std::make_shared<Impl>(std::move(options), std::move(claim), registry);
  TC_RETURN_IF_ERROR(impl->Start(impl));
  return std::unique_ptr<SessionServer>(new SessionServer(std::move(impl)));
}

void SessionServer::Stop(const std::string& reason, bool revoke_leases) {
  impl_->Stop(reason, revoke_leases);
}

void SessionServer::CutOff(uint64_t session, const std::string& why) {
  impl_->CutOff(session, why);
}

SessionServer::Counters SessionServer::counters() const { return impl_->counters(); }

}  // namespace thermocline
