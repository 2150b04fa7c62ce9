#include "daemon/listen_address.h"

#include <charconv>

namespace thermocline {

absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text) {
  const auto wrong = [text] {
    return absl::InvalidArgumentError("'" + std::string(text) +
                                      "' is no address to listen at; write for example "
                                      "\"127.0.0.1:9469\", \"[::1]:9469\" or \"off\"");
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return wrong();
  std::string_view host = text.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return wrong();
  }
  const std::string_view digits = text.substr(colon + 1);
  ListenAddress address;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), address.port);
  if (host.empty() || digits.empty() || error != std::errc() ||
      end != digits.data() + digits.size()) {
    return wrong();
  }
  address.host = host == "localhost" ? "127.0.0.1" : std::string(host);
  return address;
}

}  // namespace thermocline
