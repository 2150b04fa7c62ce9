// Clients without the map against a real daemon, over TLS with certificates made here: whom it lets
// in, how blocks travel, how sessions end, and what the daemon holds out against.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/daemon/http_get.h"
#include "tests/daemon/remote_client.h"

namespace thermocline {
namespace {

using namespace testing;  // NOLINT: all of remote_client.h
using ::testing::HasSubstr;

constexpr uint64_t kBlockBytes = 64 * 1024;

class RemoteTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HaveOpenssl()) GTEST_SKIP() << "needs the program openssl";
    place_ = std::make_unique<RemotePlace>();
    daemon_ = std::make_unique<DaemonProcess>(*place_, place_->Options());
    ASSERT_TRUE(daemon_->Ready());
  }
  void TearDown() override {
    if (daemon_ && daemon_->running()) {
      EXPECT_EQ(daemon_->Stop(), 0) << daemon_->log();
    }
  }
  std::unique_ptr<RemoteClient> Connect(const std::string& token = kWriterToken) {
    auto client = std::make_unique<RemoteClient>(place_->Channel(), token);
    EXPECT_TRUE(client->welcomed()) << daemon_->log();
    return client;
  }
  /// Until nothing is leased or reserved, as a local client sees it.
  bool EverythingReturns() {
    RawClient local(*place_);
    return Eventually([&] {
      const v1::StatsResponse stats = StatsOf(local);
      return stats.leases() == 0 && stats.reservations() == 0;
    });
  }
  std::unique_ptr<RemotePlace> place_;
  std::unique_ptr<DaemonProcess> daemon_;
};

TEST_F(RemoteTest, BlocksTravelBothWays) {
  auto writer = Connect();
  EXPECT_EQ(writer->welcome.tenant(), "default");
  EXPECT_TRUE(writer->welcome.may_write());
  const uint32_t space = OpenTestSpace(*writer, TestSpace(kBlockBytes));
  SendTokens(*writer, space, 40, 1, kBlockBytes);

  auto reader = Connect(kReaderToken);
  EXPECT_FALSE(reader->welcome.may_write());
  const v1::MatchResponse match = MatchTokens(*reader, space, 50, 1);
  EXPECT_EQ(match.depth(), 40u);
  std::vector<std::pair<v1::Block, std::string>> blocks;
  grpc::Status status = ReadLease(*reader, match.lease(), 0, blocks);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(RightBlocks(blocks, 1), 40u);
  blocks.clear();
  status = ReadLease(*reader, match.lease(), 33, blocks);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(blocks.size(), 7u);
  EXPECT_EQ(RightBlocks(blocks, 1, 33), 7u);
  const std::string metrics = Get(*place_, "/metrics");
  const auto counted = [&](const char* direction, uint64_t sent_blocks) {
    return HasSubstr("thermocline_remote_bytes_total{direction=\"" + std::string(direction) +
                     "\"} " + std::to_string(sent_blocks * kBlockBytes) + "\n");
  };
  EXPECT_THAT(metrics, counted("in", 40));
  EXPECT_THAT(metrics, counted("out", 47));

  RawClient local(*place_);
  const v1::MatchResponse in_place =
      MatchTokens(local, OpenTestSpace(local, TestSpace(kBlockBytes)), 40, 1);
  ASSERT_EQ(in_place.blocks_size(), 40);
  for (const v1::Block& block : in_place.blocks()) {
    EXPECT_EQ(std::string(local.arena + block.offset(), block.bytes()),
              PayloadOf(1, block.depth(), kBlockBytes));
  }
}

TEST_F(RemoteTest, BlocksLargerThanAMessageAndColdOnesTravelToo) {
  constexpr uint64_t kLarge = (2 << 20) + 4096;
  auto client = Connect();
  const uint32_t space = OpenTestSpace(*client, TestSpace(kLarge));
  ReleaseLease(*client, SendTokens(*client, space, 3, 2, kLarge));
  RawClient admin(*place_, true);
  v1::FlushRequest flush;
  flush.set_tier(v1::TIER_WARM);
  v1::FlushResponse flushed;
  ASSERT_TRUE(admin.Call(*admin.admin_stub, &v1::Admin::Stub::Flush, flush, &flushed).ok());
  EXPECT_EQ(flushed.blocks(), 3u);
  const v1::MatchResponse match = MatchTokens(*client, space, 3, 2);
  ASSERT_EQ(match.depth(), 3u);
  EXPECT_EQ(match.blocks(0).tier(), v1::TIER_COLD);
  std::vector<std::pair<v1::Block, std::string>> blocks;
  const grpc::Status status = ReadLease(*client, match.lease(), 0, blocks);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(RightBlocks(blocks, 2), 3u);
}

TEST_F(RemoteTest, WhoShowsNoCertificateOrAStrangersIsNotHeard) {
  Certificates strangers(place_->root + "/strangers");
  strangers.Make("client");
  const auto welcomed = [](const std::shared_ptr<grpc::Channel>& channel) {
    RemoteClient client(channel, kWriterToken);
    const bool welcome = client.welcomed();
    if (!welcome) {
      EXPECT_EQ(client.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
    }
    return welcome;
  };
  EXPECT_FALSE(welcomed(place_->ChannelWith(grpc::InsecureChannelCredentials()))) << "plaintext";
  EXPECT_FALSE(welcomed(place_->ChannelWith(
      grpc::SslCredentials({.pem_root_certs = place_->certificates.Content("ca.pem"),
                            .pem_private_key = "",
                            .pem_cert_chain = ""}))));
  EXPECT_FALSE(welcomed(place_->Channel(place_->certificates, strangers)));
  EXPECT_FALSE(welcomed(place_->Channel(strangers, place_->certificates))) << "the client's check";
  EXPECT_TRUE(welcomed(place_->Channel()));
}

TEST_F(RemoteTest, WhoHasNoTokenIsRefused) {
  for (const std::string token : {"", "short", "reader-0123456789abcdef0123456789abcdeg"}) {
    RemoteClient client(place_->Channel(), token);
    EXPECT_FALSE(client.welcomed());
    const grpc::Status status = client.Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << token;
    EXPECT_THAT(status.error_message(), HasSubstr("token"));
  }
  RemoteClient old(place_->Channel(), kWriterToken, 99);
  const grpc::Status status = old.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("upgrade the daemon"));
}

TEST_F(RemoteTest, ASessionIsGoodAtItsOwnDoorOnly) {
  RawClient local(*place_);
  RawClient thief(place_->Channel());
  thief.token = local.token;
  v1::StatsResponse stats;
  EXPECT_EQ(thief.Call(*thief.control, &v1::Control::Stub::Stats, v1::StatsRequest(), &stats)
                .error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  auto remote = Connect();
  RawClient other_thief(RawClient::Channel(place_->socket + ".grpc"));
  other_thief.token = remote->token;
  EXPECT_EQ(
      other_thief.Call(*other_thief.control, &v1::Control::Stub::Stats, v1::StatsRequest(), &stats)
          .error_code(),
      grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(RemoteTest, OnTheSocketNoTokenIsNeededWhereTheMapCannotBeHad) {
  RemoteClient client(RawClient::Channel(place_->socket + ".grpc"), "");
  ASSERT_TRUE(client.welcomed());
  EXPECT_TRUE(client.Beat());
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  SendTokens(client, space, 4, 3, kBlockBytes);
  EXPECT_EQ(MatchTokens(client, space, 4, 3).depth(), 4u);
}

TEST_F(RemoteTest, WhatASessionHeldReturnsWhenItsStreamEnds) {
  auto client = Connect();
  const uint32_t space = OpenTestSpace(*client, TestSpace(kBlockBytes));
  SendTokens(*client, space, 4, 4, kBlockBytes);
  ReserveSlots(*client, space, 8);
  const grpc::Status left = client->Leave();
  EXPECT_TRUE(left.ok()) << left.error_message();
  EXPECT_TRUE(EverythingReturns());
  v1::StatsResponse stats;
  EXPECT_EQ(client->Call(*client->control, &v1::Control::Stub::Stats, v1::StatsRequest(), &stats)
                .error_code(),
            grpc::StatusCode::UNAUTHENTICATED)
      << "the token died with the session";
  auto cut = Connect();
  SendTokens(*cut, space, 4, 5, kBlockBytes);
  cut.reset();  // cancels
  EXPECT_TRUE(EverythingReturns());
}

TEST_F(RemoteTest, ASilentSessionEndsAndABeatingOneDoesNot) {
  const auto start = std::chrono::steady_clock::now();
  auto silent = Connect();
  auto beating = Connect();
  EXPECT_EQ(silent->welcome.lease_ms(), kLeaseMilliseconds);
  const uint32_t space = OpenTestSpace(*silent, TestSpace(kBlockBytes));
  SendTokens(*silent, space, 4, 6, kBlockBytes);
  SendTokens(*beating, space, 4, 7, kBlockBytes);
  RawClient local(*place_);
  EXPECT_EQ(StatsOf(local).leases(), 2u);
  const auto beat = [&] {
    local.session.Beat();
    return beating->Beat();
  };
  while (StatsOf(local).leases() == 2) {
    ASSERT_TRUE(beat());
    ASSERT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(8000));
  const grpc::Status end = silent->Finish();
  EXPECT_EQ(end.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(end.error_message(), HasSubstr("no beat"));
  EXPECT_TRUE(beat());
  EXPECT_EQ(StatsOf(local).leases(), 1u);
}

TEST_F(RemoteTest, ATokenThatIsTakenOutEndsItsSessions) {
  auto writer = Connect();
  auto reader = Connect(kReaderToken);
  place_->WriteTokens(TokenLine(kReaderToken, "reader"));
  const grpc::Status end = writer->Finish();
  EXPECT_EQ(end.error_code(), grpc::StatusCode::UNAUTHENTICATED) << end.error_message();
  EXPECT_TRUE(reader->Beat());
  EXPECT_FALSE(RemoteClient(place_->Channel(), kWriterToken).welcomed());
  // A file that is wrong changes nothing.
  place_->WriteTokens("nonsense\n");
  daemon_->Signal(SIGHUP);
  EXPECT_TRUE(
      Eventually([&] { return daemon_->log().find("tokens_not_reloaded") != std::string::npos; }));
  EXPECT_THAT(daemon_->log(), HasSubstr("tokens:1"));
  EXPECT_TRUE(RemoteClient(place_->Channel(), kReaderToken).welcomed());
}

TEST_F(RemoteTest, WhoOffersAForeignSlotIsCutOff) {
  auto owner = Connect();
  const uint32_t space = OpenTestSpace(*owner, TestSpace(kBlockBytes));
  const uint64_t slot = ReserveSlots(*owner, space, 1).offsets(0);
  const auto commit = [&](const RemoteClient& thief) {
    v1::CommitRequest request;
    request.set_lease(MatchTokens(thief, space, 1, 9).lease());
    request.mutable_names()->set_tokens(TokensOf(1, 9));
    request.add_items()->set_offset(slot);
    v1::CommitResponse response;
    return thief.Call(*thief.data, &v1::Data::Stub::Commit, request, &response);
  };
  const auto abort = [&](const RemoteClient& thief) {
    v1::AbortRequest request;
    request.add_offsets(slot);
    v1::AbortResponse response;
    return thief.Call(*thief.data, &v1::Data::Stub::Abort, request, &response);
  };
  const std::string reason =
      "it offered a slot that was never granted to it, at offset " + std::to_string(slot);
  for (const bool commits : {true, false}) {
    auto thief = Connect();
    EXPECT_EQ((commits ? commit(*thief) : abort(*thief)).error_code(),
              grpc::StatusCode::PERMISSION_DENIED);
    const grpc::Status end = thief->Finish();
    EXPECT_EQ(end.error_code(), grpc::StatusCode::PERMISSION_DENIED);
    EXPECT_THAT(end.error_message(), HasSubstr("this session was cut off: " + reason));
    EXPECT_EQ(abort(*thief).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  }
  EXPECT_THAT(daemon_->log(), HasSubstr("session_refused"));
  EXPECT_THAT(daemon_->log(), HasSubstr(reason));
  EXPECT_TRUE(abort(*owner).ok()) << "the slot is its own still";
  EXPECT_TRUE(owner->Beat());
}

TEST_F(RemoteTest, SlotsAreFilledInOrderWholeAndByTheirOwner) {
  auto client = Connect();
  auto thief = Connect();
  const uint32_t space = OpenTestSpace(*client, TestSpace(kBlockBytes));
  const v1::ReserveResponse slots = ReserveSlots(*client, space, 2);
  const uint64_t slot = slots.offsets(0);
  const auto code = [&](const RawClient& by, const std::vector<v1::WritePiece>& pieces) {
    return WritePieces(by, pieces).error_code();
  };
  const std::string kib(1024, 'x');
  EXPECT_EQ(code(*thief, {Piece(slot, 0, kib)}), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(code(*client, {Piece(slot + 4096, 0, kib)}), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(code(*client, {Piece(slot, 1, kib)}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(*client, {Piece(slot, kBlockBytes - 1, kib)}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(*client, {Piece(slot, ~uint64_t{0} - 8, kib)}),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(*client, {Piece(slot, 0, "")}), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(*client, {Piece(slot, 0, std::string((1 << 20) + 1, 'x'))}),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(*client, {Piece(slot, 0, kib), Piece(slot, 1024, kib)}), grpc::StatusCode::OK);

  const uint64_t lease = MatchTokens(*client, space, 2, 8).lease();
  const grpc::Status early = CommitSlots(*client, lease, 8, slots);
  EXPECT_EQ(early.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(early.error_message(), HasSubstr("filled"));
  for (int i = 0; i < 2; ++i) {
    const auto depth = static_cast<uint32_t>(i);
    EXPECT_EQ(code(*client, PiecesOf(slots.offsets(i), PayloadOf(8, depth, kBlockBytes))),
              grpc::StatusCode::OK)
        << "begun anew";
  }
  EXPECT_EQ(CommitSlots(*client, lease, 8, slots, 12345).error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(CommitSlots(*client, lease, 8, slots).error_code(), grpc::StatusCode::OK);
  EXPECT_EQ(code(*client, {Piece(slot, 0, kib)}), grpc::StatusCode::FAILED_PRECONDITION)
      << "published blocks are nobody's to write";
}

TEST_F(RemoteTest, ASlotThatIsGrantedAnewMustBeFilledAnew) {
  auto client = Connect();
  const uint32_t space = OpenTestSpace(*client, TestSpace(kBlockBytes));
  const uint64_t lease = MatchTokens(*client, space, 1, 9).lease();
  // All of the arena, so that the same slots come again.
  std::vector<uint64_t> offsets;
  v1::ReserveRequest reserve;
  reserve.set_space(space);
  reserve.set_count(256);
  v1::ReserveResponse slots;
  ASSERT_TRUE(client->Call(*client->data, &v1::Data::Stub::Reserve, reserve, &slots).ok());
  for (const uint64_t offset : slots.offsets()) {
    ASSERT_TRUE(WritePieces(*client, {Piece(offset, 0, std::string(kBlockBytes, 's'))}).ok());
  }
  v1::AbortRequest abort;
  *abort.mutable_offsets() = slots.offsets();
  v1::AbortResponse aborted;
  ASSERT_TRUE(client->Call(*client->data, &v1::Data::Stub::Abort, abort, &aborted).ok());
  ASSERT_TRUE(client->Call(*client->data, &v1::Data::Stub::Reserve, reserve, &slots).ok());
  v1::ReserveResponse one;
  one.add_offsets(slots.offsets(0));
  EXPECT_THAT(CommitSlots(*client, lease, 9, one).error_message(), HasSubstr("filled"));
}

TEST_F(RemoteTest, ALeaseThatEndsStopsItsStreams) {
  auto client = Connect();
  const uint32_t space = OpenTestSpace(*client, TestSpace(kBlockBytes));
  const uint64_t lease = SendTokens(*client, space, 128, 10, kBlockBytes);
  grpc::ClientContext context;
  client->Prepare(context);
  v1::ReadRequest request;
  request.set_lease(lease);
  const auto reader = client->data->Read(&context, request);
  v1::ReadResponse response;
  ASSERT_TRUE(reader->Read(&response));
  ReleaseLease(*client, lease);
  size_t bytes = 0;
  while (reader->Read(&response)) {
    for (const v1::ReadPiece& piece : response.pieces()) {
      bytes += piece.data().size();
      EXPECT_EQ(piece.data(), PayloadOf(10, piece.block().depth(), kBlockBytes)
                                  .substr(piece.at(), piece.data().size()));
    }
  }
  const grpc::Status status = reader->Finish();
  EXPECT_FALSE(status.ok() && bytes < 127 * kBlockBytes) << "an end that looks like all";
}

TEST_F(RemoteTest, StreamsAreBoundedAndAClientThatDoesNotReadIsCutOffWithItsSession) {
  auto client = Connect();
  const uint32_t space = OpenTestSpace(*client, TestSpace(kBlockBytes));
  constexpr uint32_t kBlocks = 220;  // more than a connection takes ahead of its reader
  const uint64_t lease = SendTokens(*client, space, kBlocks, 11, kBlockBytes);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::ReadResponse>>> readers;
  v1::ReadRequest request;
  request.set_lease(lease);
  grpc::Status refused = grpc::Status::OK;
  for (int i = 0; i < 17; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    client->Prepare(*contexts.back());
    readers.push_back(client->data->Read(contexts.back().get(), request));
    readers.back()->WaitForInitialMetadata();  // with the first message, or the refusal
  }
  v1::ReadResponse response;
  while (readers.back()->Read(&response)) {
  }
  refused = readers.back()->Finish();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << refused.error_message();
  readers.pop_back();
  client->Leave();  // the streams hang, 16 messages of 1 MiB under way
  EXPECT_TRUE(EverythingReturns());
  for (const auto& reader : readers) {
    size_t bytes = 0;
    while (reader->Read(&response)) {
      for (const v1::ReadPiece& piece : response.pieces()) bytes += piece.data().size();
    }
    // All of it may have been on its way already.
    EXPECT_FALSE(reader->Finish().ok() && bytes < kBlocks * kBlockBytes)
        << "an end that looks like all";
  }
}

TEST_F(RemoteTest, CertificatesAreTakenUpWhileItServes) {
  auto before = Connect();
  Certificates next(place_->root + "/next");
  next.Make("server");
  next.Make("client");
  for (const char* file : {"server.key", "server.pem", "ca.pem"}) {
    ASSERT_TRUE(WriteFileAtomically(place_->certificates.Path(file), next.Content(file)).ok());
  }
  daemon_->Signal(SIGHUP);
  EXPECT_TRUE(Eventually([&] {
    return RemoteClient(place_->Channel(next, next), kWriterToken).welcomed();
  })) << daemon_->log();
  EXPECT_THAT(daemon_->log(), HasSubstr("certificates_looked_at"));
  Certificates strangers(place_->root + "/strangers");
  strangers.Make("client");
  EXPECT_FALSE(RemoteClient(place_->Channel(next, strangers), kWriterToken).welcomed());
  EXPECT_TRUE(before->Beat()) << "who is in stays in";

  // A key that does not belong to the certificate is told, and is no way in.
  ASSERT_TRUE(
      WriteFileAtomically(place_->certificates.Path("server.key"), next.Content("client.key"))
          .ok());
  daemon_->Signal(SIGHUP);
  EXPECT_TRUE(Eventually(
      [&] { return daemon_->log().find("certificates_do_not_fit") != std::string::npos; }));
  ASSERT_TRUE(
      WriteFileAtomically(place_->certificates.Path("server.key"), next.Content("server.key"))
          .ok());
  EXPECT_TRUE(Eventually([&] {
    return RemoteClient(place_->Channel(next, next), kWriterToken).welcomed();
  })) << daemon_->log();
}

TEST_F(RemoteTest, AStoppingDaemonSaysSo) {
  auto client = Connect();
  daemon_->Signal(SIGTERM);
  const grpc::Status end = client->Finish();
  EXPECT_EQ(end.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(end.error_message(), HasSubstr("stops"));
  EXPECT_EQ(daemon_->Wait(), 0);
  EXPECT_FALSE(std::filesystem::exists(place_->socket + ".tcp"));
}

TEST(RemoteStart, IsRefusedWithoutItsProtections) {
  if (!HaveOpenssl()) GTEST_SKIP() << "needs the program openssl";
  RemotePlace place;
  const auto log_of = [&](std::vector<std::string> options) {
    DaemonProcess daemon(place, options);
    EXPECT_NE(daemon.Wait(), 0);
    return daemon.log();
  };
  const std::vector<std::string> all = place.Options();
  for (size_t left_out = 1; left_out < all.size(); ++left_out) {
    std::vector<std::string> options = all;
    options.erase(options.begin() + static_cast<ptrdiff_t>(left_out));
    EXPECT_THAT(log_of(options), HasSubstr(left_out <= 2 ? "go together" : "--insecure"));
  }
  EXPECT_THAT(log_of({all[0]}), HasSubstr("tls_certificate, tls_key, tls_client_ca, token_file"));
  const auto with = [&](size_t index, const std::string& option) {
    std::vector<std::string> options = all;
    options[index] = option;
    return options;
  };
  EXPECT_THAT(log_of(with(1, "--tls-certificate=/nowhere")), HasSubstr("tls_certificate"));
  EXPECT_THAT(log_of(with(2, "--tls-key=" + place.certificates.Path("client.key"))),
              HasSubstr("is not the key of tls_certificate"));
  EXPECT_THAT(log_of(with(3, "--tls-client-ca=" + place.token_file)),
              HasSubstr("holds no certificate"));
  ::chmod(place.token_file.c_str(), 0666);
  EXPECT_THAT(log_of(all), HasSubstr("chmod go-w"));
}

TEST(RemoteStart, InsecureLetsInWhomItIsToldTo) {
  DaemonPlace place;
  DaemonProcess daemon(place, {"--grpc-listen=127.0.0.1:0", "--insecure"});
  ASSERT_TRUE(daemon.Ready());
  EXPECT_THAT(daemon.log(), HasSubstr("insecure_listener"));
  std::string address = ContentOf(place.socket + ".tcp");
  address.pop_back();
  RemoteClient client(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()), "");
  EXPECT_TRUE(client.welcomed());
  EXPECT_TRUE(client.Beat());
}

}  // namespace
}  // namespace thermocline
