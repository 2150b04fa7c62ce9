// Readers look for what is never dropped while the writer adds children by the thousand, so that
// the table of children grows again and again: who is interrupted between the table's size and a
// table that is replaced meanwhile must find it there. A table grows only so often; so one catalog
// follows the other.
//
//   growth_stress [--seconds N] [--must-notice]
//
// With --must-notice the run succeeds exactly when a look was missed (the broken build).
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "base/mutex.h"
#include "catalog/key_reader.h"
#include "tests/catalog/catalog_testing.h"

namespace thermocline {
namespace {

constexpr uint64_t kAnchors = 8;      // names that stay
constexpr uint64_t kChildren = 3200;  // four doublings of the smallest table
constexpr uint32_t kReaders = 3;
constexpr uint32_t kPinsPerReader = 2;
constexpr int kPatienceSeconds = 60;  // beyond its time, on a busy machine

/// A catalog that grows, for as long as anybody looks into it.
struct Round {
  Round() : memory(CatalogMemory::Create(kGeometry, 1).value()), writer(memory.catalog()) {
    root = writer.AddRoot(1).value();
    for (uint64_t anchor = 0; anchor < kAnchors; ++anchor) Add(anchor);
  }
  void Add(uint64_t symbol) { writer.Append({root.node, 0}, NameOf(symbol), ++last_id).value(); }

  static constexpr Geometry kGeometry{
      .node_count = 2 * kChildren, .run_places = 1, .table_log2 = 6};
  CatalogMemory memory;
  Writer writer;
  Root root;
  uint64_t last_id = 0;
};

struct Tally {
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> looks{0}, missed{0};
};

/// The round of the moment: readers hold it while they look.
class Stage {
 public:
  void Set(std::shared_ptr<Round> round) {
    MutexLock lock(mutex_);
    round_ = std::move(round);
  }
  std::shared_ptr<Round> Get() const {
    MutexLock lock(mutex_);
    return round_;
  }

 private:
  mutable Mutex mutex_;
  std::shared_ptr<Round> round_ TC_GUARDED_BY(mutex_);  // shared: a reader may be late
};

void StayOnCore(size_t core) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  (void)sched_setaffinity(0, sizeof one, &one);  // where it cannot, it stays anywhere
}

void LookUntilStop(const Stage& stage, Tally& tally) {
  std::array<std::atomic<uint64_t>, kPinsPerReader> pins{};  // of nobody: nothing is dropped
  std::array<Name, kAnchors> anchors;
  for (uint64_t anchor = 0; anchor < kAnchors; ++anchor) anchors[anchor] = NameOf(anchor);
  std::array<FoundKey, kAnchors> found;
  while (!tally.stop.load(std::memory_order_relaxed)) {
    const std::shared_ptr<Round> round = stage.Get();
    const Catalog& catalog = round->memory.catalog();
    const KeyReader keys(catalog);
    Reader reader(catalog, pins);
    uint64_t missed = 0;
    for (int turn = 0; turn < 100; ++turn) {
      keys.LookUp(round->root, anchors, found);
      for (const FoundKey& key : found) missed += key.node == 0 ? 1 : 0;
      for (const Name& anchor : anchors) {
        missed += reader.MatchAndPin(round->root, {&anchor, 1}, 1, {}).depth == 0 ? 1 : 0;
        reader.Unpin(1);
      }
    }
    tally.looks.fetch_add(200 * kAnchors, std::memory_order_relaxed);
    tally.missed.fetch_add(missed, std::memory_order_relaxed);
  }
}

int Run(int seconds, bool must_notice) {
  Stage stage;
  Tally tally;
  stage.Set(std::make_shared<Round>());
  std::vector<std::thread> readers;
  for (uint32_t i = 0; i < kReaders; ++i) {
    readers.emplace_back([&] {
      StayOnCore(1);
      LookUntilStop(stage, tally);
    });
  }
  StayOnCore(0);
  uint64_t doublings = 0;
  const auto begin = std::chrono::steady_clock::now();
  const auto lasts = [&](int time) {
    return std::chrono::steady_clock::now() < begin + std::chrono::seconds(time);
  };
  const auto too_little = [&] { return doublings <= 8 || tally.looks <= 100'000; };
  const auto goes_on = [&] {
    if (must_notice && tally.missed > 0) return false;
    return lasts(seconds) || (too_little() && lasts(seconds + kPatienceSeconds));
  };
  while (goes_on()) {
    const auto round = std::make_shared<Round>();
    stage.Set(round);
    for (uint64_t child = 0; child < kChildren; ++child) round->Add(100 + child);
    doublings += round->memory.catalog().table_log2() - Round::kGeometry.table_log2;
  }
  tally.stop = true;
  for (std::thread& reader : readers) reader.join();
  std::printf("%" PRIu64 " doublings, %.2fM looks: %" PRIu64 " missed\n", doublings,
              tally.looks / 1e6, tally.missed.load());
  if (must_notice) return tally.missed > 0 ? 0 : 1;
  return tally.missed == 0 && !too_little() ? 0 : 1;
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  int seconds = 5;
  bool must_notice = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--must-notice") == 0) {
      must_notice = true;
    } else {
      TC_CHECK(std::strcmp(argv[i], "--seconds") == 0 && i + 1 < argc);
      seconds = std::atoi(argv[++i]);
    }
  }
  return thermocline::Run(seconds, must_notice);
}
