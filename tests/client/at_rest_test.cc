// A daemon with a key: what its clients get back after restarts, and what is in its files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/client/blocks.h"
#include "tests/client/two_tenants.h"
#include "tests/tiers/scratch_directory.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kPlaces = 20;
constexpr uint64_t kBlockBytes = 16 * 1024;

std::string KeyLine(int number, char digit) {
  return std::to_string(number) + " " + std::string(64, digit) + "\n";
}

void WriteKeys(const std::string& directory, const std::string& lines) {
  std::ofstream(directory + "/keys") << lines;
  ::chmod((directory + "/keys").c_str(), 0600);
}

void Put(Client& client, const std::vector<int32_t>& tokens) {
  auto space = client.OpenSpace(TestSpace(kBlockBytes));
  ASSERT_OK(space.status());
  auto lease = space->Match(tokens);
  ASSERT_OK(lease.status());
  ASSERT_OK(Extend(*space, *lease, tokens, kPlaces));
}

/// Has all blocks of all tenants written to disk, and nowhere else.
void FlushWarm(const DaemonProcess& daemon) {
  auto admin = AdminClient::Connect({.socket_path = daemon.socket()});
  ASSERT_OK(admin.status());
  EXPECT_TRUE(Eventually([&] { return (*admin)->Flush(BlockTier::kWarm)->kept == 0; }));
}

/// How many places come back from the disk, right.
uint32_t FoundCold(Client& client, const std::vector<int32_t>& tokens) {
  auto space = client.OpenSpace(TestSpace(kBlockBytes));
  TC_CHECK(space.ok());
  auto lease = space->Match(tokens);
  TC_CHECK(lease.ok());
  if (lease->depth() == 0) return 0;
  EXPECT_EQ(lease->Find(0)->matched_tier, BlockTier::kCold);
  const auto loaded = lease->Load();
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return RightPlaces(*space, *lease, tokens);
}

class AtRestTest : public ::testing::Test {
 protected:
  void WriteKeys(const std::string& lines) { thermocline::WriteKeys(daemon_.directory(), lines); }
  /// Commits a prompt and has it written to disk.
  void PutCold(const std::vector<int32_t>& tokens) {
    Put(*daemon_.Connect(), tokens);
    FlushWarm();
  }
  void FlushWarm() { thermocline::FlushWarm(daemon_); }
  uint32_t FoundCold(const std::vector<int32_t>& tokens) {
    return thermocline::FoundCold(*daemon_.Connect(), tokens);
  }
  /// How many of the prompt's names and pieces of its payloads lie in the data directory.
  uint64_t Traces(const std::vector<int32_t>& tokens) const {
    std::string all;
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(daemon_.directory() + "/data")) {
      if (!entry.is_regular_file()) continue;
      std::ostringstream text;
      text << std::ifstream(entry.path(), std::ios::binary).rdbuf();
      all += text.str();
    }
    EXPECT_GT(all.size(), kPlaces * kBlockBytes);
    uint64_t found = 0;
    for (uint32_t place = 0; place < kPlaces; ++place) {
      const int32_t* const name = tokens.data() + size_t{place} * kPlaceTokens;
      const auto content = Content(tokens, place, 0, kBlockBytes);
      for (const void* piece : {static_cast<const void*>(name), static_cast<const void*>(name + 8),
                                static_cast<const void*>(content.data()),
                                static_cast<const void*>(content.data() + kBlockBytes / 2)}) {
        found += all.find({static_cast<const char*>(piece), 12}) != std::string::npos;
      }
      found +=
          all.find(std::to_string(name[0]) + "," + std::to_string(name[1])) != std::string::npos;
    }
    return found;
  }

  DaemonProcess daemon_{{.more = {"--cold-key-file", "DIRECTORY/keys", "--cold-codec", "zstd"},
                         .prepare = [](const std::string& directory) {
                           thermocline::WriteKeys(directory, KeyLine(1, 'a'));
                         }}};
};

TEST_F(AtRestTest, BlocksComeBackByTheirKeysAndNothingOfThemIsInTheFiles) {
  const auto first = Prompt(31, kPlaces), second = Prompt(32, kPlaces);
  PutCold(first);
  EXPECT_EQ(Traces(first), 0u);
  EXPECT_EQ(daemon_.Stop(), 0);
  EXPECT_EQ(Traces(first), 0u);
  daemon_.Start();
  EXPECT_EQ(FoundCold(first), kPlaces);

  WriteKeys(KeyLine(1, 'a') + KeyLine(2, 'b'));
  ::kill(daemon_.pid(), SIGHUP);
  EXPECT_TRUE(
      Eventually([&] { return daemon_.Log().find("cold_keys_read") != std::string::npos; }));
  EXPECT_THAT(daemon_.Log(), HasSubstr("tenant=default keys=2 newest=2"));
  PutCold(second);
  EXPECT_EQ(Traces(second), 0u);
  EXPECT_EQ(FoundCold(second), kPlaces);
  EXPECT_TRUE(Eventually([&] { return daemon_.Connect()->Stats()->leases == 0; }));
  FlushWarm();

  EXPECT_EQ(daemon_.Stop(), 0);
  WriteKeys(KeyLine(2, 'b'));  // what the old one sealed is gone with it
  daemon_.Start();
  EXPECT_EQ(FoundCold(first), 0u);
  EXPECT_EQ(FoundCold(second), kPlaces);
  EXPECT_TRUE(Eventually([&] { return daemon_.Connect()->Stats()->leases == 0; }));
  FlushWarm();

  EXPECT_EQ(daemon_.Stop(), 0);
  WriteKeys(KeyLine(2, 'c'));  // of the same number and another
  daemon_.Start();
  EXPECT_EQ(FoundCold(second), 0u);
  EXPECT_THAT(daemon_.Log(), ::testing::Not(HasSubstr("aaaaaaaa")));
}

TEST_F(AtRestTest, ADeletedKeyFileErasesWhileItRuns) {
  const auto first = Prompt(41, kPlaces), second = Prompt(42, kPlaces);
  PutCold(first);
  EXPECT_EQ(FoundCold(first), kPlaces);
  EXPECT_TRUE(Eventually([&] { return daemon_.Connect()->Stats()->leases == 0; }));
  FlushWarm();
  std::filesystem::remove(daemon_.directory() + "/keys");
  ::kill(daemon_.pid(), SIGHUP);
  EXPECT_TRUE(
      Eventually([&] { return daemon_.Log().find("cold_keys_gone") != std::string::npos; }));
  EXPECT_EQ(FoundCold(first), 0u);
  EXPECT_TRUE(Eventually([&] { return daemon_.Log().find("tier_degraded") != std::string::npos; }));
  WriteKeys(KeyLine(1, 'a'));  // even if it comes back
  ::kill(daemon_.pid(), SIGHUP);
  EXPECT_TRUE(
      Eventually([&] { return daemon_.Log().find("cold_keys_read") != std::string::npos; }));
  EXPECT_EQ(FoundCold(first), 0u);
  EXPECT_TRUE(
      Eventually([&] { return daemon_.Log().find("tier_recovered") != std::string::npos; }));
  PutCold(second);
  EXPECT_EQ(FoundCold(second), kPlaces);
}

TEST(AtRestTenantsTest, ADeletedKeyErasesItsTenantAndNoOther) {
  const ScratchDirectory of_alice, of_bob;
  WriteKeys(of_alice.path(), KeyLine(1, 'a'));
  WriteKeys(of_bob.path(), KeyLine(1, 'b'));
  TwoTenants tenants("cold_key_file = \"" + of_bob.path() + "/keys\"\n", "128MiB",
                     "cold_key_file = \"" + of_alice.path() + "/keys\"\n");
  const DaemonProcess& daemon = tenants.daemon;
  const auto tokens = Prompt(51, kPlaces);
  for (Client* const client : {tenants.alice.get(), tenants.bob.get()}) Put(*client, tokens);
  FlushWarm(daemon);
  for (Client* const client : {tenants.alice.get(), tenants.bob.get()}) {
    EXPECT_EQ(FoundCold(*client, tokens), kPlaces);
  }
  FlushWarm(daemon);
  std::filesystem::remove(of_alice.path() + "/keys");
  ::kill(daemon.pid(), SIGHUP);
  const auto logged = [&](const char* text) {
    return daemon.Log().find(text) != std::string::npos;
  };
  EXPECT_TRUE(Eventually([&] { return logged("cold_keys_gone tenant=alice"); })) << daemon.Log();
  EXPECT_EQ(FoundCold(*tenants.alice, tokens), 0u);
  EXPECT_EQ(FoundCold(*tenants.bob, tokens), kPlaces);
  EXPECT_FALSE(logged("cold_keys_gone tenant=bob"));
}

TEST_F(AtRestTest, AWrongKeyFileIsLoggedWhileItRunsAndStopsAStart) {
  WriteKeys("1 nonsense");
  ::kill(daemon_.pid(), SIGHUP);
  EXPECT_TRUE(
      Eventually([&] { return daemon_.Log().find("cold_keys_not_read") != std::string::npos; }));
  PutCold(Prompt(33, kPlaces));  // under the key that it has
  EXPECT_EQ(daemon_.Stop(), 0);

  WriteKeys(KeyLine(1, 'a'));
  ::chmod((daemon_.directory() + "/keys").c_str(), 0644);
  const int log =
      ::open((daemon_.directory() + "/refusal").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  const pid_t pid =
      Spawn({kDaemonBinary, "--socket", daemon_.socket(), "--data-dir",
             daemon_.directory() + "/data", "--arena-dir", daemon_.directory() + "/arena", "--http",
             "off", "--cold-key-file", daemon_.directory() + "/keys"},
            log, log, log);
  int status = 0;
  ::waitpid(pid, &status, 0);
  ::close(log);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 1);
  std::ostringstream text;
  text << std::ifstream(daemon_.directory() + "/refusal").rdbuf();
  EXPECT_THAT(text.str(), HasSubstr("chmod 600"));

  ::chmod((daemon_.directory() + "/keys").c_str(), 0600);
  daemon_.Start();
  EXPECT_EQ(FoundCold(Prompt(33, kPlaces)), kPlaces);
}

}  // namespace
}  // namespace thermocline
