// A small HTTP server for probes and scrapes: GET only, a bounded number of connections, each with
// a deadline on everything. What is answered is the daemon's business, on a thread beside the
// server's; only /livez is the server's own, so that it never waits for a slow scrape. It answers
// 200, or 503 when the daemon says that it is stuck and had better be started anew.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace thermocline {

struct HttpAnswer {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};
/// `path`: of the request, without its query.
/// Thread: one of its own; may take a second, no more.
using HttpHandler = std::function<HttpAnswer(std::string_view path)>;
/// Thread: the server's; must not wait.
using HttpLiveness = std::function<bool()>;

/// Thread: any; its own two threads do the work.
class HttpServer {
 public:
  /// Port 0 takes any free one.
  /// Errors: Unavailable when the address cannot be listened at.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& host, uint16_t port,
                                                           HttpHandler handler, HttpLiveness alive);
  uint16_t port() const;
  /// Ends every connection and joins the threads.
  ~HttpServer();

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermocline
