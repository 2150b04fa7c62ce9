// What comes over the wire and what people write as options: good values arrive as they are, bad
// ones are refused with words that help.
#include "daemon/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>

#include "base/socket_path.h"
#include "daemon/options.h"
#include "daemon/session_hello.h"
#include "daemon/session_registry.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

v1::SpaceSpec GoodSpec() {
  v1::SpaceSpec spec;
  spec.set_model("m");
  spec.set_weights_sha256(std::string(32, 'w'));
  spec.set_kv_dtype("f16");
  spec.set_layers(2);
  spec.set_kv_heads(3);
  spec.set_head_dim(16);
  spec.set_block_tokens(32);
  spec.set_layout("lkht.v1");
  spec.set_rope("r");
  spec.set_lora("l");
  spec.set_salt("s");
  v1::PartSpec* part = spec.add_parts();
  part->set_name("all");
  part->set_rank(1);
  part->set_block_bytes(4096);
  part->set_window_tokens(64);
  return spec;
}

TEST(Wire, SpaceArrivesWholeAndLeavesWithoutSecrets) {
  const auto spec = SpaceSpecOf(GoodSpec(), "tenant");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->tenant, "tenant");
  EXPECT_EQ(spec->salt, "s");
  EXPECT_EQ(spec->weights_sha256[31], 'w');
  v1::SpaceSpec back;
  ToWire(*spec, back);
  v1::SpaceSpec expected = GoodSpec();
  expected.clear_salt();
  EXPECT_EQ(back.SerializeAsString(), expected.SerializeAsString());
  EXPECT_FALSE(FingerprintOf(*spec) == FingerprintOf(*SpaceSpecOf(GoodSpec(), "another")));
}

TEST(Wire, EveryFieldOfASpaceMakesAnotherSpace) {
  const Fingerprint same = FingerprintOf(*SpaceSpecOf(GoodSpec(), "t"));
  const auto differs = [&](const std::function<void(v1::SpaceSpec&)>& change) {
    v1::SpaceSpec wire = GoodSpec();
    change(wire);
    const auto spec = SpaceSpecOf(wire, "t");
    EXPECT_TRUE(spec.ok()) << spec.status();
    return spec.ok() && !(FingerprintOf(*spec) == same);
  };
  EXPECT_TRUE(differs([](auto& s) { s.set_model("n"); }));
  EXPECT_TRUE(differs([](auto& s) { s.clear_weights_sha256(); }));
  EXPECT_TRUE(differs([](auto& s) { s.set_kv_dtype("f32"); }));
  EXPECT_TRUE(differs([](auto& s) { s.set_layers(9); }));
  EXPECT_TRUE(differs([](auto& s) { s.set_kv_heads(9); }));
  EXPECT_TRUE(differs([](auto& s) { s.set_head_dim(32); }));
  EXPECT_TRUE(differs([](auto& s) { s.set_block_tokens(16); }));
  EXPECT_TRUE(differs([](auto& s) { s.mutable_parts(0)->set_rank(2); }));
  EXPECT_TRUE(differs([](auto& s) { s.mutable_parts(0)->set_block_bytes(8192); }));
  EXPECT_TRUE(differs([](auto& s) { s.mutable_parts(0)->set_window_tokens(0); }));
  EXPECT_TRUE(differs([](auto& s) { s.set_layout("lkht.v2"); }));
  EXPECT_TRUE(differs([](auto& s) { s.set_rope("q"); }));
  EXPECT_TRUE(differs([](auto& s) { s.set_lora("q"); }));
  EXPECT_TRUE(differs([](auto& s) { s.set_salt("q"); }));
  EXPECT_TRUE(differs([](auto& s) {
    s.set_opaque_names(true);
    s.set_key_bytes(32);
  }));
}

TEST(Wire, BadSpacesAreRefused) {
  v1::SpaceSpec spec = GoodSpec();
  spec.set_weights_sha256("short");
  EXPECT_THAT(Text(SpaceSpecOf(spec, "t").status()), HasSubstr("must have 32"));
  spec = GoodSpec();
  for (int i = 0; i < 9; ++i) *spec.add_parts() = spec.parts(0);
  EXPECT_THAT(Text(SpaceSpecOf(spec, "t").status()), HasSubstr("parts"));
  spec = GoodSpec();
  spec.mutable_parts(0)->set_block_bytes(17);
  EXPECT_FALSE(SpaceSpecOf(spec, "t").ok());
}

TEST(Wire, NamesOfTokensIgnoreARemainder) {
  v1::Names names;
  std::string bytes(64 * 2 + 60, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i);
  names.set_tokens(bytes);
  const auto parsed = NamesOf(names);
  ASSERT_TRUE(parsed.ok());
  ASSERT_EQ(parsed->names.size(), 2u);
  EXPECT_EQ(parsed->key_bytes, 0u);
  EXPECT_EQ(std::memcmp(&parsed->names[1], bytes.data() + 64, 64), 0);
}

TEST(Wire, KeysHaveOneLength) {
  v1::Names names;
  names.add_keys("abcd");
  names.add_keys("efgh");
  EXPECT_EQ(NamesOf(names)->key_bytes, 4u);
  names.add_keys("efg");
  EXPECT_FALSE(NamesOf(names).ok());
  names.clear_keys();
  names.add_keys(std::string(65, 'x'));
  EXPECT_FALSE(NamesOf(names).ok());
  names.clear_keys();
  names.add_keys("");
  EXPECT_FALSE(NamesOf(names).ok());
  names.set_tokens(std::string(64, 'x'));
  names.add_keys("abcd");
  EXPECT_THAT(Text(NamesOf(names).status()), HasSubstr("both"));
}

TEST(Wire, TiersThatDoNotExistAreRefused) {
  EXPECT_EQ(*TierOf(v1::TIER_COLD), TierKind::kCold);
  EXPECT_FALSE(TierOf(static_cast<v1::Tier>(99)).ok());
  EXPECT_THAT(Text(FingerprintOfBytes("short").status()), HasSubstr("32 bytes"));
}

TEST(ListenAddressTest, ReadsWhatPeopleWrite) {
  EXPECT_EQ(ParseListenAddress("127.0.0.1:80")->port, 80);
  EXPECT_EQ(ParseListenAddress("localhost:0")->host, "127.0.0.1");
  EXPECT_EQ(ParseListenAddress("[::1]:9469")->host, "::1");
  for (const char* wrong : {"", ":", "80", "1.2.3.4:", "::1:80", "1.2.3.4:99999", "h:8x", ":80"}) {
    EXPECT_THAT(Text(ParseListenAddress(wrong).status()), HasSubstr("write for example")) << wrong;
  }
}

TEST(DaemonOptionsTest, DefaultsResolve) {
  const auto options = ResolveDaemonOptions(Options(DaemonOptionTable()));
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_FALSE(options->socket.empty());
  EXPECT_FALSE(options->data_dir.empty());
  EXPECT_EQ(options->http, "127.0.0.1:9469") << "loopback alone";
  EXPECT_EQ(options->grpc_listen, "off");
  EXPECT_FALSE(options->drain);
}

TEST(CheckRoleTest, MakesNobodyButItsOwnUserAdmin) {
  v1::Hello user, admin;
  admin.set_admin(true);
  EXPECT_TRUE(CheckRole(user, 1001, 1000).ok());
  EXPECT_TRUE(CheckRole(admin, 1000, 1000).ok());
  EXPECT_THAT(Text(CheckRole(admin, 0, 1000)), HasSubstr("admin role"));
  EXPECT_EQ(CheckRole(admin, 1001, 0).code(), absl::StatusCode::kPermissionDenied);
}

TEST(OwnDirectoryTest, IsMadeOrMustBeOursAlone) {
  char name[] = "/tmp/tc-own-XXXXXX";
  const std::string root = ::mkdtemp(name);
  EXPECT_TRUE(MakeOwnDirectory(root + "/new").ok());
  EXPECT_TRUE(MakeOwnDirectory(root + "/new").ok());
  ASSERT_EQ(::chmod((root + "/new").c_str(), 0777), 0);
  EXPECT_THAT(Text(MakeOwnDirectory(root + "/new")), HasSubstr("pose as the daemon"));
  ASSERT_EQ(::symlink(root.c_str(), (root + "/link").c_str()), 0);
  EXPECT_THAT(Text(MakeOwnDirectory(root + "/link")), HasSubstr("pose as the daemon"));
  std::filesystem::remove_all(root);
}

TEST(SessionRegistryTest, FindsByTokenAndForgets) {
  SessionRegistry registry;
  const SessionToken first = *NewSessionToken();
  const SessionToken second = *NewSessionToken();
  EXPECT_NE(first, second);
  registry.Add(first, {.session = 1, .admin = false});
  registry.Add(second, {.session = 2, .admin = true});
  EXPECT_EQ(registry.Find(ToHex(first))->session, 1u);
  EXPECT_TRUE(registry.Find(ToHex(second))->admin);
  EXPECT_FALSE(registry.Find(ToHex(first).substr(1)));
  EXPECT_FALSE(registry.Find(ToHex(first) + "0"));
  registry.Remove(1);
  EXPECT_FALSE(registry.Find(ToHex(first)));
  EXPECT_EQ(registry.size(), 1u);
}

}  // namespace
}  // namespace thermocline
