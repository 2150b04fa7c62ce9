// Who comes to the session socket: who is welcomed, and who is refused and why.
#include "tests/daemon/session_server_fixture.h"

namespace thermocline {
namespace {

TEST_F(SessionServerTest, HelloIsWelcomedWithTokenAndDescriptors) {
  Start();
  const RawSession session = SayHello(path_);
  ASSERT_TRUE(session.welcomed()) << session.refused.message();
  EXPECT_EQ(session.welcome.session_token().size(), 32u);
  EXPECT_EQ(session.welcome.epoch(), 77u);
  EXPECT_EQ(session.welcome.arena_bytes(), 8192u);
  EXPECT_EQ(session.welcome.grpc_socket(), "G");
  EXPECT_EQ(session.welcome.admin_socket(), "") << "it did not ask for it";
  EXPECT_EQ(session.welcome.daemon_version(), "1.2.3");
  EXPECT_EQ(session.control->magic.load(), kControlAreaMagic);
  EXPECT_EQ(session.control->epoch.load(), 77u);
  EXPECT_GT(session.control->lease_until_ns.load(), BootNanoseconds());
  EXPECT_EQ(::ftruncate(session.control_fd.get(), 0), -1) << "a shrunk area would kill the daemon";
  const auto identity = registry_.Find(session.token());
  ASSERT_TRUE(identity);
  EXPECT_EQ(identity->session, session.welcome.session());
  EXPECT_FALSE(identity->admin);
  struct stat found;
  ASSERT_EQ(::stat(path_.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0600u);
  ASSERT_EQ(::stat((directory_ + "/s").c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0700u);
}

TEST_F(SessionServerTest, AdminGetsTheAdminSocketAndRole) {
  Start();
  const RawSession session = SayHello(path_, {.admin = true});
  ASSERT_TRUE(session.welcomed());
  EXPECT_EQ(session.welcome.admin_socket(), "A");
  EXPECT_TRUE(registry_.Find(session.token())->admin);
}

TEST_F(SessionServerTest, TokensDifferAndOnlyOpenOnesAreKnown) {
  Start();
  const RawSession first = SayHello(path_);
  std::string ended;
  {
    const RawSession second = SayHello(path_);
    ended = second.token();
    EXPECT_NE(first.token(), ended);
    EXPECT_TRUE(registry_.Find(ended));
  }
  EXPECT_TRUE(Eventually([&] { return !registry_.Find(ended); }));
  EXPECT_TRUE(registry_.Find(first.token()));
  EXPECT_FALSE(registry_.Find(std::string(64, '0')));
  EXPECT_FALSE(registry_.Find("short"));
  EXPECT_FALSE(registry_.Find(""));
}

TEST_F(SessionServerTest, OtherVersionsAreRefusedWithAdvice) {
  Start();
  EXPECT_THAT(RefusalOf(testing::HelloFrame({.protocol_version = kProtocolVersion + 1})).message(),
              HasSubstr("upgrade the daemon"));
  EXPECT_THAT(RefusalOf(testing::HelloFrame({.protocol_version = 0})).message(),
              HasSubstr("upgrade the client"));
  const v1::Refused layout = RefusalOf(testing::HelloFrame({.layout_version = kLayoutVersion + 1}));
  EXPECT_THAT(layout.message(), HasSubstr("layout version " + std::to_string(kLayoutVersion + 1)));
  EXPECT_EQ(layout.code(), static_cast<uint32_t>(absl::StatusCode::kFailedPrecondition));
}

TEST_F(SessionServerTest, WhoAsksForSlabsAndGoesDoesNotPileUpExports) {
  Start();
  const RawSession session = SayHello(path_);
  ASSERT_TRUE(session.welcomed());
  const std::string words = AskForSlab(NotingHost::kSlowSlab, session.welcome.session_token());
  for (int i = 0; i < 500; ++i) {
    UniqueFd socket = ConnectUnix(path_);
    SendBytes(socket.get(), words);
  }
  // Behind all of them; and there is room for those who want no slab.
  EXPECT_TRUE(Eventually([&] { return SayHello(path_).welcomed(); }));
  EXPECT_GT(host_.exports_under_way, 0u);
  EXPECT_LE(host_.exports_under_way, 16u);
  host_.Expire();
  EXPECT_TRUE(Eventually([&] {
    UniqueFd socket = ConnectUnix(path_);
    SendBytes(socket.get(), AskForSlab(7, session.welcome.session_token()));
    const auto frame = ReceiveFrame(socket.get());
    return frame && frame->kind == FrameKind::kSlab;
  }));
}

TEST_F(SessionServerTest, ASlabOfTheDeviceIsHandedToWhoHasASession) {
  Start();
  const RawSession session = SayHello(path_);
  UniqueFd socket = ConnectUnix(path_);
  SendBytes(socket.get(), AskForSlab(7, session.welcome.session_token()));
  const auto frame = ReceiveFrame(socket.get());
  ASSERT_TRUE(frame && frame->kind == FrameKind::kSlab);
  EXPECT_EQ(frame->fds.size(), 1u);
  v1::Slab slab;
  EXPECT_TRUE(slab.ParseFromString(frame->payload));
  EXPECT_EQ(slab.bytes(), 4096u);
  char byte;
  EXPECT_LE(::recv(socket.get(), &byte, 1, 0), 0) << "the connection ends";
  EXPECT_THAT(RefusalOf(AskForSlab(8, session.welcome.session_token())).message(),
              HasSubstr("no such"));
  EXPECT_EQ(RefusalOf(AskForSlab(7, std::string(32, 'x'))).code(),
            static_cast<uint32_t>(absl::StatusCode::kUnauthenticated));
  EXPECT_EQ(server_->counters().sessions, 1u);
}

TEST_F(SessionServerTest, GarbageIsRefusedAndHurtsNobodyElse) {
  Start();
  RawSession good = SayHello(path_);
  EXPECT_THAT(RefusalOf(std::string(64, 'x')).message(), HasSubstr("no frame"));
  EXPECT_THAT(RefusalOf(testing::Frame(4, "")).message(), HasSubstr("must be Hello"));
  EXPECT_THAT(RefusalOf(testing::Frame(1, "\xff\xff\xff\xff")).message(), HasSubstr("parse"));
  std::string oversize = testing::Frame(1, "");
  const uint32_t bytes = kMaxFrameBytes + 1;
  std::memcpy(oversize.data(), &bytes, 4);
  EXPECT_THAT(RefusalOf(oversize).message(), HasSubstr("longer than"));
  RawSession twice = SayHello(path_);
  SendBytes(twice.socket.get(), testing::HelloFrame());
  const auto refused = ReceiveFrame(twice.socket.get());
  ASSERT_TRUE(refused && refused->kind == FrameKind::kRefused);
  EXPECT_THAT(refused->payload, HasSubstr("only Goodbye"));
  EXPECT_TRUE(registry_.Find(good.token()));
  EXPECT_TRUE(SayHello(path_).welcomed());
  EXPECT_EQ(server_->counters().refused, 5u);
}

TEST_F(SessionServerTest, SlowHelloIsRefused) {
  options_.hello_deadline = milliseconds(200);
  Start();
  UniqueFd socket = ConnectUnix(path_);
  SendBytes(socket.get(), "abc");
  const auto frame = ReceiveFrame(socket.get());
  ASSERT_TRUE(frame);
  v1::Refused refused;
  refused.ParseFromString(frame->payload);
  EXPECT_THAT(refused.message(), HasSubstr("no Hello within 200 ms"));
}

TEST_F(SessionServerTest, OneSessionTooManyIsRefused) {
  Start();
  std::vector<RawSession> sessions;
  for (int i = 0; i < 4; ++i) sessions.push_back(SayHello(path_));
  for (const RawSession& session : sessions) EXPECT_TRUE(session.welcomed());
  EXPECT_THAT(SayHello(path_).refused.message(), HasSubstr("max_sessions"));
  SendBytes(sessions[0].socket.get(), testing::Frame(4, ""));
  EXPECT_TRUE(Eventually([&] { return SayHello(path_).welcomed(); }));
}

TEST_F(SessionServerTest, WhatTheStackRefusesIsRefused) {
  host_.join_answer = absl::ResourceExhaustedError("no pin area is free");
  Start();
  EXPECT_THAT(SayHello(path_).refused.message(), HasSubstr("no pin area"));
  EXPECT_EQ(registry_.size(), 0u);
}

}  // namespace
}  // namespace thermocline
