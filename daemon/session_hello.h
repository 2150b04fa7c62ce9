// What a client says first, and whether it may be believed: parsing and rules without a socket, so
// that a fuzzer reaches all of it.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "proto/session_frame.h"
#include "thermocline/v1/session.pb.h"

namespace thermocline {

/// Errors: InvalidArgument for a frame that is no hello; FailedPrecondition for other versions than
///         ours, saying which side to upgrade.
absl::StatusOr<v1::Hello> ParseHello(FrameHeader header, std::span<const std::byte> payload);

/// The admin role is for the daemon's user alone. Errors: PermissionDenied.
absl::Status CheckRole(const v1::Hello& hello, uid_t peer_uid, uid_t daemon_uid);

/// At most 64 printable bytes of a client's name: it goes into log lines.
std::string CleanName(std::string_view name);

/// A frame with its header, ready to be sent.
/// REQUIRES: the message is no longer than kMaxFrameBytes.
std::vector<std::byte> EncodeFrame(FrameKind kind, const google::protobuf::MessageLite& message);

}  // namespace thermocline
