// The tier stack with real threads: its strand and its disk on executors, clients that fill and
// read the arena in place from threads of their own while blocks sink and rise beneath them. For
// ThreadSanitizer as much as for the bytes.
#include <atomic>
#include <future>
#include <thread>

#include "base/executor.h"
#include "tests/tiers/stack_fixture.h"
#include "tiers/log_tier.h"

namespace thermocline {
namespace {

class ThreadedStack {
 public:
  ThreadedStack()
      : strand_pool_({.name = "strand", .thread_count = 1}),
        disk_pool_({.name = "disk", .thread_count = 3}),
        strand_(strand_pool_.MakeStrand()) {
    StackOptions options;
    options.arena_path = directory_.path() + "/arena";
    options.data_dir = directory_.path();
    options.warm_capacity_bytes = 24 * kTestBlockBytes;
    options.cold_capacity_bytes =
        LogTier::OwnBytes(0) + 48 * (kTestBlockBytes + sizeof(BlockHeader));
    options.chunk_bytes = 8 * kTestBlockBytes;
    options.strand = [this](Task task) { (void)strand_.PostCompletion(std::move(task)); };
    options.disk = [this](Task task) { (void)disk_pool_.PostCompletion(std::move(task)); };
    options.strand_at = [this](std::chrono::steady_clock::duration delay, Task task) {
      return strand_.PostAfter(delay, std::move(task));
    };
    std::promise<void> opened;
    (void)strand_.PostCompletion([&] {
      auto stack = TierStack::Open(options);
      EXPECT_TRUE(stack.ok()) << stack.status();
      if (stack.ok()) stack_ = *std::move(stack);
      opened.set_value();
    });
    opened.get_future().get();
  }
  ~ThreadedStack() {
    std::promise<void> closed;
    (void)strand_.PostCompletion([&] {
      stack_.reset();
      closed.set_value();
    });
    closed.get_future().get();
    disk_pool_.Stop();
    strand_pool_.Stop();
  }

  /// Runs `function(stack)` on the strand and waits for what it returns.
  template <class Function>
  auto Call(Function function) {
    std::promise<decltype(function(*stack_))> result;
    (void)strand_.PostCompletion([&] { result.set_value(function(*stack_)); });
    return result.get_future().get();
  }
  /// Runs `function(stack, done)` on the strand and waits for done(value).
  template <class Value, class Function>
  Value CallAsync(Function function) {
    auto result = std::make_shared<std::promise<Value>>();
    auto future = result->get_future();
    (void)strand_.PostCompletion([&, result] {
      function(*stack_, [result](Value value) { result->set_value(std::move(value)); });
    });
    return future.get();
  }

 private:
  ScratchDirectory directory_;
  Executor strand_pool_;
  Executor disk_pool_;
  Strand strand_;
  std::unique_ptr<TierStack> stack_;
};

struct Tally {
  std::atomic<int> wrong = 0;
  std::atomic<int> read = 0;
  std::atomic<int> committed = 0;
};

class StressClient {
 public:
  StressClient(ThreadedStack& stack, uint32_t space, uint64_t seed, Tally& tally)
      : stack_(stack), space_(space), random_(seed), tally_(tally) {
    number_ = stack_.Call(
        [](TierStack& stack) { return *stack.AddClient(TestClient::kPid, 1, nullptr); });
  }

  void Run(int rounds) {
    for (int round = 0; round < rounds; ++round) Round();
    stack_.Call([&](TierStack& stack) {
      stack.RemoveClient(number_, Departure::kProcessGone);
      return 0;
    });
  }

 private:
  void Round() {
    std::vector<Name> names;
    for (uint64_t i = 1 + random_() % 6; i > 0; --i) names.push_back(TestName(random_() % 3));
    const LeaseView lease =
        stack_.Call([&](TierStack& stack) { return *stack.Match(number_, space_, names); });
    using Load = std::pair<std::vector<BlockView>, absl::Status>;
    const Load loaded = stack_.CallAsync<Load>([&](TierStack& stack, auto done) {
      auto blocks = std::make_shared<std::vector<BlockView>>();
      stack.Load(
          number_, lease.lease,
          [blocks](std::vector<BlockView> more) {
            blocks->insert(blocks->end(), more.begin(), more.end());
            return true;
          },
          [blocks, done](absl::Status status) {
            done(Load{*blocks, status});
          });
    });
    for (const BlockView& block : loaded.first) Read(block, names);
    if (lease.depth < names.size() && loaded.first.size() == lease.depth) Extend(lease, names);
    for (const BlockView& block : loaded.first) Read(block, names);
    const absl::Status released =
        stack_.Call([&](TierStack& stack) { return stack.Release(number_, lease.lease); });
    if (!released.ok()) ++tally_.wrong;
  }

  void Read(const BlockView& block, const std::vector<Name>& names) {
    const auto payload =
        stack_.Call([&](TierStack& stack) { return stack.SlotPayload(block.offset, block.bytes); });
    ++tally_.read;
    if (!IsLegal(payload, space_, block.part, std::span(names).first(block.depth + 1))) {
      ++tally_.wrong;
    }
  }

  void Extend(const LeaseView& lease, const std::vector<Name>& names) {
    using Slots = absl::StatusOr<std::vector<uint64_t>>;
    const auto count = static_cast<uint32_t>(names.size() - lease.depth);
    const Slots slots = stack_.CallAsync<Slots>([&](TierStack& stack, auto done) {
      stack.Reserve(number_, space_, 0, count, std::chrono::milliseconds(50), done);
    });
    if (!slots.ok()) return;
    std::vector<CommitItem> items;
    for (uint32_t i = 0; i < slots->size(); ++i) {
      const uint32_t depth = lease.depth + i;
      const auto payload = stack_.Call(
          [&](TierStack& stack) { return stack.SlotPayload((*slots)[i], kTestBlockBytes); });
      const std::span<std::byte> writable(const_cast<std::byte*>(payload.data()), payload.size());
      FillLegal(writable, space_, 0, std::span(names).first(depth + 1));
      items.push_back({(*slots)[i], 0, depth, Checksum(payload)});
    }
    const auto view = stack_.Call([&](TierStack& stack) {
      return stack.Commit(number_, lease.lease, std::span(names).subspan(lease.depth), items);
    });
    if (!view.ok()) {
      ++tally_.wrong;
      return;
    }
    tally_.committed += static_cast<int>(items.size());
    for (const BlockView& block : view->blocks) Read(block, names);
  }

  ThreadedStack& stack_;
  const uint32_t space_;
  std::mt19937_64 random_;
  Tally& tally_;
  ClientNumber number_;
};

TEST(StackStressTest, ClientsReadInPlaceWhileBlocksSinkAndRise) {
  constexpr int kClients = 4;
  constexpr int kRounds = 400;
  const uint64_t seed = TestSeed(77);
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  ASSERT_TRUE(SetUpLog({.level = LogLevel::kOff}).ok());
  ThreadedStack stack;
  const uint32_t space = stack.Call([](TierStack& stack) { return *stack.OpenSpace(TestSpec()); });
  Tally tally;
  std::vector<std::thread> threads;
  for (int i = 0; i < kClients; ++i) {
    threads.emplace_back([&, i] {
      StressClient(stack, space, seed + static_cast<uint64_t>(i), tally).Run(kRounds);
    });
  }
  std::atomic<bool> over = false;
  std::thread ticker([&] {
    while (!over) {
      stack.Call([](TierStack& stack) {
        stack.Tick();
        return 0;
      });
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
  for (std::thread& thread : threads) thread.join();
  over = true;
  ticker.join();
  EXPECT_EQ(tally.wrong, 0);
  EXPECT_GT(tally.committed, 50);
  EXPECT_GT(tally.read, 1000);
  using Flushed = std::pair<uint64_t, uint64_t>;
  const Flushed flushed = stack.CallAsync<Flushed>([](TierStack& stack, auto done) {
    stack.Flush(TierKind::kWarm, [done](absl::Status, uint64_t blocks, uint64_t kept) {
      done(Flushed{blocks, kept});
    });
  });
  EXPECT_EQ(flushed.second, 0u);
  const StackStats stats = stack.Call([](TierStack& stack) { return stack.Stats(); });
  EXPECT_EQ(stats.tiers[0].used_bytes, 0u) << "a leaked slot";
  EXPECT_LE(stats.tiers[1].used_bytes, stats.tiers[1].capacity_bytes);
  EXPECT_GT(stats.tiers[0].promotions, 20u);
}

}  // namespace
}  // namespace thermocline
