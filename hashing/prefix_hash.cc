#include "hashing/prefix_hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

#include "hashing/sha256.h"

namespace thermocline {
namespace {

#if defined(TC_KEY_BITS)
static_assert(TC_KEY_BITS == 8, "keys are whole or cut to 8 bits");
constexpr uint64_t Cut(uint64_t hash) { return (hash & 0xff) * 0x0101010101010101u; }
#else
constexpr uint64_t Cut(uint64_t hash) { return hash; }
#endif

}  // namespace

KeyChain::KeyChain(std::span<const std::byte> secret) {
  static_assert(sizeof secret_ >= XXH3_SECRET_SIZE_MIN && sizeof secret_ % kSha256Bytes == 0);
  for (uint8_t counter = 0; counter < sizeof secret_ / kSha256Bytes; ++counter) {
    const Sha256 block =
        Sha256Builder().Field("thermocline key secret v1").Field(secret).Number(counter).Finish();
    std::memcpy(secret_.data() + counter * kSha256Bytes, block.data(), block.size());
  }
}

Key KeyChain::NextKey(const Key& parent, const Name& name) const {
  uint64_t input[10] = {parent.lo, parent.hi};
  std::memcpy(input + 2, &name, sizeof name);
  const XXH128_hash_t hash =
      XXH3_128bits_withSecret(input, sizeof input, secret_.data(), secret_.size());
#if defined(TC_KEY_BITS)
  return {Cut(hash.low64), Cut(hash.low64)};
#else
  return {hash.low64, hash.high64};
#endif
}

uint64_t ChildHash(uint64_t parent_place, const Name& name) {
  return Cut(XXH3_64bits_withSeed(&name, sizeof name, parent_place));
}

}  // namespace thermocline
