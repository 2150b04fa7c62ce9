// The cache fails the engine in every way that it can: no room, a daemon killed, restarted or
// stopped between two tokens, spoiled bytes in the arena, another engine that was first. The answer
// must be the one without a cache, and what happened must be counted.
#include <barrier>

#include "tests/e2e/cached_run.h"

namespace thermocline {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr KvDtype kKv = KvDtype::kF32;
constexpr size_t kPromptTokens = 203;
constexpr size_t kNewTokens = 60;
// A lease lasts for ten seconds after the daemon's last sign (proto/shm_layout.h).
constexpr seconds kLongerThanALease{11};

class CacheLossTest : public ::testing::Test {
 protected:
  void SetUp() override {
    TC_NEED_FILE(ModelData("stories260K.gguf"));
    model_ = Model::Load(ModelData("stories260K.gguf"), 2, 512);
    prompt_ = StoryTokens(kPromptTokens);
    Sequence alone(*model_, kKv, 512, nullptr);
    reference_ = Ask(alone).output_ids;
    ASSERT_EQ(reference_.size(), kNewTokens);
  }

  GenerateResult Ask(Sequence& sequence, std::function<bool(int32_t)> on_token = {}) {
    GenerateRequest request{.prompt_ids = prompt_, .max_tokens = kNewTokens};
    request.on_token = std::move(on_token);
    auto result = Generate(*model_->transformer, kKv, sequence.kv(), request);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *std::move(result) : GenerateResult{};
  }

  Sequence Through(const DaemonProcess& daemon) { return Sequence(*model_, kKv, 512, &daemon); }

  /// Calls `event` once, when `count` ids are out.
  static std::function<bool(int32_t)> At(size_t count, std::function<void()> event) {
    return [count, event, seen = size_t{0}](int32_t) mutable {
      if (++seen == count) event();
      return true;
    };
  }

  /// The engine does not wait until what it has computed is published; these tests do.
  void AwaitPrompt(Sequence& sequence) {
    EXPECT_TRUE(Eventually([&] {
      const auto lease = sequence.space().Match(prompt_);
      return lease->depth() == 12 && lease->StillValid();
    }));
  }

  /// Every slot of the daemon's arena but `free` of them, once all that was warm has sunk.
  static std::vector<Reservation> TakeSlots(Sequence& holder, size_t free) {
    std::vector<Reservation> slots;
    while (true) {
      const auto stats = holder.client().Stats();
      const bool all_sunk = stats.ok() && stats->tiers[0].blocks == 0;
      auto more = holder.space().Reserve(1, 0, milliseconds(100));
      if (!more.ok() && all_sunk) break;
      if (!more.ok()) continue;
      slots.push_back(std::move(more->front()));
    }
    TC_CHECK(slots.size() > free);
    for (size_t i = 0; i < free; ++i) slots.pop_back();
    return slots;
  }

  std::unique_ptr<Model> model_;
  std::vector<int32_t> prompt_;
  std::vector<int32_t> reference_;
};

TEST_F(CacheLossTest, AFullArenaSendsTheRestToPrivatePages) {
  DaemonProcess daemon({.warm_capacity = "1MiB"});
  const size_t blocks = BlocksOf(kPromptTokens + kNewTokens - 1);
  Sequence holder = Through(daemon);
  for (const size_t free : {size_t{0}, size_t{5}, size_t{14}}) {
    const auto slots = TakeSlots(holder, free);
    EXPECT_TRUE(Eventually([&] { return holder.client().Stats()->reservations == slots.size(); }));
    Sequence sequence = Through(daemon);
    const GenerateResult result = Ask(sequence);
    EXPECT_EQ(result.output_ids, reference_) << free;
    EXPECT_EQ(result.recoveries, 0u);
    // What an earlier round committed has sunk to make room for the slots taken, and needs slots
    // as new blocks do.
    EXPECT_EQ(result.uncached_blocks, blocks - free) << free;
    EXPECT_EQ(sequence.private_blocks(), result.uncached_blocks);
  }
  Sequence sequence = Through(daemon);
  const GenerateResult result = Ask(sequence);
  EXPECT_EQ(result.output_ids, reference_);
  EXPECT_EQ(result.cached_tokens, 12u * kBlockTokens) << "they fitted in the last round";
  EXPECT_EQ(result.uncached_blocks, 0u);
}

TEST_F(CacheLossTest, ADaemonKilledBetweenTokensCostsNothing) {
  for (const size_t at : {size_t{1}, size_t{5}, size_t{37}, kNewTokens}) {
    DaemonProcess daemon;
    Sequence sequence = Through(daemon);
    const GenerateResult result = Ask(sequence, At(at, [&] { daemon.Stop(SIGKILL); }));
    EXPECT_EQ(result.output_ids, reference_) << at;
    EXPECT_EQ(result.recoveries, 1u) << at;
    EXPECT_EQ(result.uncached_blocks, 0u) << at;
    EXPECT_GE(sequence.private_blocks(), BlocksOf(kPromptTokens)) << at;
    // The next turn finds no daemon, and does not mind.
    const GenerateResult again = Ask(sequence);
    EXPECT_EQ(again.output_ids, reference_);
    EXPECT_EQ(again.cached_tokens, 0u);
    EXPECT_EQ(again.recoveries, 0u);
  }
}

TEST_F(CacheLossTest, ADaemonRestartedBetweenTokensIsUsedAgainInTheNextTurn) {
  for (const int how : {SIGKILL, SIGTERM}) {
    DaemonProcess daemon;
    Sequence sequence = Through(daemon);
    const GenerateResult result = Ask(sequence, At(20, [&] {
                                        AwaitPrompt(sequence);
                                        daemon.Stop(how);
                                        daemon.Start();
                                      }));
    EXPECT_EQ(result.output_ids, reference_);
    EXPECT_EQ(result.recoveries, 1u);
    AwaitPrompt(sequence);
    const GenerateResult again = Ask(sequence);
    EXPECT_EQ(again.output_ids, reference_);
    EXPECT_EQ(again.cached_tokens, 12u * kBlockTokens) << "committed before the daemon went";
    EXPECT_EQ(again.recoveries, 0u);
    const GenerateResult more = Ask(sequence);
    EXPECT_EQ(more.output_ids, reference_);
  }
}

TEST_F(CacheLossTest, ADaemonStoppedForLongerThanALeaseIsAMiss) {
  DaemonProcess daemon;
  Sequence sequence = Through(daemon);
  const GenerateResult result = Ask(sequence, At(10, [&] {
                                      AwaitPrompt(sequence);
                                      ::kill(daemon.pid(), SIGSTOP);
                                      std::this_thread::sleep_for(kLongerThanALease);
                                    }));
  EXPECT_EQ(result.output_ids, reference_);
  EXPECT_EQ(result.recoveries, 1u);
  ::kill(daemon.pid(), SIGCONT);
  AwaitPrompt(sequence);  // until it ticks, no lease is good
  const GenerateResult again = Ask(sequence);
  EXPECT_EQ(again.output_ids, reference_);
  EXPECT_EQ(again.recoveries, 0u);
  EXPECT_EQ(again.cached_tokens, 12u * kBlockTokens);
}

/// What is committed is not waited for, and slots are there in advance: a silent daemon is noticed
/// when they run out, or at the end.
TEST_F(CacheLossTest, ASilentDaemonCostsOneShortDeadlineAndIsLeftAloneForAWhile) {
  for (const size_t at : {size_t{1}, size_t{2}, size_t{20}}) {
    EXPECT_TRUE(Eventually([&] {
      DaemonProcess daemon;
      Sequence sequence(*model_, kKv, 512, &daemon, {.first = kPatience, .backoff = kPatience});
      const GenerateResult result = Ask(sequence, At(at, [&] { ::kill(daemon.pid(), SIGSTOP); }));
      EXPECT_EQ(result.output_ids, reference_) << at;
      // Where it granted a slot too late before, nothing was asked of it afterwards.
      if (sequence.silences() == 0 && result.uncached_blocks > 0) return false;
      EXPECT_EQ(result.recoveries, 1u) << at;
      EXPECT_EQ(sequence.silences(), 1u) << at;
      const GenerateResult again = Ask(sequence);
      EXPECT_EQ(again.output_ids, reference_) << at;
      // A match, for which no message is needed, would be a hit or lead to the next silence.
      EXPECT_EQ(again.cached_tokens + again.recoveries, 0u) << at << ": it was asked again at once";
      EXPECT_EQ(sequence.silences(), 1u) << at;
      return true;
    })) << at;
  }
}

TEST_F(CacheLossTest, ADaemonThatWasSilentIsAskedAgain) {
  DaemonProcess daemon;
  Sequence sequence(*model_, kKv, 512, &daemon, {.first = kPatience});
  Ask(sequence, At(1, [&] { ::kill(daemon.pid(), SIGSTOP); }));
  EXPECT_LE(sequence.silences(), 1u);
  ::kill(daemon.pid(), SIGCONT);
  EXPECT_TRUE(Eventually([&] { return Ask(sequence).cached_tokens == 12u * kBlockTokens; }));
}

TEST_F(CacheLossTest, SpoiledBytesInTheArenaAreAMiss) {
  DaemonProcess daemon;
  Turn turn;
  {
    Sequence sequence = Through(daemon);
    turn = RunTurn(*model_, kKv, sequence, prompt_, 1, 256);
  }
  daemon.Stop(SIGKILL);
  {
    const std::string path = daemon.directory() + "/arena/default.arena";
    const std::string arena = ReadText(path);
    const size_t at = arena.find(turn.blocks[3]);
    ASSERT_NE(at, std::string::npos);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at + 1234));
    file.put(static_cast<char>(arena[at + 1234] ^ 4));
    ASSERT_TRUE(file.good());
  }
  daemon.Start();
  Sequence sequence = Through(daemon);
  const GenerateResult result = Ask(sequence);
  EXPECT_EQ(result.output_ids, reference_);
  EXPECT_EQ(result.cached_tokens, 3u * kBlockTokens);
  EXPECT_EQ(result.recoveries, 0u) << daemon.Log();
  const GenerateResult again = Ask(sequence);
  EXPECT_EQ(again.output_ids, reference_);
  EXPECT_EQ(again.cached_tokens, 12u * kBlockTokens) << "a commit put the right bytes there";
  ExpectCommitted(
      daemon, model_->Space(kKv),
      [&] {
        Sequence alone(*model_, kKv, 512, nullptr);
        return RunTurn(*model_, kKv, alone, prompt_, kNewTokens, 256);
      }(),
      "after the damage");
}

/// The second engine answers the whole prompt while the first one holds its own blocks, computed
/// and not yet committed.
TEST_F(CacheLossTest, WhoCommitsSecondGetsTheFirstOnesBlocks) {
  DaemonProcess daemon;
  Sequence first = Through(daemon), second = Through(daemon);
  GenerateResult inner;
  const GenerateResult outer = Ask(first, At(1, [&] { inner = Ask(second); }));
  for (const GenerateResult& result : {inner, outer}) {
    EXPECT_EQ(result.output_ids, reference_);
    EXPECT_EQ(result.cached_tokens, 0u);
    EXPECT_EQ(result.recoveries + result.uncached_blocks, 0u);
  }
  const size_t blocks = (kPromptTokens + kNewTokens - 1) / kBlockTokens;
  EXPECT_TRUE(Eventually([&] {
    const auto stats = first.client().Stats();
    return stats.ok() && stats->places == blocks && stats->tiers[0].blocks == blocks;
  })) << "one block a place: the duplicates went back";
}

TEST_F(CacheLossTest, EnginesAtOnceAnswerAlike) {
  constexpr int kEngines = 3;
  constexpr int kRounds = 4;
  DaemonProcess daemon({.warm_capacity = "2MiB"});
  std::barrier start(kEngines);
  std::vector<std::thread> engines;
  for (int i = 0; i < kEngines; ++i) {
    engines.emplace_back([&] {
      const auto model = Model::Load(ModelData("stories260K.gguf"), 1, 512);
      Sequence sequence(*model, kKv, 512, &daemon);
      for (int round = 0; round < kRounds; ++round) {
        start.arrive_and_wait();
        GenerateRequest request{.prompt_ids = prompt_, .max_tokens = kNewTokens};
        request.prompt_ids[100] = 300 + round;  // the first six blocks are shared by all rounds
        Sequence alone(*model, kKv, 512, nullptr);
        const auto plain = Generate(*model->transformer, kKv, alone.kv(), request);
        start.arrive_and_wait();
        const auto cached = Generate(*model->transformer, kKv, sequence.kv(), request);
        EXPECT_TRUE(plain.ok() && cached.ok());
        if (!plain.ok() || !cached.ok()) continue;  // the others wait for this one at every round
        EXPECT_EQ(cached->output_ids, plain->output_ids);
        EXPECT_EQ(cached->recoveries, 0u);
        if (round > 0) {
          EXPECT_GE(cached->cached_tokens, 96u);
        }
      }
    });
  }
  for (std::thread& engine : engines) engine.join();
}

}  // namespace
}  // namespace thermocline
