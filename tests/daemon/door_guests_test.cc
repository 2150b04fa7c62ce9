// Who gets in at a door, and who does not any more: by process, by user, by address, and of all.
#include "daemon/door_guests.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <map>
#include <string>

#include "base/unique_fd.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

constexpr uid_t kDaemon = 900, kAlice = 1001, kBob = 1002;
constexpr DoorGuests::Limits kLimits{
    .all = 64, .of_user = 16, .of_process = 8, .of_address = 16, .own_user = kDaemon};

class DoorGuestsTest : public ::testing::Test {
 protected:
  absl::Status Come(uid_t uid, pid_t pid) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    const UniqueFd far(ends[1]);
    UniqueFd near(ends[0]);
    absl::Status admitted = guests_.Admit(near.get(), {.uid = uid, .gids = {uid}, .pid = pid});
    if (admitted.ok()) inside_.emplace(uid, std::move(near));
    return admitted;
  }
  absl::Status ComeFrom(const std::string& address) {
    UniqueFd connection(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    absl::Status admitted = guests_.Admit(connection.get(), address);
    if (admitted.ok()) from_.emplace(address, std::move(connection));
    return admitted;
  }
  size_t Inside(uid_t uid) const { return inside_.count(uid); }
  void Leave(uid_t uid) { inside_.erase(uid); }

  DoorGuests guests_{kLimits};
  std::multimap<uid_t, UniqueFd> inside_;
  std::multimap<std::string, UniqueFd> from_;
};

TEST_F(DoorGuestsTest, AProcessGetsItsShareAndItsUserMore) {
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(Come(kAlice, 10).ok());
  const absl::Status refused = Come(kAlice, 10);
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_THAT(refused.message(), HasSubstr("process 10 of user 1001 has 8 connections"));
  EXPECT_TRUE(Come(kAlice, 11).ok());
}

TEST_F(DoorGuestsTest, WhoForksTakesNoMoreThanAUsersShare) {
  for (pid_t child = 100; child < 116; ++child) {
    for (int i = 0; i < 8; ++i) Come(kAlice, child).IgnoreError();
  }
  EXPECT_EQ(Inside(kAlice), kLimits.of_user);
  EXPECT_THAT(Come(kAlice, 200).message(), HasSubstr("user 1001 has 16 connections already"));
  EXPECT_TRUE(Come(kBob, 300).ok());
  EXPECT_TRUE(Come(kDaemon, 1).ok());
}

TEST_F(DoorGuestsTest, ProcessesOfAnotherPidNamespaceCountForTheirUserAlone) {
  for (int i = 0; i < 20; ++i) Come(kAlice, 0).IgnoreError();
  EXPECT_EQ(Inside(kAlice), kLimits.of_user);
  for (int i = 0; i < 20; ++i) Come(kBob, 0).IgnoreError();
  EXPECT_EQ(Inside(kBob), kLimits.of_user) << "another user's do not count for it";
  for (int i = 0; i < 20; ++i) Come(kDaemon, 0).IgnoreError();
  EXPECT_EQ(Inside(kDaemon), 20u) << "whom nothing keeps from ending the daemon";
}

TEST_F(DoorGuestsTest, NobodyGetsMoreThanThereIs) {
  for (pid_t process = 1; process <= 16; ++process) {
    for (int i = 0; i < 8; ++i) Come(kDaemon, process).IgnoreError();
  }
  EXPECT_EQ(Inside(kDaemon), kLimits.all);
  EXPECT_THAT(Come(kAlice, 500).message(), HasSubstr("all of the 64 connections"));
}

TEST_F(DoorGuestsTest, WhoHasLeftDoesNotCountThoughItsNumberIsAnothersNow) {
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(Come(kAlice, 20 + i % 2).ok());
  ASSERT_FALSE(Come(kAlice, 22).ok());
  Leave(kAlice);
  // The same descriptors, of other sockets.
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(Come(kBob, 30 + i % 2).ok());
  for (int i = 0; i < 16; ++i) EXPECT_TRUE(Come(kAlice, 40 + i % 2).ok()) << i;
  EXPECT_FALSE(Come(kAlice, 42).ok());
}

TEST_F(DoorGuestsTest, AnAddressGetsItsShareAndLeavesTheOthersTheirs) {
  const std::string flood = "192.0.2.1", other = "2001:db8::/64";
  for (int i = 0; i < 20; ++i) ComeFrom(flood).IgnoreError();
  EXPECT_EQ(from_.count(flood), kLimits.of_address);
  const absl::Status refused = ComeFrom(flood);
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_THAT(refused.message(), HasSubstr("address 192.0.2.1 has 16 connections already"));
  EXPECT_TRUE(ComeFrom(other).ok());
  from_.erase(flood);
  EXPECT_TRUE(ComeFrom(flood).ok());
  for (int address = 0; address < 10; ++address) {
    for (int i = 0; i < 16; ++i) ComeFrom("198.51.100." + std::to_string(address)).IgnoreError();
  }
  EXPECT_EQ(from_.size(), kLimits.all);
}

}  // namespace
}  // namespace thermocline
