#include "hashing/name.h"

#include <bit>

namespace thermocline {

static_assert(std::endian::native == std::endian::little, "names are stored as they lie in memory");

Name NameOfTokens(std::span<const int32_t, kPlaceTokens> tokens) {
  Name name;
  static_assert(sizeof name == kPlaceTokens * sizeof(int32_t));
  std::memcpy(&name, tokens.data(), sizeof name);
  return name;
}

Sha256 Sha256OfPath(std::span<const Name> path) {
  return Sha256Builder().Raw(std::as_bytes(path)).Finish();
}

absl::StatusOr<Name> NameOfKey(std::string_view key, uint32_t key_bytes) {
  if (key.size() != key_bytes || key.empty() || key.size() > kNameBytes) {
    return absl::InvalidArgumentError(
        "key of " + std::to_string(key.size()) + " bytes in a space of " +
        std::to_string(key_bytes) + "-byte keys; all keys of a space have the one length that it " +
        "was opened with, at most 64 bytes: hash longer ones, e.g. with SHA-256");
  }
  Name name = {};
  std::memcpy(&name, key.data(), key.size());
  return name;
}

}  // namespace thermocline
