// A tier stack that a test steps by hand: its strand and its disk are queues, time stands still,
// the capacities are tiny, and every payload follows from its path of names, so that any byte can
// be judged.
#pragma once
#include <gtest/gtest.h>

#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "hashing/checksum.h"
#include "tests/tiers/pretended_device.h"
#include "tests/tiers/scratch_directory.h"
#include "tiers/device_tier.h"
#include "tiers/fault_tier.h"
#include "tiers/log_tier.h"
#include "tiers/stack_core.h"

namespace thermocline {

inline constexpr uint64_t kTestBlockBytes = 4096;
inline constexpr int kMaxSteps = 200000;  // beyond this, something goes round in circles

class SteppedStack {
 public:
  struct Sizes {
    uint64_t warm_blocks = 16;
    uint64_t cold_blocks = 64;
    uint64_t chunk_blocks = 8;
    uint32_t max_places = 4096;
    uint32_t max_spaces = 64;
    uint64_t cold_write_bytes_per_day = 0;
    Durability durability = Durability::kWriteBack;
    bool scrub = true;
    uint64_t cold_scrub_bytes_per_tick = StackOptions().cold_scrub_bytes_per_tick;
    bool clients_fill = true;
    bool own_threads = false;         // reads and work do not wait behind what the disk has to do
    std::shared_ptr<KeySource> keys;  // none: nothing is encrypted
    std::shared_ptr<rocksdb::FileSystem> file_system = nullptr;  // below the cold tier
    BudgetAccount warm_account, cold_account;                    // none: it has all of both
    uint64_t hot_blocks = 0;
    uint32_t pin_quota_percent = 1000;  // more than there is: pins are not refused
    bool counts_all_files = false;      // of the cold tier, RocksDB's own too
  };
  SteppedStack() : SteppedStack(Sizes{}) {}
  explicit SteppedStack(Sizes sizes)
      : device(std::make_shared<PretendedDevice>(sizes.chunk_blocks * kTestBlockBytes)),
        sizes_(sizes) {
    Open();
  }
  ~SteppedStack() { Close(); }

  /// As a kill would leave it, but for what the process itself holds.
  void Close() {
    stack_.reset();
    strand_.clear();
    for (auto* queue : {&disk_, &reads_, &work_}) queue->clear();
    timers_.clear();
    fault_ = nullptr;
  }
  void Open() {
    StackOptions options;
    options.arena_path = directory_.path() + "/arena";
    options.data_dir = directory_.path();
    options.warm_capacity_bytes = sizes_.warm_blocks * kTestBlockBytes;
    options.cold_capacity_bytes = sizes_.cold_blocks * (kTestBlockBytes + sizeof(BlockHeader));
    options.chunk_bytes = sizes_.chunk_blocks * kTestBlockBytes;
    options.max_places = sizes_.max_places;
    options.durability = sizes_.durability;
    options.cold_write_bytes_per_day = sizes_.cold_write_bytes_per_day;
    options.pin_quota_percent = sizes_.pin_quota_percent;
    options.warm_account = sizes_.warm_account;
    options.cold_account = sizes_.cold_account;
    options.max_spaces = sizes_.max_spaces;
    if (!sizes_.scrub) options.scrub_bytes_per_tick = 0;
    options.cold_scrub_bytes_per_tick = sizes_.cold_scrub_bytes_per_tick;
    options.clients_fill = sizes_.clients_fill;
    options.cold_envelope = {.keys = sizes_.keys};
    if (sizes_.hot_blocks > 0) {
      options.open_hot = [this, chunk_bytes = options.chunk_bytes](
                             const Arena&) -> absl::StatusOr<std::unique_ptr<DeviceTier>> {
        if (device == nullptr) return absl::UnavailableError("no device");
        return DeviceTier::Open({.metadata_path = directory_.path() + "/hot",
                                 .capacity_bytes = sizes_.hot_blocks * kTestBlockBytes,
                                 .chunk_bytes = chunk_bytes,
                                 .memory = device});
      };
    }
    options.clock = &clock_;
    options.strand = [this](Task task) { strand_.push_back(std::move(task)); };
    options.disk = [this](Task task) { disk_.push_back(std::move(task)); };
    if (sizes_.own_threads) {
      options.reads = [this](Task task) { reads_.push_back(std::move(task)); };
      options.work = [this](Task task) { work_.push_back(std::move(task)); };
      options.hot = [this](Task task) { hot_.push_back(std::move(task)); };
    }
    options.strand_at = [this](std::chrono::steady_clock::duration delay, Task task) {
      if (!refuse_timers) timers_.emplace(clock_.Now() + delay, std::move(task));
      return !refuse_timers;
    };
    std::unique_ptr<Tier> cold;
    if (sizes_.cold_blocks > 0) {
      auto disk = LogTier::Open({.directory = directory_.path(),
                                 .capacity_bytes = options.cold_capacity_bytes,
                                 .account = options.cold_account,
                                 .unit_bytes = options.chunk_bytes,
                                 .reopen_pause = std::chrono::milliseconds(0),
                                 .envelope = BlockEnvelope(options.cold_envelope),
                                 .own_bytes = sizes_.counts_all_files
                                                  ? LogTier::OwnBytes(options.cold_capacity_bytes)
                                                  : 0,
                                 .file_system = sizes_.file_system});
      ASSERT_TRUE(disk.ok()) << disk.status();
      auto fault = std::make_unique<ColdTier>(*std::move(disk), rates_, ++fault_seed_, *this);
      fault_ = fault.get();
      cold = std::move(fault);
    }
    auto stack = StackCore::OpenWith(options, std::move(cold));
    ASSERT_TRUE(stack.ok()) << stack.status();
    stack_ = *std::move(stack);
  }
  void Restart() {
    Close();
    Open();
  }
  /// As after a power loss: what was in memory is gone.
  void RestartWithoutMemory() {
    Close();
    for (const char* file : {"/arena", "/arena.meta", "/arena.sessions"}) {
      std::filesystem::remove(directory_.path() + file);
    }
    Open();
  }
  void SetFaults(FaultRates rates) {
    rates_ = rates;
    if (fault_ != nullptr) fault_->SetRates(rates);
  }

  /// One task; false when there is none that may run now.
  bool Step() {
    return StepStrand() || StepReads() || StepWork() || StepDisk(0) ||
           (!device_hangs && StepOne(hot_, 0));
  }
  bool StepStrand() {
    while (!timers_.empty() && timers_.begin()->first <= clock_.Now()) {
      strand_.push_back(std::move(timers_.begin()->second));
      timers_.erase(timers_.begin());
    }
    if (strand_.empty()) return false;
    Task task = std::move(strand_.front());
    strand_.pop_front();
    task();
    return true;
  }
  bool StepDisk(size_t which) { return StepOne(disk_, which); }
  bool StepReads() { return StepOne(reads_, 0); }
  bool StepWork() { return StepOne(work_, 0); }
  /// Until nothing is left to do without time going on.
  void Settle() {
    int steps = 0;
    while (Step()) ASSERT_LT(++steps, kMaxSteps) << "it goes round in circles";
  }
  /// As Settle, but lets time go on until `done`, at most a minute.
  void SettleUntil(const bool& done) {
    Settle();
    for (int i = 0; i < 600 && !done; ++i) {
      Advance(std::chrono::milliseconds(100));
      Settle();
    }
    ASSERT_TRUE(done) << "a callback never came";
  }
  void Advance(std::chrono::nanoseconds by) { clock_.Advance(by); }

  StackCore& operator*() { return *stack_; }
  StackCore* operator->() { return stack_.get(); }
  const std::string& directory() const { return directory_.path(); }
  Sizes& sizes() { return sizes_; }
  size_t disk_tasks() const { return disk_.size(); }
  size_t timers() const { return timers_.size(); }

  bool refuse_timers = false;
  bool device_hangs = false;
  std::function<void()> during_read;        // what happens while a cold block is read
  std::shared_ptr<PretendedDevice> device;  // of the hot tier

 private:
  class ColdTier : public FaultTier {
   public:
    ColdTier(std::unique_ptr<Tier> below, FaultRates rates, uint64_t seed, SteppedStack& owner)
        : FaultTier(std::move(below), rates, seed), owner_(owner) {}
    absl::StatusOr<std::optional<BlockRecord>> Get(BlockRef ref,
                                                   std::span<std::byte> payload) override {
      if (owner_.during_read) owner_.during_read();
      return FaultTier::Get(ref, payload);
    }

   private:
    SteppedStack& owner_;
  };

  static bool StepOne(std::deque<Task>& queue, size_t which) {
    if (queue.empty()) return false;
    const auto at = queue.begin() + static_cast<ptrdiff_t>(which % queue.size());
    Task task = std::move(*at);
    queue.erase(at);
    task();
    return true;
  }

  ScratchDirectory directory_;
  Sizes sizes_;
  ManualClock clock_;
  FaultRates rates_;
  uint64_t fault_seed_ = 100;
  FaultTier* fault_ = nullptr;
  std::deque<Task> strand_;
  std::deque<Task> disk_, reads_, work_, hot_;
  std::multimap<SteadyTime, Task> timers_;
  std::unique_ptr<StackCore> stack_;
};

inline SpaceSpec TestSpec(const std::string& model = "test", uint32_t parts = 1) {
  SpaceSpec spec;
  spec.model = model;
  spec.kv_dtype = "f32";
  spec.layers = spec.kv_heads = 1;
  spec.head_dim = 8;
  spec.layout = "lkht.v1";
  for (uint32_t part = 0; part < parts; ++part) {
    spec.parts.push_back({.name = "part" + std::to_string(part), .block_bytes = kTestBlockBytes});
  }
  return spec;
}

inline Name TestName(uint64_t value) {
  Name name = {};
  name.word[0] = value;
  name.word[7] = ~value;
  return name;
}

inline std::vector<Name> TestNames(const std::vector<uint64_t>& values) {
  std::vector<Name> names;
  for (uint64_t value : values) names.push_back(TestName(value));
  return names;
}
/// A path of so many of its own.
inline std::vector<Name> TestPath(uint64_t number, uint64_t blocks) {
  std::vector<uint64_t> values;
  for (uint64_t depth = 0; depth < blocks; ++depth) values.push_back(number + 100'000 * depth);
  return TestNames(values);
}

/// The only legal content of a block: a pattern of its space, its path of names and its part.
inline void FillLegal(std::span<std::byte> payload, uint32_t space, uint32_t part,
                      std::span<const Name> path) {
  uint64_t seed = space * 1000003 + part + 17;
  for (const Name& name : path) seed = seed * 6364136223846793005u + name.word[0] + 1;
  std::mt19937_64 random(seed);
  for (size_t at = 0; at + 8 <= payload.size(); at += 8) {
    const uint64_t value = random();
    std::memcpy(payload.data() + at, &value, sizeof value);
  }
}

inline bool IsLegal(std::span<const std::byte> payload, uint32_t space, uint32_t part,
                    std::span<const Name> path) {
  std::vector<std::byte> legal(payload.size());
  FillLegal(legal, space, part, path);
  return std::memcmp(legal.data(), payload.data(), legal.size()) == 0;
}

/// A client of a stepped stack, with the calls that most tests need.
class TestClient {
 public:
  static constexpr int kPid = 1'000'000'000;  // nobody's
  TestClient(SteppedStack& stack, uint32_t space, uint32_t block_places = 1,
             ProcessRef process = {kPid, 1})
      : stack_(stack), space_(space), block_places_(block_places) {
    number_ = *stack->AddClient(process.pid, process.start_time, nullptr);
  }
  ClientNumber number() const { return number_; }

  LeaseView Match(const std::vector<Name>& names) {
    auto lease = stack_->Match(number_, space_, names);
    EXPECT_TRUE(lease.ok()) << lease.status();
    return lease.ok() ? *lease : LeaseView{};
  }
  std::vector<uint64_t> Reserve(uint32_t count, uint16_t part = 0, int wait_ms = 1000) {
    return Granted([&](TierStack::ReserveCallback done) {
      stack_->Reserve(number_, space_, part, count, std::chrono::milliseconds(wait_ms),
                      std::move(done));
    });
  }
  /// Reserves, fills and commits all of `names` behind the lease; how many it could.
  uint32_t Extend(LeaseView& lease, const std::vector<Name>& names, uint32_t parts = 1) {
    std::vector<CommitItem> items;
    uint32_t end = lease.depth;
    for (uint32_t part = 0; part < parts; ++part) {
      const auto missing = static_cast<uint32_t>(names.size() - lease.depth) / block_places_;
      const auto offsets = Reserve(missing, part);
      for (uint32_t i = 0; i < offsets.size(); ++i) {
        const uint32_t depth = lease.depth + (i + 1) * block_places_ - 1;
        items.push_back(Fill(offsets[i], depth, part, names));
        end = std::max(end, depth + 1);
      }
    }
    if (items.empty()) return lease.depth;
    const auto view =
        stack_->Commit(number_, lease.lease, std::span(names).subspan(lease.depth), items);
    EXPECT_TRUE(view.ok()) << view.status();
    if (view.ok()) lease.depth = view->depth;
    EXPECT_EQ(lease.depth, end);
    return lease.depth;
  }
  CommitItem Fill(uint64_t offset, uint32_t depth, uint16_t part, const std::vector<Name>& names) {
    const auto bytes = stack_->ReservedBytes(number_, offset);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    const auto payload = stack_->SlotPayload(offset, *bytes);
    // A client has the arena mapped for writing.
    const std::span<std::byte> writable(const_cast<std::byte*>(payload.data()), payload.size());
    FillLegal(writable, space_, part, std::span(names).first(depth + 1));
    return {offset, part, depth, Checksum(payload)};
  }
  /// Of the device's memory, to which the client's own kernels write.
  std::vector<uint64_t> ReserveOnDevice(uint32_t count, uint16_t part = 0, int wait_ms = 1000) {
    return Granted([&](TierStack::ReserveCallback done) {
      stack_->ReserveOnDevice(number_, space_, part, count, std::chrono::milliseconds(wait_ms),
                              std::move(done));
    });
  }
  CommitItem FillOnDevice(uint64_t offset, uint32_t depth, uint16_t part,
                          const std::vector<Name>& names) {
    FillLegal({stack_.device->At(offset - kDeviceSlots, kTestBlockBytes), kTestBlockBytes}, space_,
              part, std::span(names).first(depth + 1));
    return {offset, part, depth};
  }
  /// Has what was filled there summed; with what came of it.
  absl::Status SumOnDevice(std::vector<CommitItem>& items) {
    std::vector<uint64_t> offsets;
    for (const CommitItem& item : items) offsets.push_back(item.offset);
    absl::Status status;
    bool done = false;
    stack_->SumOnDevice(number_, offsets, [&](absl::StatusOr<std::vector<uint64_t>> sums) {
      for (size_t i = 0; sums.ok() && i < items.size(); ++i) items[i].checksum = (*sums)[i];
      status = sums.status();
      done = true;
    });
    stack_.SettleUntil(done);
    return status;
  }
  /// Whether every warm block that the view names has its legal bytes; unchecked ones may be
  /// spoiled, and are summed as a client would.
  void ExpectLegal(const std::vector<BlockView>& blocks, const std::vector<Name>& names) {
    for (const BlockView& block : blocks) {
      if (block.tier != TierKind::kWarm) continue;
      const auto payload = stack_->SlotPayload(block.offset, block.bytes);
      if (!block.checked && Checksum(payload) != block.checksum) continue;
      ASSERT_TRUE(IsLegal(payload, space_, block.part, std::span(names).first(block.depth + 1)))
          << "depth " << block.depth << " part " << block.part;
      ASSERT_EQ(Checksum(payload), block.checksum);
    }
  }
  /// Loads a lease to its end; how many blocks became ready, all of them checked against `names`.
  size_t Load(const LeaseView& lease, const std::vector<Name>& names) {
    size_t ready = 0;
    bool done = false;
    std::pair<uint32_t, uint16_t> last{0, 0};
    stack_->Load(
        number_, lease.lease,
        [&](std::vector<BlockView> blocks) {
          for (const BlockView& block : blocks) {
            EXPECT_EQ(block.tier, TierKind::kWarm);
            const std::pair<uint32_t, uint16_t> at{block.depth, block.part};
            EXPECT_TRUE(ready == 0 || last < at) << "not in prefix order";
            last = at;
            ++ready;
          }
          ExpectLegal(blocks, names);
          return true;
        },
        [&](absl::Status status) {
          load_status = status;
          done = true;
        });
    stack_.SettleUntil(done);
    return ready;
  }
  void Release(const LeaseView& lease) { EXPECT_TRUE(stack_->Release(number_, lease.lease).ok()); }

  absl::Status reserve_status;
  absl::Status load_status;

 private:
  std::vector<uint64_t> Granted(const std::function<void(TierStack::ReserveCallback)>& reserve) {
    std::vector<uint64_t> offsets;
    bool done = false;
    reserve([&](absl::StatusOr<std::vector<uint64_t>> result) {
      if (result.ok()) offsets = *result;
      reserve_status = result.status();
      done = true;
    });
    EXPECT_FALSE(done) << "called back before the call returned";
    stack_.SettleUntil(done);
    return offsets;
  }

  SteppedStack& stack_;
  uint32_t space_;
  uint32_t block_places_;
  ClientNumber number_;
};

/// Flushes a tier to the end; blocks and kept.
inline std::pair<uint64_t, uint64_t> FlushTier(SteppedStack& stack, TierKind tier) {
  std::pair<uint64_t, uint64_t> result;
  bool done = false;
  stack->Flush(tier, [&](absl::Status status, uint64_t blocks, uint64_t kept) {
    EXPECT_TRUE(status.ok()) << status;
    result = {blocks, kept};
    done = true;
  });
  stack.SettleUntil(done);
  return result;
}

class StackTest : public ::testing::Test {
 protected:
  void Use(SteppedStack::Sizes sizes, SpaceSpec spec = TestSpec()) {
    stack_ = std::make_unique<SteppedStack>(sizes);
    spec_ = spec;
    Connect();
    stack_->Settle();  // the space is noted
  }
  void Connect() {
    const auto space = (*stack_)->OpenSpace(spec_);
    ASSERT_TRUE(space.ok()) << space.status();
    space_ = *space;
    client_ = std::make_unique<TestClient>(*stack_, space_, spec_.block_tokens / kPlaceTokens);
  }
  void Restart() {
    client_.reset();
    stack_->Restart();
    Connect();
  }
  /// Commits a whole path and lets go of it.
  void Write(const std::vector<Name>& names, uint32_t parts = 1) {
    LeaseView lease = client_->Match(names);
    EXPECT_EQ(client_->Extend(lease, names, parts), names.size());
    client_->Release(lease);
  }
  void ExpectBooksAgree() {
    const absl::Status audit = (*stack_)->Audit();
    EXPECT_TRUE(audit.ok()) << audit;
  }
  uint64_t Tiers(size_t tier) { return (*stack_)->Stats().tiers[tier].block_count; }
  void StepStrand() {
    while (stack_->StepStrand()) continue;
  }
  /// Commits a path of its own; `answers_` gets what its durability is answered with.
  void CommitDurably(const std::vector<Name>& names) {
    const LeaseView lease = client_->Match({});
    const auto count = static_cast<uint32_t>(names.size());
    std::vector<uint64_t> slots;
    (*stack_)->Reserve(
        client_->number(), space_, 0, count, std::chrono::milliseconds(0),
        [&](absl::StatusOr<std::vector<uint64_t>> result) { slots = *std::move(result); });
    StepStrand();
    ASSERT_EQ(slots.size(), count);
    std::vector<CommitItem> items;
    for (uint32_t i = 0; i < count; ++i) items.push_back(client_->Fill(slots[i], i, 0, names));
    const auto view = (*stack_)->Commit(client_->number(), lease.lease, names, items);
    ASSERT_TRUE(view.ok()) << view.status();
    (*stack_)->AwaitDurable(*view, [this](absl::Status status) { answers_.push_back(status); });
    client_->Release(lease);
    StepStrand();
  }

  std::unique_ptr<SteppedStack> stack_;
  SpaceSpec spec_;
  uint32_t space_ = 0;
  std::unique_ptr<TestClient> client_;
  std::vector<absl::Status> answers_;
};

}  // namespace thermocline
