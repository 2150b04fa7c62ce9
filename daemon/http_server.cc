#include "daemon/http_server.h"

#include <pthread.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/version.hpp>
#include <chrono>
#include <optional>
#include <thread>

#include "base/log.h"

namespace thermocline {
namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using beast::error_code;

namespace {

constexpr size_t kMaxConnections = 32;
constexpr uint32_t kMaxHeaderBytes = 8 * 1024;
constexpr std::chrono::seconds kRequestPatience{10};  // for a request to come, an answer to go
constexpr std::chrono::milliseconds kAcceptPause{100};

using Request = http::request<http::empty_body>;
using Response = http::response<http::string_body>;

std::string_view PathOf(const Request& request) {
  const auto target = request.target();
  const std::string_view path(target.data(), target.size());
  return path.substr(0, path.find('?'));
}

/// What needs no handler.
std::optional<HttpAnswer> AnswerAtOnce(const Request& request, const HttpLiveness& alive) {
  if (request.method() != http::verb::get && request.method() != http::verb::head) {
    return HttpAnswer{.status = 405, .body = "only GET\n"};
  }
  if (PathOf(request) != "/livez") return std::nullopt;
  return alive() ? HttpAnswer{.body = "ok\n"} : HttpAnswer{.status = 503, .body = "stuck\n"};
}

Response ResponseTo(const Request& request, HttpAnswer answer) {
  Response response(static_cast<http::status>(answer.status), request.version());
  response.set(http::field::server, "thermoclined");
  response.set(http::field::content_type, answer.content_type);
  response.set(http::field::cache_control, "no-store");
  response.keep_alive(request.keep_alive());
  response.body() = std::move(answer.body);
  response.prepare_payload();
  if (request.method() == http::verb::head) response.body().clear();
  return response;
}

/// Thread: the server's. Owner: its pending operation.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, const HttpHandler& handler, const HttpLiveness& alive,
             asio::thread_pool& worker, size_t& open)
      : stream_(std::move(socket)), handler_(handler), alive_(alive), worker_(worker), open_(open) {
    ++open_;
  }
  ~Connection() { --open_; }

  void Read() {
    parser_.emplace();
    parser_->header_limit(kMaxHeaderBytes);
    parser_->body_limit(0);
    stream_.expires_after(kRequestPatience);
    http::async_read(stream_, buffer_, *parser_,
                     [self = shared_from_this()](error_code error, size_t) {
                       if (!error) self->Answer();
                     });
  }

 private:
  void Answer() {
    if (std::optional<HttpAnswer> answer = AnswerAtOnce(parser_->get(), alive_)) {
      return Write(*std::move(answer));
    }
    asio::post(worker_, [self = shared_from_this()]() mutable {
      HttpAnswer answer = self->handler_(PathOf(self->parser_->get()));
      const auto home = self->stream_.get_executor();
      asio::post(home, [self = std::move(self), answer = std::move(answer)]() mutable {
        self->Write(std::move(answer));
      });
    });
  }
  void Write(HttpAnswer answer) {
    response_ = ResponseTo(parser_->get(), std::move(answer));
    stream_.expires_after(kRequestPatience);
    http::async_write(stream_, response_, [self = shared_from_this()](error_code error, size_t) {
      if (error) return;
      if (self->response_.keep_alive()) return self->Read();
      self->stream_.socket().shutdown(tcp::socket::shutdown_send, error);
    });
  }

  beast::tcp_stream stream_;
  const HttpHandler& handler_;
  const HttpLiveness& alive_;
  asio::thread_pool& worker_;
  size_t& open_;
  beast::flat_buffer buffer_{kMaxHeaderBytes * 2};
  std::optional<http::request_parser<http::empty_body>> parser_;
  Response response_;
};

}  // namespace

class HttpServer::Impl {
 public:
  Impl(HttpHandler handler, HttpLiveness alive)
      : handler_(std::move(handler)), alive_(std::move(alive)), acceptor_(io_), pause_(io_) {}
  ~Impl() {
    worker_.stop();
    worker_.join();
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Start(const std::string& host, uint16_t port) {
    error_code error;
    const auto address = asio::ip::make_address(host, error);
    if (error) return absl::InvalidArgumentError("http: " + host + " is no IP address");
    const tcp::endpoint endpoint(address, port);
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      return absl::UnavailableError("http cannot listen at " + host + ":" + std::to_string(port) +
                                    ": " + error.message() +
                                    "; choose another address, port 0 for any, or http = \"off\"");
    }
    port_ = acceptor_.local_endpoint().port();
    Accept();
    thread_ = std::thread([this] {
      ::pthread_setname_np(::pthread_self(), "tc-http");
      io_.run();
    });
    return absl::OkStatus();
  }
  uint16_t port() const { return port_; }

 private:
  void Accept() {
    acceptor_.async_accept([this](error_code error, tcp::socket socket) {
      if (error) {
        LogEvent(LogLevel::kError, "http_accept_failed", {{"reason", error.message()}});
        pause_.expires_after(kAcceptPause);
        return pause_.async_wait([this](error_code stopped) {
          if (!stopped) Accept();
        });
      }
      // One too many is closed without a word: a scraper that opens more is broken.
      if (open_ < kMaxConnections) {
        std::make_shared<Connection>(std::move(socket), handler_, alive_, worker_, open_)->Read();
      }
      Accept();
    });
  }

  const HttpHandler handler_;
  const HttpLiveness alive_;
  size_t open_ = 0;  // outlives the connections, which die with io_
  asio::io_context io_{1};
  asio::thread_pool worker_{1};
  tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  uint16_t port_ = 0;
  std::thread thread_;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& host,
                                                              uint16_t port, HttpHandler handler,
                                                              HttpLiveness alive) {
  auto impl = std::make_unique<Impl>(std::move(handler), std::move(alive));
  TC_RETURN_IF_ERROR(impl->Start(host, port));
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

uint16_t HttpServer::port() const { return impl_->port(); }

}  // namespace thermocline
