// What a client does in its control area, right or wrong, and what the stack makes of it.
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>

#include "tests/catalog/catalog_testing.h"
#include "tests/tiers/stack_fixture.h"

namespace thermocline {
namespace {

std::vector<Name> PathOf(uint64_t path, uint64_t depth) {
  std::vector<uint64_t> values;
  for (uint64_t i = 0; i < depth; ++i) values.push_back(path * 1000 + i);
  return TestNames(values);
}

/// A client with memory that it shares with the stack, and a reader of its own in it.
class SharedStackTest : public StackTest {
 protected:
  void Start(SteppedStack::Sizes sizes = {}) {
    Use(sizes);
    area_ = std::make_shared<ControlArea>();
    number_ = *(*stack_)->AddClient(TestClient::kPid, 2, area_);
    catalog_.emplace(*CatalogMemory::Open(UniqueFd(::dup((*stack_)->catalog_fd()))));
    reader_.emplace(catalog_->catalog(), Pins(area_->pins).subspan(4, 2));
  }
  Root root() const { return (*stack_)->RootOf(space_); }
  size_t Match(const std::vector<Name>& names) {
    const PartRule rule{};
    return reader_->MatchAndPin(root(), names, 1, {&rule, 1}).usable;
  }
  absl::StatusOr<LeaseView> Commit(const PinnedEnd& end, const std::vector<Name>& names,
                                   uint32_t depth) {
    const auto slots = Reserve(static_cast<uint32_t>(names.size()) - depth);
    std::vector<CommitItem> items;
    for (uint32_t i = 0; i < slots.size(); ++i) {
      const auto payload = (*stack_)->SlotPayload(slots[i], kTestBlockBytes);
      const std::span<std::byte> writable(const_cast<std::byte*>(payload.data()), payload.size());
      FillLegal(writable, space_, 0, std::span(names).first(depth + i + 1));
      items.push_back({slots[i], 0, depth + i, Checksum(payload)});
    }
    return (*stack_)->Commit(number_, end, std::span(names).subspan(depth), items);
  }
  std::vector<uint64_t> Reserve(uint32_t count) {
    std::vector<uint64_t> offsets;
    bool done = false;
    (*stack_)->Reserve(number_, space_, 0, count, std::chrono::milliseconds(0),
                       [&](absl::StatusOr<std::vector<uint64_t>> result) {
                         if (result.ok()) offsets = *result;
                         done = true;
                       });
    stack_->SettleUntil(done);
    return offsets;
  }

  std::shared_ptr<ControlArea> area_;
  ClientNumber number_;
  std::optional<CatalogMemory> catalog_;
  std::optional<Reader> reader_;
};

TEST_F(SharedStackTest, ItsPinsHoldBlocksAndEndWithItsSilence) {
  Start();
  const auto path = PathOf(1, 6);
  Write(path);
  ASSERT_EQ(Match(path), 6u);
  EXPECT_EQ(FlushTier(*stack_, TierKind::kWarm).second, 6u);
  EXPECT_EQ((*stack_)->Stats().leases, 1u);
  (*stack_)->ExpireLeases(number_);
  EXPECT_EQ(area_->pins[5].load(), 0u);
  EXPECT_EQ(FlushTier(*stack_, TierKind::kWarm).second, 0u);
  EXPECT_EQ(Match(path), 0u) << "cold is for the daemon to fetch";
  ExpectBooksAgree();
}

TEST_F(SharedStackTest, ItsPinsEndWithIt) {
  Start();
  const auto path = PathOf(1, 6);
  Write(path);
  ASSERT_EQ(Match(path), 6u);
  (*stack_)->RemoveClient(number_, Departure::kProcessGone);
  EXPECT_EQ(FlushTier(*stack_, TierKind::kWarm).second, 0u);
  EXPECT_EQ(area_.use_count(), 1) << "the stack has let go of its memory";
}

TEST_F(SharedStackTest, ACommitMovesThePinUnlessItWasLetGo) {
  Start();
  const auto path = PathOf(1, 5);
  const Place at_root{root().node, 0};
  area_->pins[5] = PlaceBits(at_root);
  auto view = Commit({space_, 5, at_root}, {path.begin(), path.begin() + 2}, 0);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(area_->pins[5].load(), PlaceBits(view->end));
  EXPECT_EQ(FlushTier(*stack_, TierKind::kWarm).second, 2u);
  view = Commit({space_, 5, view->end}, path, 2);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->depth, 5u);
  EXPECT_EQ(area_->pins[5].load(), PlaceBits(view->end));
  EXPECT_EQ(FlushTier(*stack_, TierKind::kWarm).second, 5u);
  area_->pins[5] = 0;
  EXPECT_EQ(FlushTier(*stack_, TierKind::kWarm).second, 0u);
  ExpectBooksAgree();
}

TEST_F(SharedStackTest, ACommitBehindWhatIsNotPinnedIsRefused) {
  Start();
  const auto path = PathOf(1, 3);
  Write(path);
  ASSERT_EQ(Match(path), 3u);
  const Place end = reader_->PlaceAt(3);
  const auto longer = PathOf(1, 4);
  const auto refused = [&](const PinnedEnd& at) {
    const auto view = Commit(at, longer, 3);
    EXPECT_FALSE(view.ok());
    return view.status().code();
  };
  EXPECT_EQ(refused({space_, 7, end}), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused({space_, kControlPins, end}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refused({space_ + 9, 5, end}), absl::StatusCode::kNotFound);
  SpaceSpec other = spec_;
  other.model = "another";
  EXPECT_EQ(refused({*(*stack_)->OpenSpace(other), 5, end}), absl::StatusCode::kFailedPrecondition);
  for (const Place made_up : {Place{end.node, 31}, Place{end.node, 0}, Place{999'999, 1}}) {
    area_->pins[5] = PlaceBits(made_up);
    EXPECT_EQ(refused({space_, 5, made_up}), absl::StatusCode::kFailedPrecondition);
  }
  const auto of_another = (*stack_)->Commit(client_->number(), PinnedEnd{space_, 5, end},
                                            std::span(longer).subspan(3), {});
  EXPECT_EQ(of_another.status().code(), absl::StatusCode::kInvalidArgument);
  ExpectBooksAgree();
}

TEST_F(SharedStackTest, WhatNoClientWritesIsNamedOnce) {
  Start();
  const auto path = PathOf(1, 6);
  Write(path);
  ASSERT_EQ(Match(path), 6u);
  (*stack_)->Tick();
  EXPECT_TRUE((*stack_)->TakeMisbehaviours().empty());
  const uint64_t nodes = catalog_->catalog().geometry().node_count;
  for (const uint64_t made_up :
       {~uint64_t{0}, nodes << 16 | 1, uint64_t{5}, uint64_t{1} << 16 | 33, uint64_t{1} << 50}) {
    area_->pins[200] = made_up;
    (*stack_)->Tick();
    const auto found = (*stack_)->TakeMisbehaviours();
    ASSERT_EQ(found.size(), 1u) << made_up;
    EXPECT_EQ(found[0].client, number_);
    (*stack_)->Tick();
    EXPECT_TRUE((*stack_)->TakeMisbehaviours().empty()) << "it was named already";
    (*stack_)->RemoveClient(number_, Departure::kLost);
    area_ = std::make_shared<ControlArea>();
    number_ = *(*stack_)->AddClient(TestClient::kPid, 2, area_);
  }
}

// Whoever writes what it likes there harms nobody: the books agree, others' blocks stay legal.
TEST_F(SharedStackTest, NoiseInTheControlAreaDoesNoHarm) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  Start({.warm_blocks = 32, .cold_blocks = 64});
  std::vector<std::vector<Name>> paths;
  for (uint64_t i = 0; i < 12; ++i) paths.push_back(PathOf(i, 1 + random() % 8));
  auto* const words = reinterpret_cast<std::atomic<uint64_t>*>(area_.get());
  for (int turn = 0; turn < 300; ++turn) {
    for (int i = 0; i < 64; ++i) {
      const uint64_t place = random() % 64 << 16 | random() % 40;
      words[random() % (sizeof(ControlArea) / 8)] = random() % 4 ? place : random();
    }
    const auto& path = paths[random() % paths.size()];
    LeaseView lease = client_->Match(path);
    client_->Load(lease, path);
    client_->Extend(lease, path);
    client_->ExpectLegal(client_->Match(path).blocks, path);
    client_->Release(lease);
    (*stack_)->ExpireLeases(client_->number());
    (*stack_)->Tick();
    stack_->Settle();
    (void)(*stack_)->Stats();
  }
  ExpectBooksAgree();
  (*stack_)->RemoveClient(number_, Departure::kProcessGone);
  EXPECT_EQ(FlushTier(*stack_, TierKind::kWarm).second, 0u);
}

// A long trunk with leaves behind it: to touch one takes a walk as long as the trunk. What was
// touched shows when blocks have to go.
class TouchBudgetTest : public SharedStackTest {
 protected:
  static constexpr uint64_t kTrunk = 4000, kLeaves = 150;
  static constexpr size_t kAffordable = kTouchBudget / (kTrunk + 1);  // leaves a tick
  static_assert(kAffordable > 50 && kAffordable < kLeaves / 2);

  void SetUp() override {
    Start({.warm_blocks = 4224, .cold_blocks = 0, .chunk_blocks = 128, .max_places = 3 * kTrunk});
    other_area_ = std::make_shared<ControlArea>();
    ASSERT_TRUE((*stack_)->AddClient(TestClient::kPid, 3, other_area_).ok());
    trunk_ = PathOf(1, kTrunk);
    Write(trunk_);
    for (uint64_t leaf = 0; leaf < kLeaves; ++leaf) {
      Write(LeafOf(leaf));
      ASSERT_EQ(Match(LeafOf(leaf)), kTrunk + 1);
      places_.push_back(PlaceBits(reader_->PlaceAt(kTrunk + 1)));
    }
    LetGo();
    NextTick();
    SCOPED_TRACE("TC_SEED=" + std::to_string(seed_));
    std::shuffle(order_.begin(), order_.end(), std::mt19937_64(seed_));
  }
  std::vector<Name> LeafOf(uint64_t leaf) const {
    std::vector<Name> names = trunk_;
    names.push_back(TestName(1'000'000 + leaf));
    return names;
  }
  void LetGo() {
    for (std::atomic<uint64_t>& pin : area_->pins) pin = 0;
  }
  void Use(ControlArea& area, uint64_t leaf) {
    const uint64_t record = area.uses_written.load();
    area.uses[record % kUseRecords] = places_[leaf];
    area.uses_written = record + 1;
  }
  void NextTick() {
    (*stack_)->Tick();
    stack_->Settle();
  }
  /// That of the leaves those touched leave last: others first, whatever their order.
  void ExpectTouched(const std::set<uint64_t>& touched) {
    std::set<uint64_t> left(order_.begin(), order_.end());
    size_t untouched = kLeaves - touched.size();
    for (uint64_t block = 0; untouched > 0; ++block) {
      ASSERT_LT(block, 2 * kLeaves) << "nothing leaves";
      Write(PathOf(10'000 + block, 1));
      bool one_touched_went = false;
      for (auto at = left.begin(); at != left.end();) {
        if (Match(LeafOf(*at)) == kTrunk + 1) {
          ++at;
          continue;
        }
        if (touched.contains(*at)) {
          one_touched_went = true;
        } else {
          --untouched;
        }
        at = left.erase(at);
      }
      ASSERT_TRUE(!one_touched_went || untouched == 0) << untouched << " others are still here";
      LetGo();
    }
  }

  const uint64_t seed_ = TestSeed();
  std::vector<uint64_t> order_ = [] {
    std::vector<uint64_t> leaves(kLeaves);
    std::iota(leaves.begin(), leaves.end(), uint64_t{0});
    return leaves;
  }();
  std::vector<Name> trunk_;
  std::vector<uint64_t> places_;  // of the leaves
  std::shared_ptr<ControlArea> other_area_;
};

TEST_F(TouchBudgetTest, WhatIsUsedWithinATicksBudgetIsTouchedAllOfIt) {
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed_));
  std::set<uint64_t> touched;
  for (int tick = 0; tick < 2; ++tick) {
    for (size_t use = 0; use < kAffordable; ++use) {
      const uint64_t leaf = order_[touched.size()];
      Use(*area_, leaf);
      touched.insert(leaf);
      if (leaf % 7 == 0) (void)(*stack_)->Stats();  // looked at in between, as by every pump
    }
    (void)(*stack_)->Stats();
    NextTick();
  }
  ExpectTouched(touched);
}

TEST_F(TouchBudgetTest, WhoUsesMoreIsTouchedNoMoreAndTakesNothingFromOthers) {
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed_));
  constexpr size_t kOthers = 12;
  for (size_t use = 0; use < kUseRecords; ++use) Use(*area_, order_[use % (kLeaves - kOthers)]);
  std::set<uint64_t> touched(order_.begin(), order_.begin() + kAffordable);
  for (size_t use = kLeaves - kOthers; use < kLeaves; ++use) {
    Use(*other_area_, order_[use]);
    touched.insert(order_[use]);
  }
  (void)(*stack_)->Stats();
  for (size_t use = kAffordable; use < kLeaves - kOthers; ++use) Use(*area_, order_[use]);
  (void)(*stack_)->Stats();  // in the same tick
  ExpectTouched(touched);
}

TEST_F(TouchBudgetTest, PinsAreTouchedEveryTickOutOfTheSameBudget) {
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed_));
  std::set<uint64_t> touched;
  for (size_t pin = 0; pin < kLeaves; ++pin) {
    area_->pins[pin] = places_[order_[pin]];
    if (pin < kAffordable) touched.insert(order_[pin]);
  }
  NextTick();
  Use(*area_, order_[kLeaves - 1]);  // nothing is left for it
  (void)(*stack_)->Stats();
  LetGo();
  ExpectTouched(touched);
}

TEST_F(TouchBudgetTest, OfMoreUsesThanTheRingHoldsTheLastAreTouched) {
  for (size_t use = 0; use < 100; ++use) Use(*area_, 0);
  for (size_t use = 0; use < kUseRecords; ++use) Use(*area_, 1);
  (void)(*stack_)->Stats();
  ExpectTouched({1});
}

// What somebody copies outside the strand.
TEST_F(SharedStackTest, WhatIsHeldStaysWhereItIsUntilItIsLetGo) {
  Start({.warm_blocks = 32, .cold_blocks = 64});
  const auto path = PathOf(1, 6), other = PathOf(2, 3);
  Write(path);
  Write(other);
  LeaseView lease = client_->Match(path);
  std::vector<BlockView> blocks = lease.blocks;
  client_->Release(lease);
  blocks.erase(blocks.begin() + 4, blocks.end());
  blocks.push_back({.part = 0, .tier = TierKind::kCold, .id = blocks[0].id, .bytes = 1});
  blocks.push_back(blocks[1]);
  blocks.back().offset = blocks[2].offset;  // it lies elsewhere
  const TierStack::Held first = (*stack_)->Hold(blocks);
  EXPECT_EQ(first.held, (std::vector<bool>{true, true, true, true, false, false}));
  const TierStack::Held second = (*stack_)->Hold(std::span(blocks).first(2));
  EXPECT_EQ(FlushTier(*stack_, TierKind::kWarm).second, 4u);
  client_->ExpectLegal(std::vector<BlockView>(blocks.begin(), blocks.begin() + 4), path);
  (*stack_)->LetGo(first.number);
  EXPECT_EQ(FlushTier(*stack_, TierKind::kWarm).second, 2u) << "the other hold goes on";
  EXPECT_EQ(*(*stack_)->Delete((*stack_)->Spaces()[0].fingerprint, {}), 9u);
  stack_->Settle();
  EXPECT_GT((*stack_)->Hold(std::span(blocks).first(2)).number, second.number);
  (*stack_)->LetGo(second.number);
  (*stack_)->LetGo(second.number + 1);
  (*stack_)->Tick();
  stack_->Settle();
  EXPECT_EQ((*stack_)->Stats().places, 0u);
  const TierStack::Held gone = (*stack_)->Hold(blocks);
  EXPECT_EQ(gone.held, std::vector<bool>(blocks.size(), false));
  (*stack_)->LetGo(gone.number);
  ExpectBooksAgree();
}

// A path is told of by its end.
TEST_F(SharedStackTest, AnAdoptedPathIsLeasedWholeOrNotAtAll) {
  Start({.warm_blocks = 32, .cold_blocks = 64});
  const auto path = PathOf(1, 6);
  Write(path);
  ASSERT_EQ(Match(path), 6u);
  const Place end = reader_->PlaceAt(6);
  const uint64_t id = client_->Match(path).blocks.back().id;
  std::vector<Name> names;
  Sha256 digest = Sha256OfPath(path);
  const auto adopt = [&](uint32_t space, Place place, uint64_t of) {
    return (*stack_)->Adopt(client_->number(), space, place, of, digest, names);
  };
  const auto lookups = (*stack_)->Stats().lookups;
  const auto view = adopt(space_, end, id);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->depth, 6u);
  EXPECT_EQ(view->blocks.size(), 6u);
  EXPECT_EQ(names, path);
  EXPECT_EQ((*stack_)->Stats().lookups, lookups);
  SpaceSpec another = spec_;
  another.model = "another";
  for (const auto& refused :
       {adopt(space_, end, id + 1), adopt(space_, Place{end.node, end.count - 1}, id),
        adopt(space_, Place{end.node, 0}, id), adopt(space_, Place{999'999, 1}, id),
        adopt(*(*stack_)->OpenSpace(another), end, id)}) {
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kNotFound);
  }
  names.clear();
  digest[31] ^= 1;
  EXPECT_EQ(adopt(space_, end, id).status().code(), absl::StatusCode::kNotFound) << "guessed";
  EXPECT_TRUE(names.empty());
  digest[31] ^= 1;
  area_->pins[5] = 0;
  EXPECT_EQ(FlushTier(*stack_, TierKind::kWarm).second, 6u) << "it is held";
  EXPECT_EQ(*(*stack_)->Delete((*stack_)->Spaces()[0].fingerprint, {}), 6u);
  EXPECT_EQ(adopt(space_, end, id).status().code(), absl::StatusCode::kNotFound) << "deleted";
  ExpectBooksAgree();
}

// Nobody but the daemon writes there, so nothing has to wait for the end of the process.
TEST_F(SharedStackTest, SlotsOfASilentClientThatDoesNotFillThemReturnAtOnce) {
  Start({.clients_fill = false});
  EXPECT_EQ(Reserve(4).size(), 4u);
  EXPECT_EQ((*stack_)->Stats().reserved_slots, 4u);
  (*stack_)->ExpireLeases(number_);
  EXPECT_EQ((*stack_)->Stats().reserved_slots, 0u);
  EXPECT_EQ(Reserve(3).size(), 3u);
  (*stack_)->RemoveClient(number_, Departure::kLost);
  EXPECT_EQ((*stack_)->Stats().reserved_slots + (*stack_)->Stats().quarantined_slots, 0u);
  stack_->Settle();
  ExpectBooksAgree();
}

}  // namespace
}  // namespace thermocline
