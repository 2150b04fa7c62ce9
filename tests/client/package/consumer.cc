// Says what the library says of a daemon that is not there, and that a block's space can be named.
#include "client/client.h"

#include <iostream>

int main() {
  const auto client = thermocline::Client::Connect({.socket_path = "/tmp/tc-no-such.sock"});
  std::cout << client.status().message() << "\n";
  thermocline::SpaceSpec spec;
  spec.parts = {{.name = "all", .block_bytes = 4096}};
  std::cout << thermocline::FingerprintOf(spec).Hex() << "\n";
  return absl::IsUnavailable(client.status()) ? 0 : 1;
}
