// The verbs of thermoctl, without the command line: each takes its options, talks to the daemon
// and returns what to print as JSON; the text form is drawn from the same JSON, so that neither
// knows more than the other.
#pragma once
#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "client/client.h"

namespace thermocline {
inline namespace client_v1 {

using Json = nlohmann::ordered_json;

/// Which path a verb speaks of: of a file put by name, or of a space.
struct PathOptions {
  std::string name;                        // of a file
  std::string space;                       // hexadecimal fingerprint, or the first digits of one
  std::optional<std::string> tokens;       // "1,2,3"
  std::optional<std::string> tokens_file;  // numbers in a file, "-": standard input
};

struct ConnectOptions {
  std::string socket;  // "": $THERMOCLINE_SOCKET, else the default
  RemoteOptions remote;
  std::chrono::milliseconds timeout{60'000};
};

/// Errors: of all verbs, Unavailable: no daemon; else refused or failed.
absl::StatusOr<Json> RunStatus(const ConnectOptions& connect);
absl::StatusOr<Json> RunSpaces(const ConnectOptions& connect);
absl::StatusOr<Json> RunMatch(const ConnectOptions& connect, const PathOptions& path);
absl::StatusOr<Json> RunPut(const ConnectOptions& connect, const std::string& name,
                            const std::string& file);
absl::StatusOr<Json> RunGet(const ConnectOptions& connect, const std::string& name,
                            const std::string& file);
absl::StatusOr<Json> RunPin(const ConnectOptions& connect, const PathOptions& path,
                            const std::string& ttl, const std::string& tier);
absl::StatusOr<Json> RunUnpin(const ConnectOptions& connect, uint64_t pin);
absl::StatusOr<Json> RunPins(const ConnectOptions& connect);
absl::StatusOr<Json> RunPrefetch(const ConnectOptions& connect, const PathOptions& path);
absl::StatusOr<Json> RunDelete(const ConnectOptions& connect, const PathOptions& path);
absl::StatusOr<Json> RunFlush(const ConnectOptions& connect, const std::string& tier);
absl::StatusOr<Json> RunTenants(const ConnectOptions& connect);
absl::StatusOr<Json> RunFsck(const ConnectOptions& connect);
absl::StatusOr<Json> RunArenaDrop(const ConnectOptions& connect);

/// Draws the daemon's state every second, `refreshes` times (0: until interrupted), on a terminal
/// by ANSI sequences; as JSON one line a second. Outlives restarts of the daemon.
absl::Status RunWatch(const ConnectOptions& connect, uint64_t refreshes, bool json);

Json JsonOf(const DaemonStats& stats);
Json JsonOf(const std::vector<TenantInfo>& tenants);
/// On one line; names that are no UTF-8 come out with replacement characters.
std::string Dump(const Json& result);
/// `result` as people read it: one "key  value" a line, arrays of objects as tables.
std::string TextOf(const Json& result);

}  // namespace client_v1
}  // namespace thermocline
