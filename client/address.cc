#include "client/address.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace thermocline {
inline namespace client_v1 {
namespace {

bool IsPort(std::string_view text) {
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  return error == std::errc() && end == text.data() + text.size() && port != 0;
}

bool IsHost(std::string_view text) {
  const bool v6 = text.size() > 2 && text.front() == '[' && text.back() == ']';
  if (v6) text = text.substr(1, text.size() - 2);
  return !text.empty() && text.size() <= 253 && std::all_of(text.begin(), text.end(), [&](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '-' || c == '_' || (v6 && (c == ':' || c == '%'));
  });
}

}  // namespace

absl::StatusOr<DaemonAddress> ParseDaemonAddress(std::string_view text) {
  const auto wrong = [text] {
    return absl::InvalidArgumentError(
        "'" + std::string(text) +
        "' is no address of a daemon; write for example \"tls://cache.example:9470\", "
        "\"tls://[::1]:9470\" or \"unix:///run/thermocline/thermocline.sock.grpc\"");
  };
  DaemonAddress address;
  const size_t scheme_end = text.find("://");
  if (scheme_end == std::string_view::npos) return wrong();
  const std::string_view scheme = text.substr(0, scheme_end);
  const std::string_view target = text.substr(scheme_end + 3);
  address.target = target;
  if (scheme == "unix") {
    address.kind = DaemonAddress::Kind::kUnix;
    if (target.empty() || target.front() != '/' || target.find('\0') != target.npos) {
      return wrong();
    }
    return address;
  }
  if (scheme != "tls" && scheme != "plaintext") return wrong();
  if (scheme == "plaintext") address.kind = DaemonAddress::Kind::kPlaintext;
  const size_t colon = target.rfind(':');
  if (colon == std::string_view::npos || !IsPort(target.substr(colon + 1)) ||
      !IsHost(target.substr(0, colon))) {
    return wrong();
  }
  return address;
}

RemoteOptions WithEnvironment(RemoteOptions options) {
  const auto fill = [](std::string& value, const char* variable) {
    const char* given = std::getenv(variable);
    if (value.empty() && given != nullptr) value = given;
  };
  fill(options.address, "THERMOCLINE_ADDRESS");
  fill(options.ca_file, "THERMOCLINE_CA");
  fill(options.certificate_file, "THERMOCLINE_CERTIFICATE");
  fill(options.key_file, "THERMOCLINE_KEY");
  fill(options.token_file, "THERMOCLINE_CLIENT_TOKEN_FILE");
  return options;
}

}  // namespace client_v1
}  // namespace thermocline
