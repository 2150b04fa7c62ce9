// The calls of a real daemon: which of them whom it answers, what it hands out, what it refuses.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <map>
#include <random>
#include <set>

#include "base/units.h"
#include "tests/daemon/daemon_process.h"

namespace thermocline {
namespace {

using testing::Eventually;
using ::testing::HasSubstr;
using testing::HoldsFill;
using testing::LoadLease;
using testing::MatchTokens;
using testing::OpenTestSpace;
using testing::PutTokens;
using testing::RawClient;
using testing::ReleaseLease;
using testing::StatsOf;
using testing::TestSpace;

constexpr uint64_t kBlockBytes = 64 * 1024;

class CallsTest : public testing::DaemonTest {};

TEST_F(CallsTest, WhatIsCommittedIsMatchedAndReadInPlace) {
  RawClient writer(place_);
  const uint32_t space = OpenTestSpace(writer, TestSpace(kBlockBytes));
  EXPECT_EQ(MatchTokens(writer, space, 8, 1).depth(), 0u);
  PutTokens(writer, space, 8, 1, kBlockBytes);
  RawClient reader(place_);
  ASSERT_EQ(OpenTestSpace(reader, TestSpace(kBlockBytes)), space);
  const v1::MatchResponse match = MatchTokens(reader, space, 10, 1);
  EXPECT_EQ(match.depth(), 8u);
  ASSERT_EQ(match.blocks_size(), 8);
  for (const v1::Block& block : match.blocks()) {
    EXPECT_TRUE(HoldsFill(reader, block, 1)) << block.depth();
    EXPECT_TRUE(block.checked()) << "the daemon summed it at commit";
    EXPECT_EQ(block.bytes(), kBlockBytes);
  }
  EXPECT_EQ(MatchTokens(reader, space, 8, 2).depth(), 0u);
  const v1::StatsResponse stats = StatsOf(reader);
  EXPECT_EQ(stats.sessions(), 2u);
  EXPECT_EQ(stats.places(), 8u);
  EXPECT_EQ(stats.spaces(), 1u);
  EXPECT_EQ(stats.tiers(0).blocks(), 8u);
  v1::ListSpacesResponse spaces;
  ASSERT_TRUE(
      reader.Call(*reader.control, &v1::Control::Stub::ListSpaces, v1::ListSpacesRequest(), &spaces)
          .ok());
  ASSERT_EQ(spaces.spaces_size(), 1);
  EXPECT_EQ(spaces.spaces(0).spec().model(), "test");
  EXPECT_EQ(spaces.spaces(0).spec().salt(), "") << "a secret";
}

TEST_F(CallsTest, ColdBlocksComeBackThroughLoadBitForBit) {
  RawClient client(place_, true);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  ReleaseLease(client, PutTokens(client, space, 32, 1, kBlockBytes));
  v1::FlushRequest flush;
  flush.set_tier(v1::TIER_WARM);
  v1::FlushResponse flushed;
  const auto status = client.Call(*client.admin_stub, &v1::Admin::Stub::Flush, flush, &flushed);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(flushed.blocks(), 32u);
  const v1::MatchResponse match = MatchTokens(client, space, 32, 1);
  EXPECT_EQ(match.depth(), 32u);
  for (const v1::Block& block : match.blocks()) EXPECT_EQ(block.tier(), v1::TIER_COLD);
  const std::vector<v1::Block> blocks = LoadLease(client, match.lease());
  ASSERT_EQ(blocks.size(), 32u);
  for (size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(blocks[i].depth(), i) << "prefix order";
    EXPECT_TRUE(HoldsFill(client, blocks[i], 1)) << i;
  }
}

TEST_F(CallsTest, WhatAMatchWithoutAnAnswerLeasedEndsByItsNumber) {
  RawClient client(place_);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  const auto match = [&](uint64_t asked) {
    v1::MatchRequest request;
    request.set_space(space);
    request.mutable_names();
    request.set_asked(asked);
    v1::MatchResponse response;
    return client.Call(*client.data, &v1::Data::Stub::Match, request, &response);
  };
  EXPECT_TRUE(match(1).ok());
  EXPECT_TRUE(match(2).ok());
  EXPECT_TRUE(match(0).ok());
  EXPECT_EQ(StatsOf(client).leases(), 3u);
  v1::ReleaseRequest release;
  release.add_asked(1);
  release.add_asked(3);  // of which the daemon has never heard
  v1::ReleaseResponse released;
  for (int i = 0; i < 2; ++i) {  // it may be told again
    EXPECT_TRUE(client.Call(*client.data, &v1::Data::Stub::Release, release, &released).ok());
    EXPECT_EQ(StatsOf(client).leases(), 2u);
  }
  EXPECT_EQ(match(3).error_code(), grpc::StatusCode::CANCELLED) << "it comes after all";
  EXPECT_EQ(StatsOf(client).leases(), 2u);
}

/// Every call once, by its name, with a request that a session of the role may make.
std::map<std::string, std::function<grpc::Status()>> AllCalls(const RawClient& client) {
  std::map<std::string, std::function<grpc::Status()>> calls;
  const auto add = [&](const char* name, auto& stub, auto method, auto request, auto response) {
    calls[name] = [&client, &stub, method, request, response] {
      auto answer = response;
      return client.Call(stub, method, request, &answer);
    };
  };
  v1::OpenSpaceRequest open;
  *open.mutable_spec() = TestSpace(kBlockBytes);
  v1::PinRequest pin;
  pin.set_ttl_ms(1000);
  v1::ReserveRequest reserve;
  reserve.set_count(1);
  v1::DeleteRequest erase;
  erase.set_fingerprint(std::string(32, 'f'));
  v1::FlushRequest flush;
  flush.set_tier(v1::TIER_COLD);
  auto& control = *client.control;
  auto& data = *client.data;
  auto& admin = *client.admin_stub;
  add("OpenSpace", control, &v1::Control::Stub::OpenSpace, open, v1::OpenSpaceResponse());
  add("ListSpaces", control, &v1::Control::Stub::ListSpaces, v1::ListSpacesRequest(),
      v1::ListSpacesResponse());
  add("Pin", control, &v1::Control::Stub::Pin, pin, v1::PinResponse());
  add("Unpin", control, &v1::Control::Stub::Unpin, v1::UnpinRequest(), v1::UnpinResponse());
  add("ListPins", control, &v1::Control::Stub::ListPins, v1::ListPinsRequest(),
      v1::ListPinsResponse());
  add("Prefetch", control, &v1::Control::Stub::Prefetch, v1::PrefetchRequest(),
      v1::PrefetchResponse());
  add("Stats", control, &v1::Control::Stub::Stats, v1::StatsRequest(), v1::StatsResponse());
  add("Match", data, &v1::Data::Stub::Match, v1::MatchRequest(), v1::MatchResponse());
  add("Reserve", data, &v1::Data::Stub::Reserve, reserve, v1::ReserveResponse());
  add("Commit", data, &v1::Data::Stub::Commit, v1::CommitRequest(), v1::CommitResponse());
  add("Abort", data, &v1::Data::Stub::Abort, v1::AbortRequest(), v1::AbortResponse());
  add("Release", data, &v1::Data::Stub::Release, v1::ReleaseRequest(), v1::ReleaseResponse());
  add("admin.Delete", admin, &v1::Admin::Stub::Delete, erase, v1::DeleteResponse());
  add("admin.Flush", admin, &v1::Admin::Stub::Flush, flush, v1::FlushResponse());
  add("admin.DropArena", admin, &v1::Admin::Stub::DropArena, v1::DropArenaRequest(),
      v1::DropArenaResponse());
  add("admin.Fsck", admin, &v1::Admin::Stub::Fsck, v1::FsckRequest(), v1::FsckResponse());
  calls["Load"] = [&client] {
    grpc::ClientContext context;
    client.Prepare(context);
    return client.data->Load(&context, v1::LoadRequest())->Finish();
  };
  return calls;
}

bool IsAdminCall(const std::string& name) { return name.rfind("admin.", 0) == 0; }
bool LetIn(const grpc::Status& status) {
  return status.error_code() != grpc::StatusCode::UNAUTHENTICATED &&
         status.error_code() != grpc::StatusCode::PERMISSION_DENIED &&
         status.error_code() != grpc::StatusCode::UNIMPLEMENTED;
}

TEST_F(CallsTest, RoleByCall) {
  RawClient user(place_);
  RawClient admin(place_, true);
  RawClient nobody(place_);
  nobody.token = "";
  RawClient forger(place_);
  forger.token = std::string(64, 'a');
  for (const auto& [name, call] : AllCalls(user)) {
    const grpc::Status status = call();
    if (IsAdminCall(name)) {
      EXPECT_EQ(status.error_code(), grpc::StatusCode::PERMISSION_DENIED) << name;
      EXPECT_THAT(status.error_message(), HasSubstr("admin = true")) << name;
    } else {
      EXPECT_TRUE(LetIn(status)) << name << ": " << status.error_message();
    }
  }
  for (const auto& [name, call] : AllCalls(admin)) {
    const grpc::Status status = call();
    EXPECT_TRUE(LetIn(status)) << name << ": " << status.error_message();
  }
  for (const RawClient* stranger : {&nobody, &forger}) {
    for (const auto& [name, call] : AllCalls(*stranger)) {
      const grpc::Status status = call();
      EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << name;
      EXPECT_THAT(status.error_message(), HasSubstr("session")) << name;
    }
  }
  // Destructive verbs are not even there on the open socket, nor the others on the admin socket.
  const auto misplaced = v1::Admin::NewStub(admin.open);
  v1::FlushResponse flushed;
  EXPECT_EQ(
      admin.Call(*misplaced, &v1::Admin::Stub::Flush, v1::FlushRequest(), &flushed).error_code(),
      grpc::StatusCode::UNIMPLEMENTED);
  const auto data = v1::Data::NewStub(admin.admin_channel);
  v1::MatchResponse match;
  EXPECT_EQ(admin.Call(*data, &v1::Data::Stub::Match, v1::MatchRequest(), &match).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

/// The first answer of a method that has no stub here, to one message; its bytes.
std::string FirstAnswer(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                        const std::string& request) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  grpc::CompletionQueue queue;
  const auto done = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  EXPECT_TRUE(done());
  const grpc::Slice slice(request);
  call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
  EXPECT_TRUE(done());
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  EXPECT_TRUE(done());
  grpc::Status status;
  call->Finish(&status, nullptr);
  EXPECT_TRUE(done());
  EXPECT_TRUE(status.ok()) << status.error_message();
  std::vector<grpc::Slice> slices;
  answer.Dump(&slices).ok();
  std::string bytes;
  for (const grpc::Slice& part : slices) {
    bytes.append(reinterpret_cast<const char*>(part.begin()), part.size());
  }
  return bytes;
}

TEST_F(CallsTest, HealthAndReflectionAreThereWithoutASession) {
  for (const auto& [socket, service] : {std::pair(".grpc", "thermocline.v1.Control"),
                                        std::pair(".admin", "thermocline.v1.Admin")}) {
    const auto channel = RawClient::Channel(place_.socket + socket);
    EXPECT_EQ(FirstAnswer(channel, "/grpc.health.v1.Health/Check", ""), "\x08\x01") << "serving";
    EXPECT_THAT(
        FirstAnswer(channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                    "\x3a\x01*"),  // list_services
        HasSubstr(service));
  }
}

TEST_F(CallsTest, TokenDiesWithItsSession) {
  RawClient client(place_);
  EXPECT_EQ(StatsOf(client).sessions(), 1u);
  client.session.socket.Reset();
  EXPECT_TRUE(Eventually([&] {
    v1::StatsResponse response;
    return client.Call(*client.control, &v1::Control::Stub::Stats, v1::StatsRequest(), &response)
               .error_code() == grpc::StatusCode::UNAUTHENTICATED;
  }));
}

TEST_F(CallsTest, RequestsAreBoundedAndWrongOnesSayWhy) {
  RawClient client(place_);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  const auto match = [&](const v1::MatchRequest& request) {
    v1::MatchResponse response;
    return client.Call(*client.data, &v1::Data::Stub::Match, request, &response);
  };
  v1::MatchRequest request;
  request.set_space(space + 1);
  EXPECT_THAT(match(request).error_message(), HasSubstr("OpenSpace first"));
  request.set_space(space);
  request.mutable_names()->set_tokens(std::string(63, 'x'));
  EXPECT_THAT(match(request).error_message(), HasSubstr("token ids have 4"));
  request.mutable_names()->set_tokens(std::string(64 * 32769, 'x'));
  EXPECT_THAT(match(request).error_message(), HasSubstr("the limit is 32768"));
  request.mutable_names()->set_tokens(std::string(9 << 20, 'x'));
  EXPECT_EQ(match(request).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  request.mutable_names()->clear_tokens();
  request.mutable_names()->add_keys("abcd");
  EXPECT_THAT(match(request).error_message(), HasSubstr("named by token ids"));
  request.mutable_names()->add_keys("abc");
  EXPECT_EQ(match(request).error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  v1::ReserveRequest reserve;
  v1::ReserveResponse slots;
  reserve.set_space(space);
  reserve.set_count(100000);
  EXPECT_THAT(client.Call(*client.data, &v1::Data::Stub::Reserve, reserve, &slots).error_message(),
              HasSubstr("the limit is 8192"));
  v1::OpenSpaceRequest open;
  v1::OpenSpaceResponse opened;
  *open.mutable_spec() = TestSpace(64 << 20);
  const grpc::Status refused =
      client.Call(*client.control, &v1::Control::Stub::OpenSpace, open, &opened);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.error_message(), HasSubstr("warm")) << "which option to raise";
}

TEST_F(CallsTest, WhoOffersAForeignSlotIsCutOffAndWrongSumsAreRefused) {
  RawClient owner(place_);
  const uint32_t space = OpenTestSpace(owner, TestSpace(kBlockBytes));
  v1::ReserveRequest reserve;
  reserve.set_space(space);
  reserve.set_count(1);
  v1::ReserveResponse slots;
  ASSERT_TRUE(owner.Call(*owner.data, &v1::Data::Stub::Reserve, reserve, &slots).ok());
  const auto commit = [&](const RawClient& client, uint64_t offset, uint64_t checksum) {
    v1::CommitRequest request;
    request.set_lease(MatchTokens(client, space, 1, 9).lease());
    request.mutable_names()->set_tokens(testing::TokensOf(1, 9));
    request.add_items()->set_offset(offset);
    request.mutable_items(0)->set_checksum(checksum);
    v1::CommitResponse response;
    return client.Call(*client.data, &v1::Data::Stub::Commit, request, &response);
  };
  for (const uint64_t offset : {slots.offsets(0), ~uint64_t{0} - 8}) {  // another's, and nobody's
    RawClient thief(place_);
    EXPECT_EQ(commit(thief, offset, 0).error_code(), grpc::StatusCode::PERMISSION_DENIED);
    const auto ended =
        testing::ReceiveFrame(thief.session.socket.get(), std::chrono::milliseconds(20'000));
    ASSERT_TRUE(ended.has_value() && ended->kind == FrameKind::kRefused);
    const std::string reason =
        "it offered a slot that was never granted to it, at offset " + std::to_string(offset);
    v1::Refused refused;
    ASSERT_TRUE(refused.ParseFromString(ended->payload));
    EXPECT_THAT(refused.message(), HasSubstr("cut off: " + reason));
    EXPECT_EQ(thief.session.control->lease_until_ns.load(), 0u) << "what it reads is a miss";
    v1::StatsResponse stats;
    EXPECT_EQ(thief.Call(*thief.control, &v1::Control::Stub::Stats, v1::StatsRequest(), &stats)
                  .error_code(),
              grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_THAT(daemon_->log(), HasSubstr("session_refused"));
    EXPECT_THAT(daemon_->log(), HasSubstr(reason));
  }
  EXPECT_EQ(StatsOf(owner).sessions(), 1u);
  EXPECT_FALSE(commit(owner, slots.offsets(0) + 16, 0).ok()) << "inside a slot";
  EXPECT_EQ(commit(owner, slots.offsets(0), 12345).error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_TRUE(commit(owner, slots.offsets(0), 0).ok());
}

TEST_F(CallsTest, ReserveHonoursItsDeadlineWhenTheArenaIsFull) {
  RawClient client(place_);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  v1::ReserveRequest reserve;
  reserve.set_space(space);
  reserve.set_count(64);
  v1::ReserveResponse slots;
  grpc::Status status;
  do {  // until everything is granted
    status = client.Call(*client.data, &v1::Data::Stub::Reserve, reserve, &slots);
  } while (status.ok());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
  reserve.set_wait_ms(60'000);
  EXPECT_TRUE(Eventually([&] {  // the answer of a machine that is late may be, too
    grpc::ClientContext context;
    client.Prepare(context);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    status = client.data->Reserve(&context, reserve, &slots);
    return status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
  })) << "before the deadline: "
      << status.error_message();
}

TEST_F(CallsTest, PinsAreListedAndEnd) {
  RawClient client(place_);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  PutTokens(client, space, 4, 1, kBlockBytes);
  v1::PinRequest pin;
  pin.set_space(space);
  pin.mutable_names()->set_tokens(testing::TokensOf(4, 1));
  pin.set_ttl_ms(60'000);
  v1::PinResponse pinned;
  auto status = client.Call(*client.control, &v1::Control::Stub::Pin, pin, &pinned);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(pinned.depth(), 4u);
  v1::ListPinsResponse pins;
  ASSERT_TRUE(
      client.Call(*client.control, &v1::Control::Stub::ListPins, v1::ListPinsRequest(), &pins)
          .ok());
  ASSERT_EQ(pins.pins_size(), 1);
  EXPECT_EQ(pins.pins(0).pin(), pinned.pin());
  v1::UnpinRequest unpin;
  unpin.set_pin(pinned.pin());
  v1::UnpinResponse unpinned;
  EXPECT_TRUE(client.Call(*client.control, &v1::Control::Stub::Unpin, unpin, &unpinned).ok());
  EXPECT_EQ(client.Call(*client.control, &v1::Control::Stub::Unpin, unpin, &unpinned).error_code(),
            grpc::StatusCode::NOT_FOUND);
  pin.set_ttl_ms(0);
  EXPECT_EQ(client.Call(*client.control, &v1::Control::Stub::Pin, pin, &pinned).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(CallsTest, ALeaseThatHasEndedKeepsNoOtherFromBeingReleased) {
  RawClient client(place_);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  const uint64_t ended = MatchTokens(client, space, 4, 1).lease();
  ReleaseLease(client, ended);
  v1::ReleaseRequest release;
  release.add_leases(ended);
  release.add_leases(MatchTokens(client, space, 4, 1).lease());
  v1::ReleaseResponse released;
  EXPECT_TRUE(client.Call(*client.data, &v1::Data::Stub::Release, release, &released).ok());
  EXPECT_EQ(StatsOf(client).leases(), 0u);
}

TEST_F(CallsTest, LoadThatIsCancelledHurtsNobody) {
  RawClient client(place_, true);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  ReleaseLease(client, PutTokens(client, space, 64, 1, kBlockBytes));
  v1::FlushRequest flush;
  flush.set_tier(v1::TIER_WARM);
  v1::FlushResponse flushed;
  ASSERT_TRUE(client.Call(*client.admin_stub, &v1::Admin::Stub::Flush, flush, &flushed).ok());
  for (int round = 0; round < 20; ++round) {
    const v1::MatchResponse match = MatchTokens(client, space, 64, 1);
    grpc::ClientContext context;
    client.Prepare(context);
    v1::LoadRequest request;
    request.set_lease(match.lease());
    const auto reader = client.data->Load(&context, request);
    v1::LoadResponse response;
    if (round % 2 == 0) reader->Read(&response);
    context.TryCancel();
    reader->Finish();
    ReleaseLease(client, match.lease());
  }
  EXPECT_EQ(LoadLease(client, MatchTokens(client, space, 64, 1).lease()).size(), 64u);
}

TEST_F(CallsTest, AStoppedClientLosesItsLeasesAndKeepsItsSlotsUntilItsProcessEnds) {
  RawClient other(place_);
  const uint32_t space = OpenTestSpace(other, TestSpace(kBlockBytes));
  ReleaseLease(other, PutTokens(other, space, 4, 1, kBlockBytes));
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {  // gRPC does not live through a fork: a session is all that it opens
    testing::RawSession session = testing::SayHello(place_.socket);
    session.Beat();
    if (::write(ready[1], session.token().data(), 64) != 64) ::_exit(1);
    for (;;) {
      ::usleep(100'000);
      session.Beat();
    }
  }
  RawClient stopped(place_);  // calls in the child's name
  stopped.token.resize(64);
  ASSERT_EQ(::read(ready[0], stopped.token.data(), 64), 64);
  ASSERT_EQ(MatchTokens(stopped, space, 4, 1).depth(), 4u);
  const uint64_t before = StatsOf(other).leases();
  EXPECT_GE(before, 1u);
  const auto reserve_all = [&](const RawClient& client) {
    v1::ReserveRequest reserve;
    reserve.set_space(space);
    reserve.set_count(16);
    std::set<uint64_t> offsets;
    v1::ReserveResponse slots;
    while (client.Call(*client.data, &v1::Data::Stub::Reserve, reserve, &slots).ok()) {
      offsets.insert(slots.offsets().begin(), slots.offsets().end());
      slots.Clear();
    }
    return offsets;
  };
  const std::set<uint64_t> kept = reserve_all(stopped);
  ASSERT_GT(kept.size(), 100u) << "most of the arena";
  const auto in_both = [&](const std::set<uint64_t>& offsets) {
    return std::count_if(offsets.begin(), offsets.end(),
                         [&](uint64_t offset) { return kept.contains(offset); });
  };
  ::kill(child, SIGSTOP);
  EXPECT_TRUE(Eventually([&] {
    other.session.Beat();
    stopped.session.Beat();
    return StatsOf(other).leases() < before;
  }));
  EXPECT_THAT(daemon_->log(), HasSubstr("session_silent"));
  EXPECT_EQ(in_both(reserve_all(other)), 0) << "it may write there when it wakes";
  EXPECT_GE(StatsOf(other).reservations(), kept.size());
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(Eventually([&] {
    other.session.Beat();
    return in_both(reserve_all(other)) > 100;
  })) << "nobody can any more";
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_F(CallsTest, WhatAKilledClientHasCountedIsNotForgotten) {
  const RawClient other(place_);
  const v1::StatsResponse before = StatsOf(other);
  const pid_t child = ::fork();
  if (child == 0) {
    const testing::RawSession session = testing::SayHello(place_.socket);
    session.control->lookups.fetch_add(1000);
    session.control->warm_hits.fetch_add(777);
    session.control->absent.fetch_add(55);
    ::raise(SIGKILL);
  }
  ::waitpid(child, nullptr, 0);
  EXPECT_TRUE(Eventually([&] { return StatsOf(other).sessions() == 1; }));
  const v1::StatsResponse after = StatsOf(other);
  EXPECT_EQ(after.lookups() - before.lookups(), 1000u);
  EXPECT_EQ(after.misses() - before.misses(), 55u);
  EXPECT_EQ(after.tiers(0).hits() - before.tiers(0).hits(), 777u);
}

// Noise all over its control area, at once and while others work.
TEST_F(CallsTest, OnlyTheClientThatScribblesOverItsControlAreaIsCutOff) {
  RawClient good(place_), bad(place_);
  const uint32_t space = OpenTestSpace(good, TestSpace(kBlockBytes));
  ReleaseLease(good, PutTokens(good, space, 4, 1, kBlockBytes));
  std::mt19937_64 random(7);
  auto* const words = reinterpret_cast<std::atomic<uint64_t>*>(bad.session.control);
  for (size_t i = 0; i < kControlAreaBytes / sizeof(uint64_t); ++i) words[i] = random();
  const auto ended =
      testing::ReceiveFrame(bad.session.socket.get(), std::chrono::milliseconds(20'000));
  ASSERT_TRUE(ended.has_value() && ended->kind == FrameKind::kRefused);
  v1::Refused refused;
  ASSERT_TRUE(refused.ParseFromString(ended->payload));
  EXPECT_THAT(refused.message(), HasSubstr("cut off: a pin in its control area"));
  EXPECT_EQ(bad.session.control->lease_until_ns.load(), 0u) << "what it reads is a miss";
  v1::StatsResponse stats;
  EXPECT_EQ(
      bad.Call(*bad.control, &v1::Control::Stub::Stats, v1::StatsRequest(), &stats).error_code(),
      grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(MatchTokens(good, space, 4, 1).depth(), 4u);
  EXPECT_THAT(daemon_->log(), HasSubstr("session_refused"));
  EXPECT_EQ(StatsOf(good).sessions(), 1u);
}

// It holds a descriptor to write through, and has what it put there by now on its conscience; the
// daemon serves on, and after a restart, too.
TEST_F(CallsTest, WhatAClientDoesToTheFileOfTheArenaEndsNothing) {
  RawClient good(place_);
  const uint32_t space = OpenTestSpace(good, TestSpace(kBlockBytes));
  ReleaseLease(good, PutTokens(good, space, 4, 1, kBlockBytes));
  const auto serves = [&](int32_t seed) {
    good.session.Beat();
    ReleaseLease(good, PutTokens(good, space, 4, seed, kBlockBytes));
    return MatchTokens(good, space, 4, seed).depth() == 4;
  };
  const int arena = good.session.arena.get();
  std::memset(good.arena, 0, kPageBytes);
  OpenTestSpace(good, TestSpace(2 * kBlockBytes));
  EXPECT_TRUE(serves(2));
  v1::ReserveRequest reserve;
  reserve.set_space(space);
  reserve.set_count(1);
  v1::ReserveResponse slots;
  ASSERT_TRUE(good.Call(*good.data, &v1::Data::Stub::Reserve, reserve, &slots).ok());
  const v1::MatchResponse none = MatchTokens(good, space, 1, 3);
  ASSERT_EQ(::ftruncate(arena, 0), 0);
  v1::CommitRequest commit;  // of a slot that is not there any more
  commit.set_lease(none.lease());
  commit.mutable_names()->set_tokens(testing::TokensOf(1, 3));
  commit.add_items()->set_offset(slots.offsets(0));
  v1::CommitResponse committed;
  (void)good.Call(*good.data, &v1::Data::Stub::Commit, commit, &committed);
  EXPECT_TRUE(Eventually([&] { return daemon_->log().find("arena_mended") != std::string::npos; }))
      << daemon_->log();
  ASSERT_TRUE(daemon_->running());
  EXPECT_TRUE(serves(4));
  ASSERT_EQ(::ftruncate(arena, static_cast<off_t>(2 * good.arena_bytes)), 0);
  EXPECT_TRUE(Eventually([&] {
    struct stat file;
    return ::fstat(arena, &file) == 0 && file.st_size == static_cast<off_t>(good.arena_bytes);
  }));
  EXPECT_TRUE(serves(5));
  EXPECT_TRUE(daemon_->running());
  std::memset(good.arena, 0xff, kPageBytes);
  EXPECT_EQ(daemon_->Stop(), 0);
  daemon_ = std::make_unique<testing::DaemonProcess>(place_);
  ASSERT_TRUE(daemon_->Ready()) << daemon_->log();
  EXPECT_THAT(daemon_->log(), HasSubstr("arena_discarded"));
}

}  // namespace
}  // namespace thermocline
