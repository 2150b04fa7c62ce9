// The fingerprint's golden value is Python's: hashlib.sha256 over struct.pack("<I", length) + bytes
// of every field, numbers as 8 bytes.
#include "hashing/space.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>

namespace thermocline {
namespace {

SpaceSpec SmolSpec() {
  SpaceSpec spec;
  spec.model = "SmolLM2-135M-Instruct Q4_1";
  std::iota(spec.weights_sha256.begin(), spec.weights_sha256.end(), uint8_t{0});
  spec.kv_dtype = "f32";
  spec.layers = 30;
  spec.kv_heads = 3;
  spec.head_dim = 64;
  spec.parts = {{.name = "kv", .rank = 0, .block_bytes = 737280, .window_tokens = 0}};
  spec.layout = "lkht.v1";
  spec.rope = "adjacent base=100000 dims=64";
  spec.salt = "salt";
  spec.tenant = "alice";
  return spec;
}

TEST(SpaceTest, GoldenFingerprint) {
  ASSERT_TRUE(SmolSpec().Validate().ok());
  EXPECT_EQ(FingerprintOf(SmolSpec()).Hex(),
            "7a4069819cddd5661516799667291198db8be1f7b00cec4a4cdb8d7f617d9e91");
}

TEST(SpaceTest, EveryFieldMakesAnotherSpace) {
  const std::function<void(SpaceSpec&)> changes[] = {
      [](SpaceSpec& s) { s.model += " "; },
      [](SpaceSpec& s) { s.weights_sha256[31] ^= 1; },
      [](SpaceSpec& s) { s.kv_dtype = "f16"; },
      [](SpaceSpec& s) { ++s.layers; },
      [](SpaceSpec& s) { ++s.kv_heads; },
      [](SpaceSpec& s) { ++s.head_dim; },
      [](SpaceSpec& s) { s.block_tokens = 32; },
      [](SpaceSpec& s) {
        s.parts.push_back({"kv", 1, 737280, 0});
      },
      [](SpaceSpec& s) { s.parts[0].name = "full"; },
      [](SpaceSpec& s) { s.parts[0].rank = 1; },
      [](SpaceSpec& s) { s.parts[0].block_bytes += 16; },
      [](SpaceSpec& s) { s.parts[0].window_tokens = 512; },
      [](SpaceSpec& s) { s.layout = "lkht.v2"; },
      [](SpaceSpec& s) { s.rope = "halves base=100000 dims=64"; },
      [](SpaceSpec& s) { s.lora = "adapter"; },
      [](SpaceSpec& s) { s.salt = "pepper"; },
      [](SpaceSpec& s) { s.opaque_names = true, s.key_bytes = 32; },
      [](SpaceSpec& s) { s.opaque_names = true, s.key_bytes = 64; },
      [](SpaceSpec& s) { s.tenant = "bob"; },
      [](SpaceSpec&) {},
  };
  std::vector<Fingerprint> seen;
  for (const auto& change : changes) {
    SpaceSpec spec = SmolSpec();
    change(spec);
    ASSERT_TRUE(spec.Validate().ok()) << spec.Validate();
    const Fingerprint fingerprint = FingerprintOf(spec);
    for (const Fingerprint& other : seen) EXPECT_FALSE(fingerprint == other) << seen.size();
    seen.push_back(fingerprint);
  }
}

// Neighbouring fields cannot lend each other bytes: "org_1" + "2345" is not "org_12345" + "".
TEST(SpaceTest, FieldsAreFramed) {
  SpaceSpec one = SmolSpec();
  SpaceSpec two = SmolSpec();
  one.lora = "org_1", one.salt = "2345";
  two.lora = "org_12345", two.salt = "";
  EXPECT_FALSE(FingerprintOf(one) == FingerprintOf(two));
}

TEST(SpaceTest, WhatIsWrongIsNamedWithItsLimit) {
  struct Case {
    std::function<void(SpaceSpec&)> spoil;
    const char* expected;
  };
  const Case cases[] = {
      {[](SpaceSpec& s) { s.model = ""; }, "model is empty"},
      {[](SpaceSpec& s) { s.rope.assign(2000, 'x'); }, "rope has 2000 bytes; the limit is 1024"},
      {[](SpaceSpec& s) { s.layers = 0; }, "layers is 0; it must be from 1 to"},
      {[](SpaceSpec& s) { s.block_tokens = 24; },
       "block_tokens is 24; it must be a multiple of 16"},
      {[](SpaceSpec& s) { s.block_tokens = 0; }, "block_tokens is 0; it must be from 16"},
      {[](SpaceSpec& s) { s.parts.clear(); }, "number of parts is 0; it must be from 1 to 8"},
      {[](SpaceSpec& s) { s.parts.assign(9, s.parts[0]); }, "number of parts is 9"},
      {[](SpaceSpec& s) { s.parts.assign(2, s.parts[0]); }, "parts[1].name 'kv' with rank 0"},
      {[](SpaceSpec& s) { s.parts[0].block_bytes = 24; }, "parts[0].block_bytes is 24"},
      {[](SpaceSpec& s) { s.parts[0].block_bytes = kMaxPartBytes + 16; }, "to 67108864"},
      {[](SpaceSpec& s) { s.parts[0].window_tokens = UINT32_MAX; },
       "parts[0].window_tokens is 429"},
      {[](SpaceSpec& s) { s.layout = "lkht"; }, "like lkht.v1"},
      {[](SpaceSpec& s) { s.layout = "lkht.v"; }, "like lkht.v1"},
      {[](SpaceSpec& s) { s.layout = ".v1"; }, "like lkht.v1"},
      {[](SpaceSpec& s) { s.opaque_names = true; }, "key_bytes is 0; it must be from 1 to 64"},
      {[](SpaceSpec& s) { s.key_bytes = 8; }, "opaque_names is not"},
  };
  for (const Case& c : cases) {
    SpaceSpec spec = SmolSpec();
    c.spoil(spec);
    const absl::Status status = spec.Validate();
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.expected;
    EXPECT_NE(std::string(status.message()).find(c.expected), std::string::npos) << status;
  }
}

TEST(HexTest, ThereAndBack) {
  const Sha256 digest = FingerprintOf(SmolSpec()).bytes;
  EXPECT_EQ(*Sha256FromHex(ToHex(digest)), digest);
  EXPECT_EQ(Sha256FromHex(std::string(64, 'F'))->at(31), 0xff);
  for (const std::string& text :
       {std::string(), std::string(63, '0'), std::string(65, '0'), std::string(63, '0') + "g"}) {
    EXPECT_FALSE(Sha256FromHex(text).ok()) << text;
  }
}

}  // namespace
}  // namespace thermocline
