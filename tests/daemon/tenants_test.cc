// Several tenants in one daemon, as their users see it: processes of other users, by thermoctl.
// Needs root, to become those users.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>

#include "tests/daemon/daemon_process.h"

namespace thermocline {
namespace {

using namespace testing;  // NOLINT: all of daemon_process.h
using Json = nlohmann::json;
using ::testing::HasSubstr;

constexpr uid_t kAlice = 61001, kBob = 61002, kMallory = 61003;
/// What a program printed, and its exit code.
struct Ran {
  int code = -1;
  std::string output;
  Json json() const { return Json::parse(output, nullptr, false); }
};

class TenantsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can start processes of other users";
    ::chmod(place_.root.c_str(), 0755);
    // Where other users reach it, wherever the build is.
    std::filesystem::copy_file(TC_BUILD_DIR "/bin/thermoctl", place_.root + "/thermoctl");
    place_.warm_capacity = "256MiB";
    place_.cold_capacity = "0";
    WriteFile("one", 3 << 20);
    WriteFile("two", 3 << 20);
    WriteFile("half", 32 << 20);
  }
  void Configure(const std::string& tables) { std::ofstream(place_.root + "/config") << tables; }
  void StartDaemon(const std::vector<std::string>& more = {}) {
    std::vector<std::string> words = {"--config=" + place_.root + "/config"};
    words.insert(words.end(), more.begin(), more.end());
    daemon_ = std::make_unique<DaemonProcess>(place_, words);
    ASSERT_TRUE(daemon_->Ready());
  }
  std::string PathOf(const std::string& name) const { return place_.root + "/" + name; }
  void WriteFile(const std::string& name, uint64_t bytes) {
    std::string content(bytes, '\0');
    for (uint64_t at = 0; at < bytes; at += 4096) content[at] = static_cast<char>(at >> 12);
    std::ofstream(PathOf(name), std::ios::binary) << content;
    ::chmod(PathOf(name).c_str(), 0644);
  }
  /// thermoctl --json as that user.
  Ran Ctl(uid_t uid, std::vector<std::string> words) {
    words.insert(words.begin(), {PathOf("thermoctl"), "--json", "--socket=" + place_.socket});
    int output[2];
    EXPECT_EQ(::pipe2(output, O_CLOEXEC), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      ::dup2(output[1], 1);
      if (::setgid(uid) != 0 || ::setuid(uid) != 0) ::_exit(126);
      std::vector<char*> argv;
      for (std::string& word : words) argv.push_back(word.data());
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(output[1]);
    Ran ran;
    char piece[4096];
    for (ssize_t count; (count = ::read(output[0], piece, sizeof piece)) > 0;) {
      ran.output.append(piece, static_cast<size_t>(count));
    }
    ::close(output[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    return ran;
  }
  ::testing::AssertionResult Put(uid_t uid, const std::string& name, const std::string& file) {
    const Ran ran = Ctl(uid, {"put", "--name=" + name, PathOf(file)});
    if (ran.code == 0) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << ran.output;
  }
  /// How many blocks of the file are in that tier to that user.
  size_t Count(const char* tier, uid_t uid, const std::string& name) {
    const Json json = Ctl(uid, {"match", "--name=" + name}).json();
    size_t count = 0;
    for (const Json& block : json.value("blocks", Json::array())) {
      count += block["tier"] == tier ? 1 : 0;
    }
    return count;
  }
  size_t Warm(uid_t uid, const std::string& name) { return Count("warm", uid, name); }

  DaemonPlace place_;
  std::unique_ptr<DaemonProcess> daemon_;
};

TEST_F(TenantsTest, ByUserTheyDoNotSeeEachOther) {
  Configure(
      "[[tenant]]\nname = \"alice\"\nuids = [61001]\n"
      "[[tenant]]\nname = \"bob\"\ngids = [61002]\n");
  StartDaemon();
  ASSERT_TRUE(Put(kAlice, "f", "one"));
  const size_t blocks = Warm(kAlice, "f");
  EXPECT_GT(blocks, 0u);
  EXPECT_EQ(Warm(kBob, "f"), 0u) << "the same name";
  EXPECT_NE(Ctl(kBob, {"get", "--name=f", "/dev/null"}).code, 0);
  EXPECT_EQ(Ctl(kBob, {"spaces"}).json()["spaces"][0]["places"], 0) << "what its own match opened";
  ASSERT_TRUE(Put(kBob, "f", "two"));
  EXPECT_EQ(Warm(kAlice, "f"), blocks);
  EXPECT_EQ(Warm(0, "f"), 0u) << "nor does root, who is the default tenant's client";
  const Ran stranger = Ctl(kMallory, {"status"});
  EXPECT_NE(stranger.code, 0);
  EXPECT_THAT(stranger.output, HasSubstr("no tenant of this daemon names uid 61003"));
  EXPECT_NE(Ctl(kAlice, {"flush", "--tier=warm"}).code, 0) << "no admin";

  // A restart adopts all of it, for each its own.
  daemon_->Stop();
  StartDaemon();
  EXPECT_EQ(Warm(kAlice, "f"), blocks);
  EXPECT_EQ(Warm(kBob, "f"), blocks);
  EXPECT_EQ(Warm(0, "f"), 0u);
  daemon_->Signal(SIGKILL);
  daemon_->Wait();
  StartDaemon();
  EXPECT_EQ(Warm(kAlice, "f"), blocks);
  EXPECT_EQ(Warm(kBob, "f"), blocks);

  // An admin's verb is the machine's.
  EXPECT_EQ(Ctl(0, {"arena", "drop"}).code, 0);
  EXPECT_EQ(Warm(kAlice, "f"), 0u);
  EXPECT_EQ(Warm(kBob, "f"), 0u);
}

TEST_F(TenantsTest, ByTokenTheyDoNotSeeEachOtherAndTheSocketAsksForOne) {
  Configure("[[tenant]]\nname = \"alice\"\nuids = [61001]\n[[tenant]]\nname = \"bob\"\n");
  const std::string token(40, 't');
  { std::ofstream(PathOf("token")) << token; }
  ::chmod(PathOf("token").c_str(), 0644);
  // sha256 of forty t
  const std::string command =
      "printf %s " + token + " | sha256sum | cut -d' ' -f1 > " + PathOf("hash");
  ASSERT_EQ(std::system(command.c_str()), 0);
  std::string hash;
  std::ifstream(PathOf("hash")) >> hash;
  { std::ofstream(PathOf("tokens")) << hash << " bob writer test\n"; }
  ::chmod(PathOf("tokens").c_str(), 0600);
  StartDaemon({"--token-file=" + PathOf("tokens")});
  ASSERT_TRUE(Put(kAlice, "f", "one"));
  const std::string address = "--address=unix://" + place_.socket + ".grpc";
  const std::string with = "--token-file=" + PathOf("token");
  const Ran bob = Ctl(kMallory, {address, with, "match", "--name=f"});
  EXPECT_THAT(bob.output, HasSubstr("no file named 'f'"));
  EXPECT_EQ(Ctl(kMallory, {address, with, "put", "--name=f", PathOf("two")}).code, 0);
  EXPECT_GT(Ctl(kMallory, {address, with, "match", "--name=f"}).json()["places"], 0);
  const Ran none = Ctl(kMallory, {address, "match", "--name=f"});
  EXPECT_NE(none.code, 0);
  EXPECT_THAT(none.output, HasSubstr("token"));
}

TEST_F(TenantsTest, AFloodCostsAnotherNothingOfItsShareAndOneAloneMayUseAll) {
  place_.warm_capacity = "320MiB";  // five chunks
  WriteFile("big", 64 << 20);
  Configure(
      "[[tenant]]\nname = \"alice\"\nuids = [61001]\nwarm_share = \"128MiB\"\n"
      "[[tenant]]\nname = \"bob\"\nuids = [61002]\n");
  StartDaemon();
  // Alone: all but what is kept free for the next put.
  for (int i = 0; i < 9; ++i) ASSERT_TRUE(Put(kBob, "b" + std::to_string(i), "half"));
  size_t bobs = 0;
  const size_t per_file = Warm(kBob, "b8");
  for (int i = 0; i < 9; ++i) bobs += Warm(kBob, "b" + std::to_string(i));
  EXPECT_EQ(bobs, 9 * per_file) << "288 of 320 MiB";
  // Late, the other has its share all the same: 96 of 128 MiB.
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Put(kAlice, "a" + std::to_string(i), "half"));
  const auto all_of_alice = [&] {
    size_t warm = 0;
    for (int i = 0; i < 3; ++i) warm += Warm(kAlice, "a" + std::to_string(i));
    return warm;
  };
  EXPECT_EQ(all_of_alice(), 3 * per_file);
  // Four times the capacity.
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Put(kBob, "flood" + std::to_string(i), "big"));
  EXPECT_EQ(all_of_alice(), 3 * per_file);
  EXPECT_EQ(Warm(kBob, "flood19"), 2 * per_file - 1) << "each file has one block of its own beside";

  const Json tenants = Ctl(0, {"tenants"}).json()["tenants"];
  ASSERT_EQ(tenants.size(), 3u);
  EXPECT_EQ(tenants[1]["tenant"], "alice");
  EXPECT_EQ(tenants[1]["warm_share_bytes"], 128 << 20);
  EXPECT_GE(tenants[1]["warm_lent_bytes"], 128 << 20);
  EXPECT_EQ(tenants[2]["warm_quota_bytes"], 320 << 20);
  EXPECT_NE(Ctl(kBob, {"tenants"}).code, 0) << "what others use is none of its business";
}

TEST_F(TenantsTest, OneWithAColdQuotaHasNoMoreOfTheDiskAndAnotherLosesNothing) {
  place_.cold_capacity = "512MiB";
  constexpr uint64_t kQuota = 64 << 20;
  Configure(
      "[[tenant]]\nname = \"alice\"\nuids = [61001]\ncold_quota = \"64MiB\"\n"
      "[[tenant]]\nname = \"bob\"\nuids = [61002]\n");
  StartDaemon();
  const auto put_to_disk = [&](uid_t uid, const std::string& name) {
    ASSERT_TRUE(Put(uid, name, "half"));
    EXPECT_TRUE(Eventually([&] { return Ctl(0, {"flush", "--tier=warm"}).json()["kept"] == 0; }));
  };
  for (int i = 0; i < 4; ++i) put_to_disk(kAlice, "a" + std::to_string(i));
  for (int i = 0; i < 4; ++i) put_to_disk(kBob, "b" + std::to_string(i));
  constexpr size_t kFileBlocks = (32 << 20) / (64 << 10);  // but the header, which a match warms
  size_t alices = 0, bobs = 0;
  for (int i = 0; i < 4; ++i) alices += Count("cold", kAlice, "a" + std::to_string(i));
  for (int i = 0; i < 4; ++i) bobs += Count("cold", kBob, "b" + std::to_string(i));
  EXPECT_GT(alices, 0u);
  EXPECT_LE(alices * (64 << 10), kQuota);
  EXPECT_EQ(bobs, 4 * kFileBlocks) << "twice as much";

  const Json tenants = Ctl(0, {"tenants"}).json()["tenants"];
  ASSERT_EQ(tenants.size(), 3u);
  EXPECT_EQ(tenants[1]["cold_quota_bytes"], kQuota);
  EXPECT_LE(tenants[1]["cold_used_bytes"], kQuota);
  EXPECT_GE(tenants[2]["cold_used_bytes"], 2 * kQuota);
}

}  // namespace
}  // namespace thermocline
