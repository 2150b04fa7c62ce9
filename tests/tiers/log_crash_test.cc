// The log tier where it is cut: at every single change of the disk that a put, an erasure or the
// drop of a segment makes, as by a kill, as by a power cut, and as by a disk that fails and comes
// back; and random calls among all of that against a model.
#include <gmock/gmock.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "base/units.h"
#include "tests/tiers/faulty_file_system.h"
#include "tests/tiers/scratch_directory.h"
#include "tests/tiers/test_blocks.h"
#include "tiers/log_tier.h"

namespace thermocline {
namespace {

constexpr uint64_t kBytes = 4096;  // of a block
using Ids = std::set<uint64_t>;

/// A tier over a faulty file system in memory, and what a test wants of it.
class Store {
 public:
  explicit Store(const std::string& directory) : directory_(directory) {}

  absl::Status Open() {
    tier_.reset();
    file_system_ = std::make_shared<FaultyFileSystem>();
    auto tier = LogTier::Open({.directory = directory_,
                               .capacity_bytes = 64 * MiB,
                               .reopen_pause = std::chrono::milliseconds(0),
                               .file_system = file_system_});
    if (tier.ok()) tier_ = *std::move(tier);
    return tier.status();
  }
  void Close() { tier_.reset(); }
  /// Ends it where it is.
  void Cut(bool power) {
    file_system_->FailAfter(0);
    tier_.reset();
    if (power) file_system_->DropUnsynced();
  }
  bool Put(const Ids& ids) {
    std::vector<std::vector<std::byte>> payloads;
    std::vector<BlockRecord> records;
    for (const uint64_t id : ids) {
      payloads.push_back(TestPayload(id, 0, kBytes));
      records.emplace_back(TestHeader(id, 0, payloads.back()));
    }
    std::vector<TierPut> puts;
    for (size_t i = 0; i < records.size(); ++i) {
      puts.push_back({.record = &records[i], .payload = payloads[i]});
    }
    tier_->PutAll(puts);
    for (const TierPut& put : puts) EXPECT_EQ(put.status.ok(), puts[0].status.ok());
    return puts[0].status.ok();
  }
  bool Drop(uint64_t sequence, const Ids& keep) {
    std::vector<BlockRef> refs;
    for (const uint64_t id : keep) refs.push_back({id, 0});
    return tier_->DropSegment(sequence, refs).ok();
  }
  /// Which are there; each must be listed once, and its bytes be right.
  Ids Found() {
    std::map<uint64_t, int> listed;
    const absl::Status status = tier_->ForEach([&](const BlockRecord& record) {
      ++listed[record.id];
      return true;
    });
    EXPECT_TRUE(status.ok()) << status;
    Ids found;
    std::vector<std::byte> room(kBytes);
    for (const auto& [id, count] : listed) {
      EXPECT_EQ(count, 1) << id;
      const auto read = tier_->Get({id, 0}, room);
      EXPECT_TRUE(read.ok() && read->has_value()) << id << " " << read.status();
      EXPECT_EQ(room, TestPayload(id, 0, kBytes)) << id;
      found.insert(id);
    }
    const TierUsage usage = tier_->Usage();
    EXPECT_EQ(usage.block_count, found.size());
    EXPECT_EQ(usage.corrupt_count, 0u);
    return found;
  }
  uint64_t First() { return tier_->SegmentFrom(0)->sequence; }
  LogTier& tier() { return *tier_; }
  FaultyFileSystem& disk() { return *file_system_; }

 private:
  const std::string directory_;
  std::shared_ptr<FaultyFileSystem> file_system_;
  std::unique_ptr<LogTier> tier_;
};

const Ids kBefore = {1, 2, 3, 5, 6, 7};

/// A call, and which blocks there are after it.
struct Scene {
  std::string name;
  std::function<bool(Store&)> call;
  Ids done;
  bool unsynced = false;  // a power cut after it may undo it
};
void PrintTo(const Scene& scene, std::ostream* out) { *out << scene.name; }

class LogCrashTest : public ::testing::TestWithParam<Scene> {
 protected:
  LogCrashTest() : store_(scratch_.path()) {}
  /// Two segments, 1 to 4 and 5 to 6, of which 4 is erased.
  void Begin() {
    store_.Close();
    std::filesystem::remove_all(scratch_.path() + "/store");
    ASSERT_TRUE(store_.Open().ok());
    ASSERT_TRUE(store_.Put({1, 2, 3, 4}));
    ASSERT_TRUE(store_.Put({5, 6}));
    ASSERT_TRUE(store_.tier().Erase({4, 0}).ok());
    ASSERT_TRUE(store_.Put({7}));  // makes the erasure durable, too
    ASSERT_EQ(store_.Found(), kBefore);
  }
  void CutEverywhere(bool power) {
    int cuts = 0;
    for (;; ++cuts) {
      SCOPED_TRACE("cut after " + std::to_string(cuts) + " changes");
      Begin();
      store_.disk().FailAfter(cuts);
      const bool done = GetParam().call(store_);
      const bool hit = store_.disk().hit();
      store_.Cut(power);
      ASSERT_TRUE(store_.Open().ok());
      EXPECT_EQ(store_.tier().State(), "ok");
      const Ids found = store_.Found();
      if (power && GetParam().unsynced) {  // what has gone with its segment does not come back
        EXPECT_THAT(found, ::testing::IsSupersetOf(GetParam().done));
        EXPECT_THAT(kBefore, ::testing::IsSupersetOf(found));
      } else if (done) {
        EXPECT_EQ(found, GetParam().done);
      } else {
        EXPECT_THAT(found, ::testing::AnyOf(kBefore, GetParam().done));
      }
      const uint64_t used = store_.tier().Usage().used_bytes;
      ASSERT_TRUE(store_.Put({50}));
      ASSERT_TRUE(store_.tier().Erase({50, 0}).ok());
      EXPECT_EQ(store_.tier().Usage().used_bytes, used);
      ASSERT_FALSE(HasFailure());
      if (!hit) break;
    }
    EXPECT_GT(cuts, 3);
    RecordProperty("cuts", cuts);
  }

  ScratchDirectory scratch_{"/dev/shm"};
  Store store_;
};

INSTANTIATE_TEST_SUITE_P(
    Calls, LogCrashTest,
    ::testing::Values(Scene{.name = "PutAll",
                            .call =
                                [](Store& store) {
                                  return store.Put({8, 9, 10});
                                },
                            .done = {1, 2, 3, 5, 6, 7, 8, 9, 10}},
                      Scene{.name = "PutAllOfWhatIsThere",
                            .call =
                                [](Store& store) {
                                  return store.Put({5, 6, 11});
                                },
                            .done = {1, 2, 3, 5, 6, 7, 11}},
                      Scene{.name = "DropSegmentWithKept",
                            .call =
                                [](Store& store) {
                                  return store.Drop(store.First(), {1, 3});
                                },
                            .done = {1, 3, 5, 6, 7}},
                      Scene{.name = "DropSegmentWhole",
                            .call = [](Store& store) { return store.Drop(store.First(), {}); },
                            .done = {5, 6, 7},
                            .unsynced = true},
                      Scene{.name = "EraseTheLastOfASegment",
                            .call =
                                [](Store& store) {
                                  return store.tier().Erase({7, 0}).ok();
                                },
                            .done = {1, 2, 3, 5, 6},
                            .unsynced = true},
                      Scene{.name = "FoldOfAllSegments",
                            .call =
                                [](Store& store) {
                                  return store.Drop(store.First(), {1, 3, 5, 6, 7});
                                },
                            .done = {1, 3, 5, 6, 7}},
                      Scene{
                          .name = "Fold",
                          .call =
                              [](Store& store) {
                                const std::vector<BlockRef> some = {{1, 0}, {2, 0}, {3, 0}, {7, 0}};
                                return store.tier().Fold(some).ok();
                              },
                          .done = {1, 2, 3, 5, 6, 7}},
                      Scene{.name = "EraseAllOfAllSegments",
                            .call =
                                [](Store& store) {
                                  std::vector<BlockRef> all;
                                  for (const uint64_t id : kBefore) all.push_back({id, 0});
                                  return store.tier().EraseAll(all).ok();
                                },
                            .done = {},
                            .unsynced = true}),
    [](const auto& info) { return info.param.name; });

TEST_P(LogCrashTest, AKillAtEveryChangeLosesNothingAndLeavesNothing) { CutEverywhere(false); }

TEST_P(LogCrashTest, APowerCutAtEveryChangeLosesNothingAndLeavesNothing) { CutEverywhere(true); }

// The disk fails some changes in a row, and the tier goes on: what it said stays true, and it takes
// writes again by itself. Of an erasure that failed only an opening tells whether it happened.
TEST_P(LogCrashTest, AnErrorAtEveryChangeIsSurvivedWithoutARestart) {
  Ids certain;
  std::set_intersection(kBefore.begin(), kBefore.end(), GetParam().done.begin(),
                        GetParam().done.end(), std::inserter(certain, certain.end()));
  for (const bool full : {false, true}) {
    for (const int64_t failures : {1, 3}) {
      for (int at = 0;; ++at) {
        SCOPED_TRACE(std::to_string(failures) + (full ? " ENOSPC" : " EIO") + " after " +
                     std::to_string(at) + " changes");
        Begin();
        store_.disk().FailAfter(at, failures, full);
        const bool done = GetParam().call(store_);
        const bool hit = store_.disk().hit();
        EXPECT_EQ(store_.Found(), done ? GetParam().done : kBefore);
        store_.disk().Heal();
        int attempts = 0;
        while (!store_.Put({60}) && attempts < 20) ++attempts;
        EXPECT_LT(attempts, 20) << store_.tier().State();
        EXPECT_EQ(store_.tier().State(), "ok");
        Ids found = store_.Found();
        EXPECT_EQ(found.erase(60), 1u);
        EXPECT_THAT(found, ::testing::IsSupersetOf(done ? GetParam().done : certain));
        EXPECT_THAT(done ? GetParam().done : kBefore, ::testing::IsSupersetOf(found));
        store_.Cut(true);
        ASSERT_TRUE(store_.Open().ok());
        EXPECT_THAT(store_.Found(), ::testing::IsSupersetOf(found));
        ASSERT_FALSE(HasFailure());
        if (!hit) break;
      }
    }
  }
}

TEST(LogSyncTest, AnErasureIsDurableOnceItIsSynced) {
  const ScratchDirectory scratch("/dev/shm");
  Store store(scratch.path());
  bool synced = false;
  for (int cuts = 0; !synced; ++cuts) {
    SCOPED_TRACE("cut after " + std::to_string(cuts) + " changes");
    store.Close();
    std::filesystem::remove_all(scratch.path() + "/store");
    ASSERT_TRUE(store.Open().ok());
    ASSERT_TRUE(store.Put({1, 2, 3}));
    store.disk().FailAfter(cuts);
    synced = store.tier().Erase({2, 0}).ok() && store.tier().Sync().ok();
    store.Cut(true);
    ASSERT_TRUE(store.Open().ok());
    const Ids found = store.Found();
    EXPECT_FALSE(synced && found.contains(2));
    EXPECT_THAT(found, ::testing::IsSupersetOf({1, 3}));
    ASSERT_LT(cuts, 100);
  }
}

// Random calls, errors, openings, kills and power cuts. What a call said is so; what it left open
// (an error) an opening may decide either way, and an erasure may be undone by a power cut.
TEST(LogModelTest, RandomCallsAmongFaultsAgreeWithASet) {
  const uint64_t seed = TestSeed(23);
  SCOPED_TRACE("TC_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const ScratchDirectory scratch("/dev/shm");
  Store store(scratch.path());
  ASSERT_TRUE(store.Open().ok());
  Ids sure, open;  // there; and of which only an opening tells
  const auto settle = [&] {
    const Ids found = store.Found();
    EXPECT_THAT(found, ::testing::IsSupersetOf(sure));
    for (const uint64_t id : found) {
      EXPECT_TRUE(sure.contains(id) || open.contains(id)) << id << " has come from nowhere";
    }
    sure = found;
  };
  int faults = 0, drops = 0, openings = 0;
  for (int step = 0; step < 600 && !testing::Test::HasFailure(); ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    const uint64_t kind = random() % 16;
    if (random() % 4 == 0) {
      store.disk().FailAfter(random() % 12, 1 + random() % 4, random() % 2 == 0);
    }
    if (kind < 7) {
      Ids ids;
      for (uint64_t count = 1 + random() % 5; count > 0; --count) ids.insert(1 + random() % 40);
      const bool done = store.Put(ids);
      (done ? sure : open).insert(ids.begin(), ids.end());
    } else if (kind < 10) {
      const uint64_t id = 1 + random() % 40;
      open.insert(id);  // the erasure may be undone
      (void)store.tier().Erase({id, 0});
      sure.erase(id);
    } else if (kind < 13) {
      auto segment = store.tier().SegmentFrom(0);
      if (segment && random() % 2 == 0) {
        if (auto next = store.tier().SegmentFrom(segment->sequence + 1)) segment = next;
      }
      if (segment) {
        Ids keep, gone;
        for (const BlockRef ref : segment->blocks) {
          (random() % 2 == 0 ? keep : gone).insert(ref.id);
        }
        ++drops;
        store.Drop(segment->sequence, keep);
        open.insert(gone.begin(), gone.end());
        for (const uint64_t id : gone) sure.erase(id);
      }
    } else if (kind < 15) {
      faults += store.disk().hit() ? 1 : 0;
      store.Cut(kind == 14);
      ASSERT_TRUE(store.Open().ok());
      ++openings;
      settle();
      open.clear();
      for (uint64_t id = 1; id <= 40; ++id) {
        if (!sure.contains(id)) open.insert(id);
      }
    } else {
      store.disk().Heal();
      for (int attempts = 0; attempts < 20 && !store.Put({50}); ++attempts) {
      }
      EXPECT_EQ(store.tier().State(), "ok");
      sure.insert(50);
    }
    if (store.tier().State() == "ok") settle();
  }
  EXPECT_GT(faults, 5);
  EXPECT_GT(drops, 30);
  EXPECT_GT(openings, 30);
}

}  // namespace
}  // namespace thermocline
