// The tier stack against an oracle: seeded random clients over a tiny stack with a faulty cold
// tier, every task run in a random order, restarts at random points without a shutdown. The oracle
// is that a name has only one legal content. Never a wrong byte, never over budget, never a step
// too many, and at the end every slot is free.
#include <algorithm>
#include <cstdio>

#include "tests/tiers/stack_fixture.h"

namespace thermocline {
namespace {

struct ModelParameters {
  const char* name;
  SteppedStack::Sizes sizes;
  FaultRates faults;
  uint32_t parts = 1;
  uint64_t seed = 1;
  uint32_t block_places = 1;
};
void PrintTo(const ModelParameters& parameters, std::ostream* out) { *out << parameters.name; }

class StackModelTest : public ::testing::TestWithParam<ModelParameters> {
 protected:
  static constexpr int kSteps = 10000;
  static constexpr size_t kClients = 3;

  struct HeldLease {
    uint64_t number = 0;
    uint32_t depth = 0;
    std::vector<Name> names;        // of its path
    std::vector<BlockView> blocks;  // as they were seen
  };
  struct ModelClient {
    ClientNumber number;
    std::vector<HeldLease> leases;
    std::map<uint16_t, std::vector<uint64_t>> slots;   // reserved, by part
    std::map<uint16_t, std::vector<uint64_t>> device;  // likewise, of the device's
  };

  StackModelTest() : seed_(TestSeed(GetParam().seed)), random_(seed_), stack_(GetParam().sizes) {}

  bool HasHot() const { return GetParam().sizes.hot_blocks > 0; }
  uint64_t Random(uint64_t below) { return random_() % below; }

  std::vector<Name> RandomPath() {  // few names a place, so that paths share their beginnings
    std::vector<Name> names;
    const uint64_t length = 1 + Random(6 * GetParam().block_places);
    for (uint64_t i = 0; i < length; ++i) AddRandomName(names);
    return names;
  }
  void AddRandomName(std::vector<Name>& names) {  // blocks differ in their last name mostly
    const bool last = (names.size() + 1) % GetParam().block_places == 0;
    names.push_back(TestName(last || Random(8) == 0 ? Random(3) : 0));
  }
  SpaceSpec Spec() const {
    SpaceSpec spec = TestSpec("model", GetParam().parts);
    spec.block_tokens = GetParam().block_places * kPlaceTokens;
    return spec;
  }

  void Start() {
    stack_.SetFaults(GetParam().faults);
    stack_.device->SetFaults(GetParam().faults.error, GetParam().faults.flip);
    clients_.clear();
    space_ = *stack_->OpenSpace(Spec());
    stack_.Settle();  // it is noted
    for (size_t i = 0; i < kClients; ++i) clients_.push_back(NewClient());
    ++generation_;
  }
  ModelClient NewClient() {
    ModelClient client;
    client.number = *stack_->AddClient(TestClient::kPid + static_cast<int>(Random(3)), 1, nullptr);
    return client;
  }

  void ExpectLegal(const BlockView& block, const std::vector<Name>& names) {
    if (block.tier != TierKind::kWarm) return;
    ASSERT_LT(block.depth, names.size());
    const auto payload = stack_->SlotPayload(block.offset, block.bytes);
    ASSERT_TRUE(IsLegal(payload, space_, block.part, std::span(names).first(block.depth + 1)))
        << "a wrong byte at depth " << block.depth << " part " << block.part;
    ASSERT_EQ(Checksum(payload), block.checksum);
  }

  void DoMatch(ModelClient& client) {
    if (client.leases.size() > 8) return;
    const auto names = RandomPath();
    const auto view = stack_->Match(client.number, space_, names);
    ASSERT_TRUE(view.ok()) << view.status();
    HeldLease lease{view->lease, view->depth, names, view->blocks};
    lease.names.resize(view->depth);
    for (const BlockView& block : view->blocks) ExpectLegal(block, lease.names);
    client.leases.push_back(lease);
  }

  void DoLoad(size_t index) {
    ModelClient& client = clients_[index];
    if (client.leases.empty()) return;
    const HeldLease lease = client.leases[Random(client.leases.size())];
    ++callbacks_due_;
    stack_->Load(
        client.number, lease.number,
        [this, lease](std::vector<BlockView> blocks) {
          for (const BlockView& block : blocks) {
            if (block.depth < lease.names.size()) ExpectLegal(block, lease.names);
          }
          return Random(8) > 0;
        },
        [this, generation = generation_](absl::Status) {
          if (generation == generation_) --callbacks_due_;
        });
  }

  void DoReserve(size_t index) {
    const auto part = static_cast<uint16_t>(Random(GetParam().parts));
    if (clients_[index].slots[part].size() > GetParam().sizes.warm_blocks / 8) return;
    ++callbacks_due_;
    stack_->Reserve(clients_[index].number, space_, part, 1 + Random(3),
                    std::chrono::milliseconds(Random(50)),
                    [this, index, part, number = clients_[index].number,
                     generation = generation_](absl::StatusOr<std::vector<uint64_t>> offsets) {
                      if (generation != generation_) return;
                      --callbacks_due_;
                      if (!offsets.ok()) return;
                      ASSERT_EQ(clients_[index].number, number);
                      auto& slots = clients_[index].slots[part];
                      slots.insert(slots.end(), offsets->begin(), offsets->end());
                    });
  }

  void DoReserveOnDevice(size_t index) {
    const auto part = static_cast<uint16_t>(Random(GetParam().parts));
    ++callbacks_due_;
    stack_->ReserveOnDevice(clients_[index].number, space_, part, 1 + Random(3),
                            std::chrono::milliseconds(Random(50)),
                            [this, index, part, number = clients_[index].number,
                             generation = generation_](const auto& offsets) {
                              if (generation != generation_) return;
                              --callbacks_due_;
                              if (!offsets.ok()) return;
                              ASSERT_EQ(clients_[index].number, number);
                              auto& slots = clients_[index].device[part];
                              slots.insert(slots.end(), offsets->begin(), offsets->end());
                            });
  }

  /// Fills blocks of a path behind a lease on the device, has them summed and, later, commits them,
  /// unless the lease has grown meanwhile.
  void DoCommitOnDevice(size_t index) {
    ModelClient& client = clients_[index];
    if (client.leases.empty()) return;
    const HeldLease lease = client.leases[Random(client.leases.size())];
    std::vector<Name> names = lease.names;
    const uint64_t more = (1 + Random(3)) * GetParam().block_places;
    for (uint64_t i = 0; i < more; ++i) AddRandomName(names);
    std::vector<CommitItem> items;
    std::vector<uint64_t> offsets;
    for (uint16_t part = 0; part < GetParam().parts; ++part) {
      const uint32_t step = GetParam().block_places;
      auto& slots = client.device[part];
      for (uint32_t depth = lease.depth + step - 1; depth < names.size(); depth += step) {
        if (slots.empty()) break;
        const uint64_t offset = slots.back();
        slots.pop_back();
        FillLegal({stack_.device->At(offset - kDeviceSlots, kTestBlockBytes), kTestBlockBytes},
                  space_, part, std::span(names).first(depth + 1));
        items.push_back({offset, part, depth});
        offsets.push_back(offset);
      }
    }
    if (items.empty()) return;
    ++callbacks_due_;
    stack_->SumOnDevice(
        client.number, offsets,
        [=, this, number = client.number, generation = generation_](const auto& sums) mutable {
          if (generation != generation_) return;
          --callbacks_due_;
          if (!(clients_[index].number == number)) return;
          for (size_t i = 0; sums.ok() && i < items.size(); ++i) {
            items[i].checksum = (*sums)[i];
          }
          FinishCommitOnDevice(clients_[index], lease, names, items, sums.ok());
        });
  }
  void FinishCommitOnDevice(ModelClient& client, const HeldLease& lease,
                            const std::vector<Name>& names, const std::vector<CommitItem>& items,
                            bool are_summed) {
    const auto held =
        std::find_if(client.leases.begin(), client.leases.end(), [&](const HeldLease& other) {
          return other.number == lease.number && other.depth == lease.depth;
        });
    const auto view = are_summed && held != client.leases.end()
                          ? stack_->Commit(client.number, lease.number,
                                           std::span(names).subspan(lease.depth), items)
                          : absl::CancelledError("it is not to be");
    if (!view.ok()) {
      for (const CommitItem& item : items) client.device[item.part].push_back(item.offset);
      return;
    }
    held->names = names;
    held->names.resize(view->depth);
    held->depth = view->depth;
    for (const BlockView& block : view->blocks) {
      ASSERT_NE(block.tier, TierKind::kNone);
      ExpectLegal(block, held->names);
      filled_ += block.tier == TierKind::kHot ? 1 : 0;
    }
  }

  void DoCommit(ModelClient& client) {
    if (client.leases.empty()) return;
    HeldLease& lease = client.leases[Random(client.leases.size())];
    std::vector<Name> names = lease.names;
    const uint64_t more = (1 + Random(3)) * GetParam().block_places;
    for (uint64_t i = 0; i < more; ++i) AddRandomName(names);
    std::vector<CommitItem> items;
    for (uint16_t part = 0; part < GetParam().parts; ++part) {
      const uint32_t step = GetParam().block_places;
      for (uint32_t depth = lease.depth + step - 1; depth < names.size(); depth += step) {
        auto& slots = client.slots[part];
        if (slots.empty()) break;
        const uint64_t offset = slots.back();
        slots.pop_back();
        const auto payload = stack_->SlotPayload(offset, kTestBlockBytes);
        const std::span<std::byte> writable(const_cast<std::byte*>(payload.data()), payload.size());
        FillLegal(writable, space_, part, std::span(names).first(depth + 1));
        items.push_back({offset, part, depth, Checksum(payload)});
      }
    }
    if (items.empty()) return;
    const auto view =
        stack_->Commit(client.number, lease.number, std::span(names).subspan(lease.depth), items);
    if (absl::IsResourceExhausted(
            view.status())) {  // the names are all in use: nothing has changed
      for (const CommitItem& item : items) {
        ASSERT_TRUE(stack_->ReservedBytes(client.number, item.offset).ok());
        client.slots[item.part].push_back(item.offset);
      }
      return;
    }
    ASSERT_TRUE(view.ok()) << view.status();
    names.resize(view->depth);
    lease.names = names;
    lease.depth = view->depth;
    for (const BlockView& block : view->blocks) {
      ASSERT_EQ(block.tier, TierKind::kWarm);
      ExpectLegal(block, names);
      lease.blocks.push_back(block);
    }
  }

  void DoRelease(ModelClient& client) {
    if (client.leases.empty()) return;
    const size_t index = Random(client.leases.size());
    // Until now all that was seen warm under this lease stood still.
    for (const BlockView& block : client.leases[index].blocks) {
      ExpectLegal(block, client.leases[index].names);
    }
    ASSERT_TRUE(stack_->Release(client.number, client.leases[index].number).ok());
    client.leases.erase(client.leases.begin() + static_cast<ptrdiff_t>(index));
  }

  void DoAbort(ModelClient& client) {
    const auto part = static_cast<uint16_t>(Random(GetParam().parts));
    auto& slots = Random(2) == 0 ? client.slots[part] : client.device[part];
    if (slots.empty()) return;
    ASSERT_TRUE(stack_->Abort(client.number, slots).ok());
    slots.clear();
  }

  void DoReplaceClient(size_t index) {
    stack_->RemoveClient(clients_[index].number, static_cast<Departure>(Random(3)));
    SettleAll();  // its waiting calls are answered before another takes its place
    clients_[index] = NewClient();
  }

  void DoRareThing(size_t index) {
    const auto path = RandomPath();
    const auto ignore = [](absl::Status, uint64_t, uint64_t) {};
    switch (Random(8)) {
      case 0:
        DoReplaceClient(index);
        break;
      case 1:
        (void)stack_->Pin(space_, path, std::chrono::seconds(1 + Random(20)),
                          Random(2) == 0 ? TierKind::kWarm : TierKind::kNone);
        break;
      case 2:
        (void)stack_->Prefetch(clients_[index].number, space_, path);
        break;
      case 3:
        if (Random(4) == 0) stack_->Flush(TierKind::kWarm, ignore);
        break;
      case 4:
        if (Random(4) == 0) stack_->Flush(TierKind::kCold, ignore);
        break;
      case 5:
        if (Random(4) == 0) stack_->DropArena(ignore);
        break;
      case 6:
        (void)stack_->Delete(FingerprintOf(Spec()), path);
        break;
      default:
        stack_->EndGrace();
    }
  }

  void CountWork() {
    const StackStats stats = stack_->Stats();
    committed_ += stats.committed_blocks;
    if (stats.tiers.size() < 2) return;
    promoted_ += stats.tiers[0].promotions;
    if (stats.tiers.size() > 2) heated_ += stats.tiers[2].promotions;
    demoted_ += stats.tiers[0].demotions;
  }
  void Restart() {
    CountWork();
    ++generation_;  // callbacks of the old life do not count
    callbacks_due_ = 0;
    stack_.Restart();
    Start();
    ++restarts_;
  }

  void RunSomeTasks() {
    for (uint64_t i = Random(10); i > 0; --i) {
      if (Random(3) > 0) {
        stack_.StepStrand();
      } else {
        stack_.StepDisk(Random(8));
      }
    }
  }
  void SettleAll() { stack_.Settle(); }

  void ExpectWithinBudget() {
    for (const TierStats& tier : stack_->Stats().tiers) {
      // Of cold a segment more, a quarter of a small tier, and what the medium adds: what is kept
      // when another one goes.
      const uint64_t more = tier.tier == TierKind::kCold ? tier.capacity_bytes / 3 : 0;
      ASSERT_LE(tier.used_bytes, tier.capacity_bytes + more) << TierKindName(tier.tier);
    }
    const absl::Status audit = stack_->Audit();
    ASSERT_TRUE(audit.ok()) << audit;
  }

  void ExpectNothingLeaks() {
    stack_.SetFaults({});
    stack_.device->SetFaults(0, 0);
    for (const ModelClient& client : clients_)
      stack_->RemoveClient(client.number, Departure::kProcessGone);
    clients_.clear();
    for (int i = 0; i < 3; ++i) stack_->ProcessGone(TestClient::kPid + i, 1);
    stack_->EndGrace();
    while (!stack_->Pins().empty()) ASSERT_TRUE(stack_->Unpin(stack_->Pins()[0].pin).ok());
    for (int i = 0; i < 3; ++i) {
      stack_.Advance(std::chrono::seconds(40));
      stack_->Tick();
      SettleAll();
    }
    ASSERT_EQ(callbacks_due_, 0) << "a callback never came";
    EXPECT_EQ(FlushTier(stack_, TierKind::kWarm).second, 0u);
    const StackStats stats = stack_->Stats();
    EXPECT_EQ(stats.tiers[0].used_bytes, 0u);
    EXPECT_EQ(stats.reserved_slots + stats.quarantined_slots + stats.leases, 0u);
    if (stats.tiers.size() > 1) {
      EXPECT_EQ(FlushTier(stack_, TierKind::kCold).second, 0u);
      EXPECT_EQ(stack_->Stats().tiers[1].used_bytes, 0u);
    }
    stack_.Advance(std::chrono::seconds(60));
    stack_->Tick();
    SettleAll();
    EXPECT_EQ(stack_->Stats().places, 0u);
    ExpectWithinBudget();
  }

  const uint64_t seed_;
  std::mt19937_64 random_;
  SteppedStack stack_;
  uint32_t space_ = 0;
  std::vector<ModelClient> clients_;
  int callbacks_due_ = 0;
  int generation_ = 0;
  int restarts_ = 0;
  uint64_t committed_ = 0;
  uint64_t demoted_ = 0;
  uint64_t promoted_ = 0;
  uint64_t heated_ = 0;
  uint64_t filled_ = 0;  // on the device, by commits
};

TEST_P(StackModelTest, NeverAWrongByteNeverOverBudgetNeverStuck) {
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed_));
  ASSERT_TRUE(SetUpLog({.level = LogLevel::kOff}).ok());
  Start();
  for (int step = 0; step < kSteps && !HasFatalFailure(); ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    const size_t index = Random(kClients);
    switch (Random(16)) {
      case 0:
      case 1:
      case 2:
        DoMatch(clients_[index]);
        break;
      case 3:
      case 4:
        DoLoad(index);
        break;
      case 5:
      case 6:
      case 7:
        HasHot() && Random(3) == 0 ? DoReserveOnDevice(index) : DoReserve(index);
        break;
      case 8:
      case 9:
      case 10:
        HasHot() && Random(3) == 0 ? DoCommitOnDevice(index) : DoCommit(clients_[index]);
        break;
      case 11:
      case 12:
        DoRelease(clients_[index]);
        break;
      case 13:
        DoAbort(clients_[index]);
        break;
      case 14:
        stack_.Advance(std::chrono::milliseconds(Random(3000)));
        stack_->Tick();
        break;
      default:
        if (Random(3) == 0) DoRareThing(index);
        if (Random(30) == 0) Restart();
    }
    RunSomeTasks();
    if (step % 8 == 0) ExpectWithinBudget();
    if (step % 500 == 499) SettleAll();
  }
  if (HasFatalFailure()) return;
  CountWork();
  ExpectNothingLeaks();
  std::printf(
      "[          ] %d restarts; committed %lu (%lu on the device), demoted %lu, promoted %lu, "
      "heated %lu blocks\n",
      restarts_, committed_, filled_, demoted_, promoted_, heated_);
  EXPECT_GT(committed_, 10u);
  if (GetParam().sizes.warm_blocks < 8 || GetParam().sizes.cold_blocks == 0) return;
  EXPECT_GT(committed_, 100u);
  EXPECT_GT(demoted_, 10u);
  EXPECT_GT(promoted_, 3u);
  if (GetParam().sizes.hot_blocks > 0) {
    EXPECT_GT(heated_, 3u);
    EXPECT_GT(filled_, 10u);
  }
}

constexpr FaultRates kSomeFaults{.error = 0.05, .flip = 0.05, .truncate = 0.03, .lose = 0.05};

INSTANTIATE_TEST_SUITE_P(
    All, StackModelTest,
    ::testing::Values(
        ModelParameters{"calm", {16, 32, 8}, {}, 1, 1},
        ModelParameters{"faulty", {16, 32, 8}, kSomeFaults, 1, 2},
        ModelParameters{"tiny", {4, 6, 4}, kSomeFaults, 1, 3},
        ModelParameters{"parts", {24, 40, 8}, kSomeFaults, 2, 4},
        ModelParameters{"no_cold", {12, 0, 4}, {}, 2, 5},
        ModelParameters{"few_places", {16, 32, 8, 24}, kSomeFaults, 1, 6},
        ModelParameters{"long_blocks", {16, 32, 8}, kSomeFaults, 2, 7, 4},
        ModelParameters{"hot",
                        {.warm_blocks = 16, .cold_blocks = 32, .chunk_blocks = 8, .hot_blocks = 16},
                        {},
                        1,
                        8},
        ModelParameters{"faulty_hot",
                        {.warm_blocks = 24,
                         .cold_blocks = 40,
                         .chunk_blocks = 8,
                         .hot_blocks = 8,
                         .pin_quota_percent = 25},
                        kSomeFaults,
                        2,
                        9}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace thermocline
