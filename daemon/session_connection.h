// One connection of the session socket: reads frames, one at a time and of bounded length, and
// tells its events what came. Frames out are few and small, so they are sent without waiting.
#pragma once
#include <array>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "daemon/session_hello.h"

namespace thermocline {

/// Thread: that of the socket's io_context, for everything.
class SessionConnection : public std::enable_shared_from_this<SessionConnection> {
 public:
  /// At most one of OnGoodbye and OnEnd is called, once; none after Close() or Refuse().
  class Events {
   public:
    virtual ~Events() = default;
    virtual void OnHello(uint64_t number, const v1::Hello& hello) = 0;
    virtual void OnWake(uint64_t number) = 0;
    virtual void OnGoodbye(uint64_t number) = 0;
    /// `why`: OK at the end of the stream; else what was wrong with what came.
    virtual void OnEnd(uint64_t number, absl::Status why) = 0;
  };

  SessionConnection(boost::asio::local::stream_protocol::socket socket, uint64_t number,
                    Events& events);
  /// Waits for Hello until the deadline.
  void Start(std::chrono::milliseconds hello_deadline);
  /// The session is welcome: no deadline any more.
  void EndHelloDeadline() { deadline_.cancel(); }

  absl::Status Send(FrameKind kind, const google::protobuf::MessageLite& message,
                    std::span<const int> fds = {});
  /// Tells the client why, as far as it listens, and closes.
  void Refuse(const absl::Status& why);
  void Close();
  int fd() { return socket_.native_handle(); }

 private:
  void ReadHeader();
  void ReadPayload(FrameHeader header);
  void OnFrame(FrameHeader header);
  void End(absl::Status why);

  boost::asio::local::stream_protocol::socket socket_;
  boost::asio::steady_timer deadline_;
  const uint64_t number_;
  Events& events_;
  bool said_hello_ = false;
  bool closed_ = false;
  std::array<std::byte, kFrameHeaderBytes> header_{};
  std::vector<std::byte> payload_;
};

}  // namespace thermocline
