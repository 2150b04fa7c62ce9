// Who may call: the sessions that are open now, found by their tokens. Tokens are 256 random bits,
// kept only as SHA-256 hashes and compared in constant time, so that neither a core file nor a
// timing tells one.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/mutex.h"
#include "base/status.h"
#include "daemon/remote_work.h"
#include "daemon/roles.h"
#include "hashing/sha256.h"

namespace thermocline {

inline constexpr size_t kSessionTokenBytes = 32;
using SessionToken = std::array<uint8_t, kSessionTokenBytes>;

/// Errors: Internal when the system has no randomness.
absl::StatusOr<SessionToken> NewSessionToken();

class Tenant;

struct SessionIdentity {
  uint64_t session = 0;
  Tenant* tenant = nullptr;  // whose the session is; borrowed
  bool admin = false;
  bool reads_only = false;             // of a remote session
  bool over_tcp = false;               // its token is good there and nowhere else
  std::shared_ptr<RemoteWork> remote;  // none: a local session. Shared with the session's calls.

  Role role() const {
    if (remote != nullptr) return reads_only ? Role::kReader : Role::kWriter;
    return admin ? Role::kAdmin : Role::kLocal;
  }
};

/// Thread: any.
class SessionRegistry {
 public:
  void Add(const SessionToken& token, SessionIdentity identity) TC_EXCLUDES(mutex_);
  void Remove(uint64_t session) TC_EXCLUDES(mutex_);
  /// `token_hex`: 64 hexadecimal digits; anything else, and a token of no open session, is nobody.
  std::optional<SessionIdentity> Find(std::string_view token_hex) const TC_EXCLUDES(mutex_);
  size_t size() const TC_EXCLUDES(mutex_);
  /// The sessions of a tenant.
  size_t CountOf(const Tenant& tenant) const TC_EXCLUDES(mutex_);

 private:
  struct Entry {
    Sha256 token_hash;
    SessionIdentity identity;
  };
  mutable Mutex mutex_;
  // By the first bytes of the token's hash: which bucket is looked at tells nothing about a token.
  std::unordered_multimap<uint64_t, Entry> entries_ TC_GUARDED_BY(mutex_);
};

}  // namespace thermocline
