// The system calls behind the TCP door: listening, and whom a connection counts for.
#pragma once
#include <sys/socket.h>

#include <string>

#include "base/status.h"
#include "base/unique_fd.h"
#include "daemon/options.h"

namespace thermocline {

struct TcpListener {
  UniqueFd fd;  // non-blocking
  uint16_t port = 0;
};
/// Its connections send what they have at once. "::" stands for IPv4, too.
/// Errors: Unavailable when the address is taken, or none of this machine's.
absl::StatusOr<TcpListener> ListenAtTcp(const ListenAddress& address);

/// An IPv4 address as it is, also where it comes by way of IPv6; else the network of 64 bits, of
/// which one host may have all addresses.
/// Errors: InvalidArgument for another family.
absl::StatusOr<std::string> PeerNetwork(const sockaddr_storage& peer);

}  // namespace thermocline
