// What the daemon tells the service manager that started it, by sd_notify(3): that it serves, that
// it stops, and that it is alive. Where nobody asked ($NOTIFY_SOCKET is unset) all of it does
// nothing, so callers need not know.
#pragma once
#include <chrono>
#include <optional>
#include <string>

namespace thermocline {

// Thread: any, as long as nobody changes the environment.

/// One line for people, as `systemctl status` shows it.
void NotifyStatus(const std::string& status);

/// Clients can connect from now on. A service manager that cannot be told is a warning in the log.
void NotifyReady(const std::string& status);

/// The end has begun and may take `patience`: so long the manager does not kill, whatever its own
/// limit is.
void NotifyStopping(std::chrono::milliseconds patience);

/// How often the manager wants NotifyAlive() at least: twice in the time after which it kills.
/// Nothing when it does not watch this process.
std::optional<std::chrono::microseconds> WatchdogInterval();
void NotifyAlive();

}  // namespace thermocline
