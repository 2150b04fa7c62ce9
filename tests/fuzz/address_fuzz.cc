// An address of a daemon, from whoever writes configurations: any text is an address or an error,
// and what is let through is a target that says no more than a host and a port, or a path.
#include <cstdint>
#include <cstdlib>

#include "client/address.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thermocline;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto address = ParseDaemonAddress(text);
  if (!address.ok()) {
    if (address.status().message().empty()) std::abort();
    return 0;
  }
  const std::string& target = address->target;
  if (address->kind == DaemonAddress::Kind::kUnix) {
    if (target.front() != '/' || target.find('\0') != std::string::npos) std::abort();
  } else if (target.find('/') != std::string::npos || target.find(':') == std::string::npos) {
    std::abort();
  }
  return 0;
}
