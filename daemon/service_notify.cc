#include "daemon/service_notify.h"

#include <systemd/sd-daemon.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"

namespace thermocline {
namespace {

constexpr int kKeepEnvironment = 0;

/// One assignment a line: a text of several lines would be taken for several.
std::string StatusLine(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return "STATUS=" + text;
}

/// 0 where there is nobody to tell.
int Tell(const std::string& state) {
  return std::min(::sd_notify(kKeepEnvironment, state.c_str()), 0);
}

}  // namespace

void NotifyStatus(const std::string& status) { Tell(StatusLine(status)); }

void NotifyReady(const std::string& status) {
  if (const int error = -Tell("READY=1\n" + StatusLine(status)); error != 0) {
    LogEvent(LogLevel::kWarning, "service_manager_unreachable",
             {{"reason", std::string("NOTIFY_SOCKET: ") + std::strerror(error) +
                             "; unset it where no service manager listens"}});
  }
}

void NotifyStopping(std::chrono::milliseconds patience) {
  const auto microseconds = std::chrono::microseconds(patience).count();
  Tell("STOPPING=1\nEXTEND_TIMEOUT_USEC=" + std::to_string(microseconds) + "\n" +
       StatusLine("stopping"));
}

std::optional<std::chrono::microseconds> WatchdogInterval() {
  uint64_t microseconds = 0;
  if (::sd_watchdog_enabled(kKeepEnvironment, &microseconds) <= 0) return std::nullopt;
  return std::chrono::microseconds(microseconds / 2);
}

void NotifyAlive() { Tell("WATCHDOG=1"); }

}  // namespace thermocline
