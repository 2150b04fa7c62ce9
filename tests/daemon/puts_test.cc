// Puts by hand, against a real daemon: slots and their grants, commits by message and through the
// ring of the control area, right and wrong ones, and what is staged.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "tests/daemon/daemon_process.h"
#include "tests/read_only_view.h"
#include "tiers/tier_stack.h"

namespace thermocline {
namespace {

using testing::DaemonProcess;
using testing::Eventually;
using ::testing::HasSubstr;
using testing::MatchTokens;
using testing::OpenTestSpace;
using testing::PutTokens;
using testing::RawClient;
using testing::ReleaseLease;
using testing::StatsOf;
using testing::TestSpace;

constexpr uint64_t kBlockBytes = 64 * 1024;

class PutCallsTest : public testing::DaemonTest {};

/// Writes into the ring of commits as no client library does, and wakes the daemon.
void PutRaw(RawClient& client, const std::string& bytes, uint64_t written) {
  ControlArea& area = *client.session.control;
  std::memcpy(area.puts, bytes.data(), bytes.size());
  area.puts_written = written;
  const auto header = EncodeFrameHeader({0, FrameKind::kWake});
  ASSERT_TRUE(testing::SendBytes(client.session.socket.get(),
                                 {reinterpret_cast<const char*>(header.data()), header.size()}));
}

std::string RingFrame(const std::string& commit, uint16_t slots_wanted = 0, uint16_t part = 0) {
  const PutFrame header = {static_cast<uint32_t>(commit.size()), slots_wanted, part};
  std::string frame(reinterpret_cast<const char*>(&header), sizeof header);
  frame += commit;
  frame.resize((frame.size() + 7) / 8 * 8);
  return frame;
}

TEST_F(PutCallsTest, WhoeverPutsGarbageIntoItsRingIsCutOff) {
  RawClient good(place_);
  const uint32_t space = OpenTestSpace(good, TestSpace(kBlockBytes));
  ReleaseLease(good, PutTokens(good, space, 4, 1, kBlockBytes));
  const std::string no_message = RingFrame(std::string(24, '\xff'));
  for (const auto& [bytes, written] :
       {std::pair(no_message, uint64_t{no_message.size()}),
        std::pair(no_message, uint64_t{1} << 50), std::pair(RingFrame("a"), uint64_t{7}),
        std::pair(RingFrame("abc"), uint64_t{8})}) {
    RawClient bad(place_);
    PutRaw(bad, bytes, written);
    const auto ended =
        testing::ReceiveFrame(bad.session.socket.get(), std::chrono::milliseconds(20'000));
    ASSERT_TRUE(ended.has_value() && ended->kind == FrameKind::kRefused);
    v1::Refused refused;
    ASSERT_TRUE(refused.ParseFromString(ended->payload));
    EXPECT_THAT(refused.message(), HasSubstr("cut off: the ring of commits"));
  }
  EXPECT_EQ(MatchTokens(good, space, 4, 1).depth(), 4u);
}

TEST_F(PutCallsTest, ASlotThatOneCommitNamesTwiceIsNotSummedTwice) {
  RawClient client(place_);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  v1::ReserveRequest reserve;
  reserve.set_space(space);
  reserve.set_count(1);
  v1::ReserveResponse slots;
  ASSERT_TRUE(client.Call(*client.data, &v1::Data::Stub::Reserve, reserve, &slots).ok());
  v1::CommitRequest commit;
  commit.mutable_pinned()->set_space(space);
  commit.mutable_names()->set_tokens(std::string(128, 'n'));
  for (uint32_t i = 0; i < 2; ++i) {
    commit.add_items()->set_offset(slots.offsets(0));
    commit.mutable_items(static_cast<int>(i))->set_depth(i);
  }
  v1::CommitResponse response;
  EXPECT_THAT(client.Call(*client.data, &v1::Data::Stub::Commit, commit, &response).error_message(),
              HasSubstr("named twice in one commit"));
  EXPECT_EQ(StatsOf(client).reservations(), 1u);
}

v1::ReserveResponse ReserveUnder(const RawClient& client, uint32_t space, uint32_t count,
                                 uint64_t grant) {
  v1::ReserveRequest reserve;
  reserve.set_space(space);
  reserve.set_count(count);
  reserve.set_grant(grant);
  v1::ReserveResponse slots;
  const auto status = client.Call(*client.data, &v1::Data::Stub::Reserve, reserve, &slots);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return slots;
}

TEST_F(PutCallsTest, WhatACallWithoutAnAnswerWasGrantedComesBackByItsGrant) {
  RawClient client(place_), other(place_);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  ReserveUnder(client, space, 4, 7);
  ReserveUnder(other, space, 1, 7);
  const v1::ReserveResponse kept = ReserveUnder(client, space, 1, 8);
  EXPECT_EQ(StatsOf(client).reservations(), 6u);
  v1::AbortRequest abort;
  abort.add_grants(7);
  abort.add_grants(9);  // of which the daemon has never heard
  v1::AbortResponse aborted;
  for (int i = 0; i < 2; ++i) {  // it may be told again
    const auto status = client.Call(*client.data, &v1::Data::Stub::Abort, abort, &aborted);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(StatsOf(client).reservations(), 2u);
  }
  // The call of the grant that it had not heard of comes after all.
  v1::ReserveRequest late;
  late.set_space(space);
  late.set_count(1);
  late.set_grant(9);
  v1::ReserveResponse slots;
  EXPECT_EQ(client.Call(*client.data, &v1::Data::Stub::Reserve, late, &slots).error_code(),
            grpc::StatusCode::CANCELLED);
  EXPECT_EQ(StatsOf(client).reservations(), 2u);
  abort.clear_grants();
  abort.add_offsets(kept.offsets(0));
  EXPECT_TRUE(client.Call(*client.data, &v1::Data::Stub::Abort, abort, &aborted).ok());
}

TEST_F(PutCallsTest, WhatOthersGiveUpMakesNobodyForgetWhatASessionDid) {
  RawClient client(place_), other(place_);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  v1::AbortRequest own, many;
  for (uint64_t grant = 1; grant <= 8192; ++grant) many.add_grants(grant);
  own.add_grants(9);
  v1::AbortResponse aborted;
  for (const auto& [who, what] : {std::pair{&client, &own}, std::pair{&other, &many}}) {
    const auto status = who->Call(*who->data, &v1::Data::Stub::Abort, *what, &aborted);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  v1::ReserveRequest late;
  late.set_space(space);
  late.set_count(1);
  v1::ReserveResponse slots;
  for (const auto& [who, grant] : {std::pair{&client, 9}, std::pair{&other, 1}}) {
    late.set_grant(static_cast<uint64_t>(grant));
    EXPECT_EQ(who->Call(*who->data, &v1::Data::Stub::Reserve, late, &slots).error_code(),
              grpc::StatusCode::CANCELLED);
  }
  EXPECT_EQ(StatsOf(client).reservations(), 0u);
}

TEST_F(PutCallsTest, ASlotOfferedUnderAGrantThatHasGoneIsNotPublished) {
  RawClient client(place_);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  const uint64_t slot = ReserveUnder(client, space, 1, 3).offsets(0);
  const uint64_t lease = MatchTokens(client, space, 1, 1).lease();
  const auto commit = [&](uint64_t grant) {
    v1::CommitRequest request;
    request.set_lease(lease);
    request.mutable_names()->set_tokens(testing::TokensOf(1, 1));
    request.add_items()->set_offset(slot);
    request.mutable_items(0)->set_grant(grant);
    v1::CommitResponse response;
    return client.Call(*client.data, &v1::Data::Stub::Commit, request, &response);
  };
  const auto give_up = [&](uint64_t grant) {
    v1::AbortRequest abort;
    abort.add_offered()->set_offset(slot);
    abort.mutable_offered(0)->set_grant(grant);
    v1::AbortResponse aborted;
    const auto status = client.Call(*client.data, &v1::Data::Stub::Abort, abort, &aborted);
    EXPECT_TRUE(status.ok()) << status.error_message();
  };
  EXPECT_EQ(commit(2).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  give_up(2);
  EXPECT_EQ(StatsOf(client).reservations(), 1u) << "it is there under another grant";
  give_up(3);
  EXPECT_EQ(StatsOf(client).reservations(), 0u);
  EXPECT_EQ(commit(3).error_code(), grpc::StatusCode::FAILED_PRECONDITION) << "it comes too late";
  ASSERT_EQ(ReserveUnder(client, space, 1, 4).offsets(0), slot) << "it is granted anew";
  EXPECT_EQ(commit(3).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_TRUE(commit(4).ok());
  give_up(4);
  EXPECT_EQ(MatchTokens(client, space, 1, 1).depth(), 1u) << "what was published stays";
}

/// A client that puts one place after the other behind the root, through its ring.
struct RingClient {
  explicit RingClient(const testing::DaemonPlace& place) : client(place) {
    client.session.Beat();
    v1::OpenSpaceRequest open;
    *open.mutable_spec() = TestSpace(kBlockBytes);
    EXPECT_TRUE(client.Call(*client.control, &v1::Control::Stub::OpenSpace, open, &opened).ok());
    area().pins[1] = root();
  }
  ControlArea& area() { return *client.session.control; }
  uint64_t root() const { return uint64_t{opened.root_node()} << 16; }
  /// The frame of its commit of that number.
  std::string Frame(uint32_t number, uint64_t slot, uint16_t slots_wanted = 0, uint16_t part = 0) {
    v1::CommitRequest commit;
    commit.mutable_pinned()->set_space(opened.space());
    commit.mutable_pinned()->set_pin(1);
    number == 1 ? commit.mutable_pinned()->set_place(root())
                : commit.mutable_pinned()->set_after(number - 1);
    commit.mutable_names()->set_tokens(testing::TokensOf(number, 1).substr((number - 1) * 64));
    commit.add_items()->set_offset(slot);
    commit.mutable_items(0)->set_depth(number - 1);
    commit.mutable_items(0)->set_keep_slot(true);
    return RingFrame(commit.SerializeAsString(), slots_wanted, part);
  }
  bool Answered(uint32_t count) {
    return Eventually([&] { return area().puts_answered == count; });
  }

  RawClient client;
  v1::OpenSpaceResponse opened;
};

TEST_F(PutCallsTest, SlotsThatACommitAsksForComeWithItsAnswer) {
  RingClient ring(place_);
  const uint64_t slot = ReserveUnder(ring.client, ring.opened.space(), 1, 1).offsets(0);
  const std::string first = ring.Frame(1, slot, 4);
  PutRaw(ring.client, first, first.size());
  ASSERT_TRUE(ring.Answered(1));
  const PutAnswer& answer = ring.area().put_answers[1];
  EXPECT_EQ(answer.code, 0u) << answer.message;
  EXPECT_NE(answer.granted[3], 0u);
  EXPECT_EQ(answer.granted[4], 0u) << "no more than it asked for";
  EXPECT_EQ(StatsOf(ring.client).reservations(), 4u);
  // They are its own: one is put, of a part that the space does not have nothing is granted, and
  // the others are known by the number of the commit.
  const std::string both = first + ring.Frame(2, answer.granted[0], 1, 9);
  PutRaw(ring.client, both, both.size());
  ASSERT_TRUE(ring.Answered(2));
  EXPECT_EQ(ring.area().put_answers[2].code, 0u) << ring.area().put_answers[2].message;
  EXPECT_EQ(ring.area().put_answers[2].granted[0], 0u);
  EXPECT_EQ(StatsOf(ring.client).reservations(), 3u);
  v1::AbortRequest abort;
  abort.add_grants(kPutGrant | 1);
  v1::AbortResponse aborted;
  EXPECT_TRUE(ring.client.Call(*ring.client.data, &v1::Data::Stub::Abort, abort, &aborted).ok());
  EXPECT_EQ(StatsOf(ring.client).reservations(), 0u);
}

TEST_F(PutCallsTest, ACommitThatIsRefusedBringsNoSlots) {
  RingClient ring(place_);
  const uint64_t slot = ReserveUnder(ring.client, ring.opened.space(), 1, 1).offsets(0);
  const std::string late = ring.Frame(2, slot, 4);  // behind one that never was
  PutRaw(ring.client, late, late.size());
  ASSERT_TRUE(ring.Answered(1));
  EXPECT_EQ(ring.area().put_answers[1].code, uint32_t{grpc::FAILED_PRECONDITION});
  EXPECT_EQ(StatsOf(ring.client).reservations(), 1u);
}

// A client that is stopped between its commits and the wake-up.
TEST_F(PutCallsTest, CommitsOfAClientThatHasFallenSilentAreRefusedOnceItsLeasesHaveEnded) {
  RingClient ring(place_);
  RawClient& client = ring.client;
  RawClient other(place_);
  ControlArea& area = ring.area();
  const v1::ReserveResponse slots = ReserveUnder(client, ring.opened.space(), 3, 1);
  ASSERT_EQ(slots.offsets_size(), 3);
  const std::string first = ring.Frame(1, slots.offsets(0));
  PutRaw(client, first, first.size());
  ASSERT_TRUE(ring.Answered(1));
  EXPECT_EQ(area.put_answers[1].code, 0u) << area.put_answers[1].message;
  // Two more, of which it says nothing until its leases have ended.
  const std::string rest = ring.Frame(2, slots.offsets(1)) + ring.Frame(3, slots.offsets(2));
  ASSERT_TRUE(Eventually([&] { return area.pins[1] == 0; }));
  EXPECT_THAT(daemon_->log(), HasSubstr("session_silent"));
  PutRaw(client, first + rest, first.size() + rest.size());
  ASSERT_TRUE(ring.Answered(3));
  for (uint32_t number : {2, 3}) {
    EXPECT_EQ(area.put_answers[number].code, uint32_t{grpc::FAILED_PRECONDITION});
    EXPECT_EQ(area.put_answers[number].kept[0], 1u) << "its slots stay with it";
  }
  EXPECT_EQ(MatchTokens(other, ring.opened.space(), 3, 1).depth(), 1u);
  EXPECT_EQ(StatsOf(other).reservations(), 2u);
  client.session.socket.Reset();
  EXPECT_TRUE(Eventually([&] { return StatsOf(other).sessions() == 1; }));
}

TEST_F(PutCallsTest, WhatASilentClientHoldsInAdvanceComesBack) {
  RingClient ring(place_);
  RawClient& client = ring.client;
  RawClient other(place_);
  ControlArea& area = ring.area();
  const uint64_t anothers =
      ReserveUnder(other, OpenTestSpace(other, TestSpace(kBlockBytes)), 1, 1).offsets(0);
  const v1::ReserveResponse slots = ReserveUnder(client, ring.opened.space(), 5, 1);
  ASSERT_EQ(slots.offsets_size(), 5);
  const std::string first = ring.Frame(1, slots.offsets(0), 2);
  const std::string both = first + ring.Frame(2, slots.offsets(1), 3);
  PutRaw(client, first, first.size());
  ASSERT_TRUE(ring.Answered(1));
  area.answers_taken = 1;  // with two slots, which it has in hand
  PutRaw(client, both, both.size());
  ASSERT_TRUE(ring.Answered(2));
  area.ahead[0] = AheadBits(slots.offsets(2), 1);
  area.ahead[kAheadSlots - 1] = AheadBits(slots.offsets(3), 1);
  area.ahead[5] = AheadBits(anothers, 1);
  area.ahead[6] = AheadBits(uint64_t{1} << 43, 1);
  area.ahead[7] = ~uint64_t{0};
  EXPECT_EQ(StatsOf(other).reservations(), 9u);
  EXPECT_TRUE(Eventually([&] {
    other.session.Beat();
    return StatsOf(other).reservations() == 4;
  })) << "of its own, one and those of the answer that it had taken; and another's";
  EXPECT_EQ(area.answers_taken, 2u);
  EXPECT_EQ(area.ahead[0] | area.ahead[kAheadSlots - 1], 0u);
  EXPECT_THAT(daemon_->log(), HasSubstr("session_silent"));
}

/// The same over a tenant whose clients may not write in the arena.
class StagedPutCallsTest : public PutCallsTest {
 protected:
  void SetUp() override {
    view_ = place_.root + "/view";
    if (!testing::MountReadOnly(place_.arena_dir, view_)) {
      GTEST_SKIP() << "no read-only mount can be made here (not root?)";
    }
    daemon_ = std::make_unique<DaemonProcess>(
        place_, std::vector<std::string>{"--commit=copy", "--staging=1MiB", "--arena-view", view_});
    ASSERT_TRUE(daemon_->Ready());
    client_.emplace(place_);
    space_ = OpenTestSpace(*client_, TestSpace(kBlockBytes));
    slot_ = ReserveUnder(*client_, space_, 1, 1).offsets(0);
    lease_ = MatchTokens(*client_, space_, 1, 1).lease();
  }
  void TearDown() override {
    client_.reset();
    if (daemon_ != nullptr) PutCallsTest::TearDown();
    ::umount2(view_.c_str(), MNT_DETACH);
  }
  grpc::Status Commit(uint64_t staged_at, uint64_t lease) {
    v1::CommitRequest request;
    request.set_lease(lease);
    request.mutable_names()->set_tokens(testing::TokensOf(1, 1));
    request.add_items()->set_offset(slot_);
    request.mutable_items(0)->set_staged_at(staged_at);
    v1::CommitResponse response;
    return client_->Call(*client_->data, &v1::Data::Stub::Commit, request, &response);
  }
  char FirstByteOfSlot() {
    char byte = 0;
    EXPECT_EQ(::pread(client_->session.arena.get(), &byte, 1, static_cast<off_t>(slot_)), 1);
    return byte;
  }

  std::string view_;
  std::optional<RawClient> client_;
  uint32_t space_ = 0;
  uint64_t slot_ = 0;
  uint64_t lease_ = 0;
};

TEST_F(StagedPutCallsTest, WhatLiesOutsideTheStagingMemoryIsRefused) {
  const uint64_t bytes = client_->session.welcome.staging_bytes();
  ASSERT_EQ(bytes, uint64_t{1} << 20);
  for (const uint64_t at : {bytes, bytes - kBlockBytes + 1, bytes - 1, ~uint64_t{0},
                            ~uint64_t{0} - kBlockBytes + 1, ~uint64_t{0} - kBlockBytes}) {
    const grpc::Status status = Commit(at, lease_);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << at;
    EXPECT_THAT(status.error_message(), HasSubstr("staging memory"));
    EXPECT_EQ(StatsOf(*client_).reservations(), 1u) << "its slot stays with it";
  }
  // Likewise through the ring.
  v1::OpenSpaceRequest open;
  *open.mutable_spec() = TestSpace(kBlockBytes);
  v1::OpenSpaceResponse opened;
  ASSERT_TRUE(client_->Call(*client_->control, &v1::Control::Stub::OpenSpace, open, &opened).ok());
  ControlArea& area = *client_->session.control;
  area.pins[1] = uint64_t{opened.root_node()} << 16;
  v1::CommitRequest commit;
  commit.mutable_pinned()->set_space(space_);
  commit.mutable_pinned()->set_pin(1);
  commit.mutable_pinned()->set_place(area.pins[1]);
  commit.mutable_names()->set_tokens(testing::TokensOf(1, 1));
  commit.add_items()->set_offset(slot_);
  commit.mutable_items(0)->set_keep_slot(true);
  commit.mutable_items(0)->set_staged_at(~uint64_t{0});
  const std::string frame = RingFrame(commit.SerializeAsString());
  PutRaw(*client_, frame, frame.size());
  ASSERT_TRUE(Eventually([&] { return area.puts_answered == 1; }));
  EXPECT_EQ(area.put_answers[1].code, uint32_t{grpc::INVALID_ARGUMENT});
  EXPECT_EQ(area.put_answers[1].kept[0], 1u);
  EXPECT_EQ(MatchTokens(*client_, space_, 1, 1).depth(), 0u);
  EXPECT_TRUE(Commit(bytes - kBlockBytes, lease_).ok());
  EXPECT_EQ(MatchTokens(*client_, space_, 1, 1).depth(), 1u);
}

TEST_F(StagedPutCallsTest, NothingIsCopiedForACommitThatIsRefused) {
  const char staged = 'S';
  ASSERT_EQ(::pwrite(client_->session.staging.get(), &staged, 1, 0), 1);
  EXPECT_EQ(Commit(0, lease_ + 100).error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(FirstByteOfSlot(), staged);
  EXPECT_TRUE(Commit(0, lease_).ok());
  EXPECT_EQ(FirstByteOfSlot(), staged);
}

TEST_F(PutCallsTest, ACommitOfAnothersSlotIsRefusedAndTheSlotStaysAnothers) {
  RawClient owner(place_), thief(place_);
  const uint32_t space = OpenTestSpace(owner, TestSpace(kBlockBytes));
  ASSERT_EQ(OpenTestSpace(thief, TestSpace(kBlockBytes)), space);
  v1::ReserveRequest reserve;
  reserve.set_space(space);
  reserve.set_count(1);
  v1::ReserveResponse slots;
  ASSERT_TRUE(owner.Call(*owner.data, &v1::Data::Stub::Reserve, reserve, &slots).ok());
  v1::CommitRequest commit;
  commit.mutable_pinned()->set_space(space);
  commit.mutable_pinned()->set_pin(1);
  commit.mutable_names()->set_tokens(std::string(64, 'n'));
  commit.add_items()->set_offset(slots.offsets(0));
  const std::string frame = RingFrame(commit.SerializeAsString());
  PutRaw(thief, frame, frame.size());
  ControlArea& area = *thief.session.control;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (area.puts_answered != 1 && std::chrono::steady_clock::now() < deadline) ::usleep(1000);
  ASSERT_EQ(area.puts_answered, 1u);
  EXPECT_EQ(area.put_answers[1].code, uint32_t{grpc::PERMISSION_DENIED});
  EXPECT_EQ(area.put_answers[1].kept[0], 0u) << "it is not the thief's";
  EXPECT_THAT(area.put_answers[1].message, HasSubstr("never granted"));
  EXPECT_EQ(StatsOf(owner).reservations(), 1u);
}

TEST_F(PutCallsTest, ThereIsNoDeviceToReserveOnAndItsSlotsStandInNoCommitWithOthers) {
  RawClient client(place_);
  const uint32_t space = OpenTestSpace(client, TestSpace(kBlockBytes));
  const v1::ReserveResponse slots = ReserveUnder(client, space, 1, 1);
  ASSERT_EQ(slots.offsets_size(), 1);
  EXPECT_EQ(slots.places_size(), 0);
  v1::ReserveRequest reserve;
  reserve.set_space(space);
  reserve.set_count(1);
  reserve.set_on_device(true);
  v1::ReserveResponse none;
  const grpc::Status refused = client.Call(*client.data, &v1::Data::Stub::Reserve, reserve, &none);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(refused.error_message(), HasSubstr("the hot tier is off"));
  v1::CommitRequest commit;
  commit.mutable_names()->set_tokens(std::string(128, 'n'));
  commit.add_items()->set_offset(slots.offsets(0));
  commit.add_items()->set_offset(kDeviceSlots + slots.offsets(0));
  v1::CommitResponse response;
  EXPECT_THAT(client.Call(*client.data, &v1::Data::Stub::Commit, commit, &response).error_message(),
              HasSubstr("not of both"));
}

}  // namespace
}  // namespace thermocline
