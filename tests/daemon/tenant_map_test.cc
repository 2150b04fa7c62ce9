// Whose client a process is, and what a configuration of tenants must look like.
#include "daemon/tenant_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/options.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

constexpr uid_t kDaemon = 500;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

absl::StatusOr<DaemonOptions> Resolve(const std::string& config) {
  Options options(DaemonOptionTable());
  TC_RETURN_IF_ERROR(ReadConfig(config, "t.toml", options));
  return ResolveDaemonOptions(options);
}

/// What is wrong with it.
std::string Refusal(const std::string& config) { return Text(Resolve(config).status()); }

TenantMap Map(const std::vector<TenantOptions>& tenants, bool others_are_default = false) {
  return *TenantMap::Make(tenants, others_are_default, kDaemon);
}

const std::vector<TenantOptions> kTwo = {{.name = "default"},
                                         {.name = "a", .uids = {1001}, .gids = {70}},
                                         {.name = "b", .uids = {1002}, .gids = {71, 72}}};

TEST(TenantMapTest, AloneTheDefaultTenantServesTheDaemonsUserAndRoot) {
  const TenantMap map = Map({{.name = "default"}});
  EXPECT_FALSE(map.serves_others());
  EXPECT_EQ(*map.Find({kDaemon, {kDaemon}}), 0u);
  EXPECT_EQ(*map.Find({0, {0}}), 0u);
  EXPECT_EQ(map.Find({1001, {1001}}).status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(Text(map.Find({1001, {1001}}).status()), HasSubstr("not uid 1001"));
}

TEST(TenantMapTest, TheUserCountsBeforeItsGroupsAndThePrimaryOneBeforeOthers) {
  const TenantMap map = Map(kTwo);
  EXPECT_TRUE(map.serves_others());
  EXPECT_EQ(*map.Find({1001, {71, 72}}), 1u);
  EXPECT_EQ(*map.Find({2000, {70, 71}}), 1u);
  EXPECT_EQ(*map.Find({2000, {2000, 72, 71}}), 2u) << "both are b's";
  EXPECT_EQ(*map.Find({kDaemon, {70}}), 0u) << "the daemon's user is named by uid alone";
}

TEST(TenantMapTest, WhoIsOfTwoTenantsOrOfNoneIsRefusedWithAdvice) {
  EXPECT_THAT(Text(Map(kTwo).Find({2000, {2000, 70, 71}}).status()),
              HasSubstr("groups of two tenants, \"a\" and \"b\""));
  EXPECT_THAT(Text(Map(kTwo).Find({2000, {2000}}).status()), HasSubstr("other_users"));
  EXPECT_EQ(*Map(kTwo, true).Find({2000, {2000}}), 0u);
}

TEST(TenantOptionsTest, WithoutTablesThereIsTheDefaultTenantWithEverything) {
  const auto options = Resolve("");
  ASSERT_TRUE(options.ok()) << options.status();
  ASSERT_EQ(options->tenants.size(), 1u);
  EXPECT_EQ(options->tenants[0].name, "default");
}

TEST(TenantOptionsTest, TablesAreReadInUnits) {
  const auto options = Resolve(
      "warm_capacity = \"1GiB\"\ncold_capacity = \"2GiB\"\n"
      "[[tenant]]\nname = \"team-a\"\nuids = [1001, 1003]\ngids = [70]\nwarm_share = \"256MiB\"\n"
      "[[tenant]]\nname = \"default\"\nwarm_quota = \"130MiB\"\n");
  ASSERT_TRUE(options.ok()) << options.status();
  ASSERT_EQ(options->tenants.size(), 2u);
  const TenantOptions& fallback = options->tenants[0];
  const TenantOptions& team = options->tenants[1];
  EXPECT_EQ(fallback.name, "default");
  EXPECT_EQ(fallback.warm_share_units, 0u);
  EXPECT_EQ(fallback.warm_quota_units, 2u) << "rounded down";
  EXPECT_EQ(team.uids, (std::vector<uid_t>{1001, 1003}));
  EXPECT_EQ(team.gids, (std::vector<gid_t>{70}));
  EXPECT_EQ(team.warm_share_units, 4u);
  EXPECT_EQ(team.warm_quota_units, 16u);
  EXPECT_EQ(team.cold_quota_units, 32u);
  EXPECT_EQ(team.cold_share_units, 1u) << "for the files of an empty store";
}

TEST(TenantOptionsTest, WhatCannotBeIsRefusedWithItsPlace) {
  const std::string a = "[[tenant]]\nname = \"a\"\n";
  EXPECT_THAT(Refusal(a + "uids = [1]\n[[tenant]]\nname = \"b\"\nuids = [2, 1]\n"),
              HasSubstr("t.toml:4: uid 1 is claimed by tenant \"a\" already"));
  EXPECT_THAT(Refusal(a + a), HasSubstr("there is a tenant \"a\" already"));
  EXPECT_THAT(Refusal("[[tenant]]\nuids = [1]\n"), HasSubstr("t.toml:1: a tenant needs a name"));
  EXPECT_THAT(Refusal("[[tenant]]\nname = \"../x\"\n"), HasSubstr("needs a name"));
  EXPECT_THAT(
      Refusal(a + "warm_share = \"1GiB\"\n[[tenant]]\nname = \"b\"\nwarm_share = \"64MiB\"\n"),
      HasSubstr("warm_share together are 1.06 GiB"));
  EXPECT_THAT(Refusal(a + "warm_share = \"2MiB\"\n"), HasSubstr("t.toml:3: warm_share: 2MiB"));
  EXPECT_THAT(Refusal(a + "warm_quota = \"2GiB\"\n"), HasSubstr("more than the 1 GiB"));
  EXPECT_THAT(Refusal(a + "warm_share = \"512MiB\"\nwarm_quota = \"256MiB\"\n"),
              HasSubstr("more than its warm_quota"));
  EXPECT_THAT(Refusal("warm_capacity = \"16MiB\"\n" + a), HasSubstr("in which memory is lent"));
  EXPECT_THAT(Refusal("cold_capacity = \"3MiB\"\n"), HasSubstr("t.toml:1: cold_capacity is less"));
  EXPECT_THAT(Refusal("cold_capacity = \"100MiB\"\n" + a),
              HasSubstr("cold_share together are 128 MiB"));
  EXPECT_THAT(Refusal(a + "uids = [\"bob\"]\n"), HasSubstr("no list of numbers"));
  EXPECT_THAT(Refusal(a + "uids = [-1]\n"), HasSubstr("too small"));
  EXPECT_THAT(Refusal(a + "warm_shares = \"1GiB\"\n"), HasSubstr("did you mean 'warm_share'"));
  EXPECT_THAT(Refusal("[tenant]\nname = \"a\"\n"), HasSubstr("unknown section 'tenant'"));
}

TEST(HotOptionsTest, TheHotTierNeedsAColdOneAndAChunkForEveryTenant) {
  EXPECT_EQ(Resolve("")->hot_capacity_bytes, 0u);
  const auto alone = Resolve("socket = \"/x/socket\"\nhot_capacity = \"64MiB\"\n");
  ASSERT_TRUE(alone.ok()) << alone.status();
  EXPECT_EQ(alone->hot_capacity_bytes, 64u << 20);
  EXPECT_EQ(alone->vram_socket, "/x/socket.vram");
  EXPECT_THAT(Refusal("hot_capacity = \"1GiB\"\ncold_capacity = \"0\"\n"),
              HasSubstr("t.toml:1: hot_capacity needs a cold tier"));
  EXPECT_THAT(Refusal("hot_capacity = \"100MiB\"\n[[tenant]]\nname = \"a\"\n"),
              HasSubstr("for each of 2 tenants"));
}

TEST(TenantOptionsTest, ATenantHasItsOwnKeysAndCodecOrTheDaemons) {
  const auto resolved = Resolve(
      "cold_codec = \"zstd\"\ncold_key_file = \"/all\"\n"
      "[[tenant]]\nname = \"a\"\nuids = [1]\ncold_key_command = \"/bin/keys a\"\n"
      "[[tenant]]\nname = \"b\"\nuids = [2]\ncold_codec = \"none\"\n");
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const auto& tenants = resolved->tenants;
  ASSERT_EQ(tenants.size(), 3u);
  EXPECT_EQ(tenants[0].cold_keys.file, "/all");
  EXPECT_EQ(tenants[0].cold_codec, Codec::kZstd);
  EXPECT_EQ(tenants[1].cold_keys.file, "");
  EXPECT_EQ(tenants[1].cold_keys.command, "/bin/keys a");
  EXPECT_EQ(tenants[1].cold_codec, Codec::kZstd);
  EXPECT_EQ(tenants[2].cold_keys.file, "/all");
  EXPECT_EQ(tenants[2].cold_codec, Codec::kNone);
  EXPECT_FALSE(Resolve("")->tenants[0].cold_keys);
  EXPECT_THAT(Refusal("cold_key_file = \"/a\"\ncold_key_command = \"/b\"\n"),
              HasSubstr("set one of them"));
}

TEST(TenantOptionsTest, WhatIsPrintedReadsBackTheSame) {
  Options options(DaemonOptionTable());
  ASSERT_TRUE(
      ReadConfig("[[tenant]]\nname = \"a\"\nuids = [1, 2]\nwarm_share = \"64MiB\"\n", "t", options)
          .ok());
  Options again(DaemonOptionTable());
  const absl::Status read = ReadConfig(ConfigText(options), "printed", again);
  ASSERT_TRUE(read.ok()) << read << ConfigText(options);
  ASSERT_EQ(again.rows().size(), 1u);
  EXPECT_EQ(again.rows()[0].String("name"), "a");
  EXPECT_EQ(again.rows()[0].IntList("uids"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(again.rows()[0].Bytes("warm_share"), uint64_t{64} << 20);
}

}  // namespace
}  // namespace thermocline
