// What the processes of the hot tier say to each other, over unix sockets of packets: a message is
// plain structs of fixed layout, with a descriptor at most. All of them are one program of one
// version on one machine, which a version number guards; whoever reads one checks its every field
// all the same.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/status.h"
#include "base/unique_fd.h"

namespace thermocline {

inline constexpr uint32_t kDeviceWireVersion = 2;

/// A status on the wire: its message is cut to what fits.
struct WireStatus {
  uint32_t code = 0;
  uint32_t sticky = 0;  // see cuda::IsSticky
  char message[248] = {};

  static WireStatus Of(const absl::Status& status, bool sticky = false);
  absl::Status Get() const;
};
static_assert(sizeof(WireStatus) == 256);

/// Sends one packet. Errors: Unavailable when the other side has gone.
absl::Status SendPacket(int socket, std::span<const std::byte> bytes, int fd = -1);
/// Waits for one packet. Answers its bytes in `room`; 0: the other side has gone. `fd`: what came
/// along, or nothing.
/// Errors: DataLoss for a packet larger than `room`, or with several descriptors, which are closed;
///         those of recvmsg.
absl::StatusOr<size_t> ReceivePacket(int socket, std::span<std::byte> room, UniqueFd& fd);

template <class T>
std::span<const std::byte> BytesOf(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::as_bytes(std::span(&value, 1));
}

/// A listening socket, and the lock of its path (an flock on a file beside it, which stays).
struct Listener {
  UniqueFd lock;
  UniqueFd socket;
};
/// Of this user's alone, in place of one that nobody listens at.
/// Errors: AlreadyExists when somebody does; those of the system calls, with the path.
absl::StatusOr<Listener> ListenAt(const std::string& path);
/// What is sent and received there fails after `patience`.
/// Errors: Unavailable when nobody listens there.
absl::StatusOr<UniqueFd> ConnectTo(const std::string& path, std::chrono::milliseconds patience);
void SetPatience(int socket, std::chrono::milliseconds patience);
/// Whether the process at the other end is this user's, or root's.
bool IsOwnPeer(int socket);

}  // namespace thermocline
