// All stores do the same, taking turns: in each round a segment's worth of new blocks is written,
// then blocks at random are read by one thread and by four. Medians of the rounds are compared.
#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <utility>

#include "base/units.h"
#include "bench/cold_cases.h"
#include "bench/cold_rocks.h"
#include "bench/fio_peer.h"
#include "bench/lmcache_peer.h"

namespace thermocline::bench {
namespace {

constexpr size_t kSizes[] = {64 * KiB, 256 * KiB, 1 * MiB, 4 * MiB};
constexpr size_t kChecked = 16;          // blocks of each store that are compared byte by byte
constexpr size_t kPairsFrom = 1u << 20;  // number of the first block that two writers write
constexpr uint64_t kCapacityBytes = 6 * GiB;

struct Shape {
  int rounds = 3;
  size_t segment_bytes = 128 * MiB;
  size_t single_read_bytes = 64 * MiB;
  size_t many_read_bytes = 128 * MiB;
};

/// What one store made of one case.
struct Cell {
  std::vector<double> mib_per_s, cpu_s_per_gib, amplification;
  void Add(const DiskWork& work) {
    mib_per_s.push_back(work.mib_per_s());
    cpu_s_per_gib.push_back(work.cpu_s_per_gib());
    amplification.push_back(static_cast<double>(work.device_bytes) /
                            static_cast<double>(work.bytes));
  }
};

/// By case, then by store.
using Cells = std::map<std::string, std::map<std::string, Cell>>;

class Comparison {
 public:
  Comparison(const ColdBench& bench, const Shape& shape, const ColdBlocks& blocks,
             const std::string& directory)
      : bench_(bench), shape_(shape), blocks_(blocks), directory_(directory) {}

  absl::Status Open() {
    TC_ASSIGN_OR_RETURN(auto tier, OpenColdTier(directory_ + "/thermocline", kCapacityBytes));
    stores_.push_back(std::make_unique<TierStore>(blocks_, std::move(tier)));
    TC_ASSIGN_OR_RETURN(auto raw, RawStore::Open(blocks_, raw_path()));
    stores_.push_back(std::move(raw));
    for (const RocksForm& form : {RocksForm{.name = "rocksdb_buffered"},
                                  RocksForm{.name = "rocksdb_direct", .direct = true},
                                  RocksForm{.name = "blobdb", .blobs = true, .direct = true}}) {
      TC_ASSIGN_OR_RETURN(auto store, OpenRocks(blocks_, form, directory_ + "/" + form.name));
      stores_.push_back(std::move(store));
    }
    if (!bench_.has_lmcache) return absl::OkStatus();
    TC_ASSIGN_OR_RETURN(auto lmcache, Lmcache::Start(blocks_, directory_ + "/lmcache",
                                                     bench_.content_file, kLmcacheBatch));
    stores_.push_back(std::move(lmcache));
    return absl::OkStatus();
  }

  absl::Status RunRound(size_t round) {
    TC_RETURN_IF_ERROR(InTurn(round, [&](ColdStore& store) { return Write(store, round); }));
    if (bench_.has_fio) {
      TC_RETURN_IF_ERROR(FioWrite(1));
      TC_RETURN_IF_ERROR(FioWrite(2));
    }
    std::vector<size_t> order((round + 1) * PerSegment());
    std::iota(order.begin(), order.end(), size_t{0});
    std::shuffle(order.begin(), order.end(), std::mt19937_64(round));
    if (round == 0) {
      TC_RETURN_IF_ERROR(InTurn(round, [&](ColdStore& store) -> absl::Status {
        for (size_t i = 0; i < std::min(kChecked, order.size()); ++i) {
          TC_RETURN_IF_ERROR(store.Check(order[i]));
        }
        return absl::OkStatus();
      }));
    }
    TC_RETURN_IF_ERROR(ReadRound(round, order, 1, shape_.single_read_bytes));
    return ReadRound(round, order, kMostThreads, shape_.many_read_bytes);
  }

  const Cells& cells() const { return cells_; }

 private:
  static constexpr size_t kLmcacheBatch = 16;

  std::string raw_path() const { return directory_ + "/raw"; }
  size_t PerSegment() const { return shape_.segment_bytes / blocks_.bytes(); }
  Cell& CellOf(const char* what, const char* who, int threads, const std::string& store) {
    return cells_[std::string(what) + "/" + std::to_string(blocks_.bytes() / KiB) + "KiB/" + who +
                  ":" + std::to_string(threads)][store];
  }

  /// Nobody is always the first.
  absl::Status InTurn(size_t round, const std::function<absl::Status(ColdStore&)>& work) {
    for (size_t i = 0; i < stores_.size(); ++i) {
      TC_RETURN_IF_ERROR(work(*stores_[(i + round) % stores_.size()]));
    }
    return absl::OkStatus();
  }

  absl::Status Write(ColdStore& store, size_t round) {
    const size_t count = PerSegment();
    TC_ASSIGN_OR_RETURN(DiskWork one, store.Write(round * count, count, 1));
    // What it does behind is not in its time, but in what it costs; and disturbs nobody else.
    TC_ASSIGN_OR_RETURN(const DiskWork behind, MeasureDisk([&] { return store.Settle(); }));
    one.cpu_s += behind.cpu_s;
    one.device_bytes += behind.device_bytes;
    CellOf("write", "writers", 1, store.name()).Add(one);
    if (&store != stores_[0].get()) return absl::OkStatus();
    const size_t first = kPairsFrom + round * 2 * count;
    TC_ASSIGN_OR_RETURN(const DiskWork two, store.Write(first, 2 * count, 2));
    CellOf("write", "writers", 2, store.name()).Add(two);
    return store.Drop(first, 2 * count);
  }

  absl::Status FioWrite(int threads) {
    TC_ASSIGN_OR_RETURN(const double rate, RunFio({.write = true,
                                                   .path = directory_,
                                                   .block_bytes = blocks_.bytes(),
                                                   .thread_bytes = shape_.segment_bytes,
                                                   .threads = threads}));
    CellOf("write", "writers", threads, "fio").mib_per_s.push_back(rate);
    return absl::OkStatus();
  }

  absl::Status ReadRound(size_t round, std::span<const size_t> order, int threads, size_t bytes) {
    const size_t count = std::min(bytes / blocks_.bytes(), order.size());
    TC_RETURN_IF_ERROR(InTurn(round, [&](ColdStore& store) -> absl::Status {
      TC_RETURN_IF_ERROR(store.DropCaches());
      TC_ASSIGN_OR_RETURN(const DiskWork work, store.Read(order.first(count), threads));
      CellOf("read", "threads", threads, store.name()).Add(work);
      return absl::OkStatus();
    }));
    if (!bench_.has_fio) return absl::OkStatus();
    TC_ASSIGN_OR_RETURN(const double rate,
                        RunFio({.path = raw_path(),
                                .block_bytes = blocks_.bytes(),
                                .thread_bytes = bytes / static_cast<size_t>(threads),
                                .threads = threads}));
    CellOf("read", "threads", threads, "fio").mib_per_s.push_back(rate);
    return absl::OkStatus();
  }

  const ColdBench& bench_;
  const Shape& shape_;
  const ColdBlocks& blocks_;
  const std::string directory_;
  std::vector<std::unique_ptr<ColdStore>> stores_;  // ours first
  Cells cells_;
};

void AddRows(const Cells& cells, Report& report) {
  for (const auto& [name, stores] : cells) {
    const Cell& ours = stores.at("thermocline");
    const double mine = Median(ours.mib_per_s);
    for (const auto& [store, cell] : stores) {
      if (&cell == &ours) continue;
      const double theirs = Median(cell.mib_per_s);
      char note[160];
      int length = std::snprintf(note, sizeof note, "theirs %.0f MiB/s", theirs);
      if (!cell.cpu_s_per_gib.empty()) {
        std::snprintf(note + length, sizeof note - static_cast<size_t>(length),
                      "; CPU s/GiB: ours %.2f, theirs %.2f; written/handed in: ours %.3f, "
                      "theirs %.3f",
                      Median(ours.cpu_s_per_gib), Median(cell.cpu_s_per_gib),
                      Median(ours.amplification), Median(cell.amplification));
      }
      report.Add({name, "throughput", mine, "MiB/s", store, mine / theirs, note});
    }
    report.Add({name, "cpu", Median(ours.cpu_s_per_gib), "s/GiB", "", 0});
    if (name.starts_with("write")) {
      report.Add({name, "amplification", Median(ours.amplification), "written/handed", "", 0});
    }
  }
}

}  // namespace

absl::Status AddThroughput(const ColdBench& bench) {
  const Shape shape = bench.quick ? Shape{.rounds = 1,
                                          .segment_bytes = 16 * MiB,
                                          .single_read_bytes = 8 * MiB,
                                          .many_read_bytes = 16 * MiB}
                                  : Shape{};
  for (const size_t bytes : kSizes) {
    const ScratchDirectory scratch(bench.directory + "/throughput");
    TC_ASSIGN_OR_RETURN(const ColdBlocks blocks, ColdBlocks::Make(bench.content, bytes));
    Comparison comparison(bench, shape, blocks, scratch.path());
    TC_RETURN_IF_ERROR(comparison.Open());
    for (size_t round = 0; round < static_cast<size_t>(shape.rounds); ++round) {
      TC_RETURN_IF_ERROR(comparison.RunRound(round));
    }
    AddRows(comparison.cells(), bench.report);
  }
  return absl::OkStatus();
}

}  // namespace thermocline::bench
