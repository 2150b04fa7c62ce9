// What a key file or a key command says.
#include <string_view>

#include "base/check.h"
#include "tiers/key_ring.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thermocline;
  const auto ring = KeyRing::Parse({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!ring.ok()) return 0;
  TC_CHECK(!ring->keys().empty());
  TC_CHECK(ring->keys().size() <= kMaxKeys);
  uint32_t last = 0;
  for (const SealingKey& key : ring->keys()) {
    TC_CHECK(key.number > last);  // by number, each once
    TC_CHECK(ring->Find(key.number) == &key);
    last = key.number;
  }
  TC_CHECK(ring->newest().number == last);
  return 0;
}
