// The build with 8-bit keys: collisions everywhere, on purpose.
#include <gtest/gtest.h>

#include <set>

#include "hashing/prefix_hash.h"

namespace thermocline {
namespace {

TEST(Key8Test, ThereAre256KeysAndEveryByteOfOneIsAlike) {
  const KeyChain chain({});
  std::set<uint64_t> keys;
  std::set<uint64_t> children;
  Key key;
  for (int32_t i = 0; i < 5000; ++i) {
    int32_t tokens[kPlaceTokens] = {i};
    key = chain.NextKey(key, NameOfTokens(tokens));
    EXPECT_EQ(key.lo, key.hi);
    keys.insert(key.lo);
    const uint64_t child = ChildHash(7, NameOfTokens(tokens));
    EXPECT_EQ(child >> 56, child & 0xff);
    children.insert(child);
  }
  EXPECT_LE(keys.size(), 256u);
  EXPECT_EQ(children.size(), 256u);
}

}  // namespace
}  // namespace thermocline
