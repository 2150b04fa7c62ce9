// Where the daemon listens for TCP, as options have it.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace thermocline {

/// "HOST:PORT" or "[HOST]:PORT", HOST an IP address or "localhost".
struct ListenAddress {
  std::string host;
  uint16_t port = 0;
};
absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text);

}  // namespace thermocline
