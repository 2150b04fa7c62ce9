#include "daemon/session_registry.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <algorithm>
#include <cstring>

namespace thermocline {
namespace {

Sha256 HashOf(const SessionToken& token) {
  Sha256Builder sha;
  sha.Field("thermocline session token").Field(std::as_bytes(std::span(token)));
  return sha.Finish();
}

uint64_t BucketOf(const Sha256& hash) {
  uint64_t bucket = 0;
  std::memcpy(&bucket, hash.data(), sizeof bucket);
  return bucket;
}

}  // namespace

absl::StatusOr<SessionToken> NewSessionToken() {
  SessionToken token;
  if (RAND_bytes(token.data(), static_cast<int>(token.size())) != 1) {
    return absl::InternalError("no randomness for a session token: RAND_bytes failed");
  }
  return token;
}

void SessionRegistry::Add(const SessionToken& token, SessionIdentity identity) {
  const Sha256 hash = HashOf(token);
  MutexLock lock(mutex_);
  entries_.emplace(BucketOf(hash), Entry{hash, identity});
}

void SessionRegistry::Remove(uint64_t session) {
  MutexLock lock(mutex_);
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (entry->second.identity.session != session) continue;
    entries_.erase(entry);
    return;
  }
}

std::optional<SessionIdentity> SessionRegistry::Find(std::string_view token_hex) const {
  const absl::StatusOr<Sha256> token = Sha256FromHex(token_hex);  // a token has the same form
  if (!token.ok()) return std::nullopt;
  const Sha256 hash = HashOf(*token);
  MutexLock lock(mutex_);
  const auto [first, last] = entries_.equal_range(BucketOf(hash));
  for (auto entry = first; entry != last; ++entry) {
    if (CRYPTO_memcmp(entry->second.token_hash.data(), hash.data(), hash.size()) == 0) {
      return entry->second.identity;
    }
  }
  return std::nullopt;
}

size_t SessionRegistry::size() const {
  MutexLock lock(mutex_);
  return entries_.size();
}

size_t SessionRegistry::CountOf(const Tenant& tenant) const {
  MutexLock lock(mutex_);
  return static_cast<size_t>(
      std::count_if(entries_.begin(), entries_.end(),
                    [&](const auto& entry) { return entry.second.identity.tenant == &tenant; }));
}

}  // namespace thermocline
