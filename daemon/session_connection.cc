#include "daemon/session_connection.h"

#include <boost/asio/buffer.hpp>
#include <boost/asio/read.hpp>

#include "daemon/session_socket.h"

namespace thermocline {
namespace asio = boost::asio;
using boost::system::error_code;

SessionConnection::SessionConnection(asio::local::stream_protocol::socket socket, uint64_t number,
                                     Events& events)
    : socket_(std::move(socket)),
      deadline_(socket_.get_executor()),
      number_(number),
      events_(events) {}

void SessionConnection::Start(std::chrono::milliseconds hello_deadline) {
  deadline_.expires_after(hello_deadline);
  deadline_.async_wait([self = shared_from_this(), hello_deadline](error_code error) {
    if (error || self->closed_) return;
    self->End(absl::DeadlineExceededError(
        "no Hello within " + std::to_string(hello_deadline.count()) + " ms of connecting"));
  });
  ReadHeader();
}

void SessionConnection::ReadHeader() {
  asio::async_read(socket_, asio::buffer(header_),
                   [self = shared_from_this()](error_code error, size_t) {
                     if (self->closed_) return;
                     if (error) return self->End(absl::OkStatus());
                     const auto header = DecodeFrameHeader(self->header_);
                     if (header) return self->ReadPayload(*header);
                     self->End(absl::InvalidArgumentError(
                         "what came is no frame of the session protocol, or longer than " +
                         std::to_string(kMaxFrameBytes) + " bytes"));
                   });
}

void SessionConnection::ReadPayload(FrameHeader header) {
  payload_.resize(header.payload_bytes);
  asio::async_read(socket_, asio::buffer(payload_),
                   [self = shared_from_this(), header](error_code error, size_t) {
                     if (self->closed_) return;
                     if (error) return self->End(absl::OkStatus());
                     self->OnFrame(header);
                   });
}

void SessionConnection::OnFrame(FrameHeader header) {
  if (!said_hello_) {
    const absl::StatusOr<v1::Hello> hello = ParseHello(header, payload_);
    if (!hello.ok()) return End(hello.status());
    said_hello_ = true;
    events_.OnHello(number_, *hello);
    if (!closed_) ReadHeader();
    return;
  }
  if (header.kind == FrameKind::kWake) {
    events_.OnWake(number_);
    if (!closed_) ReadHeader();
    return;
  }
  if (header.kind != FrameKind::kGoodbye) {
    return End(absl::InvalidArgumentError(
        "after Hello only Goodbye (kind 4) and wake-ups (kind 5) may come, not kind " +
        std::to_string(static_cast<uint32_t>(header.kind))));
  }
  Close();
  events_.OnGoodbye(number_);
}

void SessionConnection::End(absl::Status why) {
  if (why.ok()) {
    Close();
  } else {
    Refuse(why);
  }
  events_.OnEnd(number_, std::move(why));
}

absl::Status SessionConnection::Send(FrameKind kind, const google::protobuf::MessageLite& message,
                                     std::span<const int> fds) {
  return SendNow(socket_.native_handle(), EncodeFrame(kind, message), fds);
}

void SessionConnection::Refuse(const absl::Status& why) {
  if (closed_) return;
  v1::Refused refused;
  refused.set_code(static_cast<uint32_t>(why.code()));
  refused.set_message(std::string(why.message()));
  Send(FrameKind::kRefused, refused).IgnoreError();  // it may be gone already
  Close();
}

void SessionConnection::Close() {
  if (closed_) return;
  closed_ = true;
  deadline_.cancel();
  error_code ignored;
  socket_.shutdown(asio::local::stream_protocol::socket::shutdown_both, ignored);
  socket_.close(ignored);
}

}  // namespace thermocline
