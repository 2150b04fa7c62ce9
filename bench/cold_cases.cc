#include "bench/cold_cases.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <utility>

#include "base/disk_use.h"
#include "base/file_util.h"
#include "base/units.h"
#include "bench/cold_rocks.h"
#include "bench/lmcache_peer.h"
#include "bench/pinned.h"
#include "tiers/log_tier.h"

namespace thermocline::bench {
namespace {

using std::chrono::steady_clock;

double Percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(static_cast<double>(values.size() - 1) * share)];
}

std::string Text(const char* format, double a, double b = 0, double c = 0) {
  char text[160];
  std::snprintf(text, sizeof text, format, a, b, c);
  return text;
}

// ---- reads beside a writer

constexpr uint64_t kWriterMibPerSecond = 150;

/// Segment after segment, each when its bytes are due.
absl::Status WritePaced(TierStore& store, size_t first, size_t segment_blocks,
                        std::chrono::nanoseconds interval, const std::atomic<bool>& stop,
                        std::atomic<uint64_t>& blocks) {
  auto due = steady_clock::now();
  while (!stop) {
    TC_RETURN_IF_ERROR(store.Write(first + blocks, segment_blocks, 1).status());
    blocks += segment_blocks;
    due += interval;
    while (!stop && steady_clock::now() < due) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  return absl::OkStatus();
}

/// Milliseconds of reads that two stores do by turns.
struct Pair {
  std::vector<double> ours, raw;
};

absl::StatusOr<Pair> ReadByTurns(TierStore& ours, RawStore& raw, const ColdBlocks& blocks,
                                 size_t count, std::chrono::milliseconds time) {
  const PinnedThread pinned(0, 1);
  Pair pair;
  std::mt19937_64 random(1);
  const auto end = steady_clock::now() + time;
  for (size_t nth = 0; steady_clock::now() < end; ++nth) {
    const size_t block = random() % count;
    absl::Status status;
    pair.ours.push_back(Milliseconds([&] { status = ours.ReadOne(block, blocks.Room(0, nth)); }));
    TC_RETURN_IF_ERROR(status);
    const size_t other = random() % count;
    pair.raw.push_back(Milliseconds([&] { status = raw.ReadOne(other, blocks.Room(1, nth)); }));
    TC_RETURN_IF_ERROR(status);
  }
  return pair;
}

void AddPair(const char* name, const Pair& pair, const std::string& note, Report& report) {
  for (const auto& [percent, share] : {std::pair("p50", .5), std::pair("p99", .99)}) {
    const double ours = Percentile(pair.ours, share);
    const double raw = Percentile(pair.raw, share);
    report.Add({std::string(name) + "/" + percent, "latency", ours, "ms", "raw", ours / raw,
                Text("raw %.2f ms; ", raw) + note});
  }
}

// ---- churn

/// Looks at what a directory takes of the disk while something else goes on.
class DiskWatch {
 public:
  explicit DiskWatch(const std::string& directory)
      : thread_([this, directory](const std::stop_token& stop) {
          while (!stop.stop_requested()) {
            most_bytes_ = std::max(most_bytes_.load(), DiskBytes(directory));
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
          }
        }) {}
  uint64_t most_bytes() const { return most_bytes_; }

 private:
  std::atomic<uint64_t> most_bytes_ = 0;
  std::jthread thread_;
};

constexpr uint64_t kExtraBytes = 512;  // that a store adds to a block, at most

struct ChurnShape {
  size_t capacity_bytes = 1 * GiB;
  size_t segment_bytes = 64 * MiB;  // a sixteenth, as the tier stack has it
  size_t written_times = 3;
  size_t writes_a_read = 8;
};

struct ChurnResult {
  DiskWork writes, reads;
  double disk_share = 0;  // of the capacity, at most
};

absl::StatusOr<ChurnResult> Churn(ColdStore& store, const std::string& directory,
                                  const ColdBlocks& blocks, const ChurnShape& shape) {
  const size_t capacity = shape.capacity_bytes / blocks.bytes();
  const size_t segment = shape.segment_bytes / blocks.bytes();
  const size_t total = capacity * shape.written_times;
  const DiskWatch watch(directory);
  std::mt19937_64 random(1);
  ChurnResult result;
  size_t oldest = 0;
  for (size_t next = 0; next < total; next += segment) {
    const auto has_room = [&] {
      const auto room = store.RoomBytes();
      return room ? *room >= shape.segment_bytes + segment * kExtraBytes
                  : next - oldest + segment <= capacity;
    };
    while (oldest < next && !has_room()) {
      TC_ASSIGN_OR_RETURN(DiskWork drop, MeasureDisk([&] { return store.Drop(oldest, segment); }));
      result.writes += drop;
      oldest += segment;
    }
    TC_ASSIGN_OR_RETURN(const DiskWork write, store.Write(next, segment, 1));
    result.writes += write;
    std::vector<size_t> some(segment / shape.writes_a_read);
    for (size_t& block : some) block = oldest + random() % (next + segment - oldest);
    TC_RETURN_IF_ERROR(store.DropCaches());
    TC_ASSIGN_OR_RETURN(const DiskWork read, store.Read(some, 1));
    result.reads += read;
  }
  result.disk_share =
      static_cast<double>(watch.most_bytes()) / static_cast<double>(shape.capacity_bytes);
  return result;
}

}  // namespace

ScratchDirectory::ScratchDirectory(std::string path) : path_(std::move(path)) {
  std::filesystem::create_directories(path_);
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

absl::StatusOr<std::unique_ptr<Tier>> OpenColdTier(const std::string& directory,
                                                   uint64_t capacity_bytes) {
  TC_RETURN_IF_ERROR(MakeDirectories(directory));
  return LogTier::Open({.directory = directory,
                        .capacity_bytes = capacity_bytes,
                        .own_bytes = LogTier::OwnBytes(capacity_bytes)});
}

absl::Status AddBesideWriter(const ColdBench& bench) {
  const size_t segment = bench.quick ? 8 : 64;
  const size_t count = bench.quick ? 16 : 512;  // that are read, of 1 MiB
  const std::chrono::milliseconds time(bench.quick ? 300 : 10000);
  const ScratchDirectory scratch(bench.directory + "/beside");
  TC_ASSIGN_OR_RETURN(const ColdBlocks blocks, ColdBlocks::Make(bench.content, MiB));
  TC_ASSIGN_OR_RETURN(auto tier, OpenColdTier(scratch.path() + "/thermocline", 6 * GiB));
  TierStore ours(blocks, std::move(tier));
  TC_ASSIGN_OR_RETURN(const auto raw, RawStore::Open(blocks, scratch.path() + "/raw"));
  for (size_t first = 0; first < count; first += segment) {
    TC_RETURN_IF_ERROR(ours.Write(first, std::min(segment, count - first), 1).status());
  }
  TC_RETURN_IF_ERROR(raw->Write(0, count, 1).status());
  TC_ASSIGN_OR_RETURN(const Pair alone, ReadByTurns(ours, *raw, blocks, count, time / 5));
  AddPair("read_alone", alone, std::to_string(alone.ours.size()) + " reads", bench.report);

  std::atomic<bool> stop = false;
  std::atomic<uint64_t> written = 0;
  absl::Status writer_status;
  absl::StatusOr<Pair> beside = absl::UnknownError("");
  const double ms = Milliseconds([&] {
    const std::chrono::nanoseconds interval(segment * 1'000'000'000 / kWriterMibPerSecond);
    std::jthread writer(
        [&] { writer_status = WritePaced(ours, count, segment, interval, stop, written); });
    beside = ReadByTurns(ours, *raw, blocks, count, time);
    stop = true;
  });
  TC_RETURN_IF_ERROR(writer_status);
  TC_RETURN_IF_ERROR(beside.status());
  AddPair("read_beside", *beside,
          Text("%.0f reads; the writer made %.0f MiB/s in segments of %.0f MiB",
               static_cast<double>(beside->ours.size()), static_cast<double>(written) / ms * 1e3,
               static_cast<double>(segment)),
          bench.report);
  return absl::OkStatus();
}

absl::Status AddChurn(const ColdBench& bench) {
  const ChurnShape shape =
      bench.quick ? ChurnShape{.capacity_bytes = 64 * MiB, .segment_bytes = 8 * MiB} : ChurnShape{};
  TC_ASSIGN_OR_RETURN(const ColdBlocks blocks, ColdBlocks::Make(bench.content, MiB));
  using Maker = std::function<absl::StatusOr<std::unique_ptr<ColdStore>>(const std::string&)>;
  std::vector<Maker> makers = {
      [&](const std::string& directory) -> absl::StatusOr<std::unique_ptr<ColdStore>> {
        TC_ASSIGN_OR_RETURN(auto tier, OpenColdTier(directory, shape.capacity_bytes));
        return std::make_unique<TierStore>(blocks, std::move(tier));
      }};
  for (const RocksForm& form :
       {RocksForm{.name = "rocksdb_buffered"}, RocksForm{.name = "rocksdb_direct", .direct = true},
        RocksForm{.name = "blobdb", .blobs = true, .direct = true}}) {
    makers.push_back(
        [&blocks, form](const std::string& at) { return OpenRocks(blocks, form, at); });
  }
  if (bench.has_lmcache) {
    makers.push_back([&](const std::string& at) -> absl::StatusOr<std::unique_ptr<ColdStore>> {
      return Lmcache::Start(blocks, at + "/files", bench.content_file, 1);
    });
  }
  double ours_mib_per_s = 0;
  for (const Maker& make : makers) {
    const ScratchDirectory scratch(bench.directory + "/churn");
    TC_ASSIGN_OR_RETURN(const auto store, make(scratch.path()));
    TC_ASSIGN_OR_RETURN(const ChurnResult result, Churn(*store, scratch.path(), blocks, shape));
    const double rate = result.writes.mib_per_s();
    const bool is_ours = store->name() == "thermocline";
    if (is_ours) ours_mib_per_s = rate;
    const std::string name = "churn/" + store->name();
    const double amplification =
        static_cast<double>(result.writes.device_bytes) / static_cast<double>(result.writes.bytes);
    const double cpu = (result.writes.cpu_s + result.reads.cpu_s) /
                       (static_cast<double>(result.writes.bytes + result.reads.bytes) / GiB);
    bench.report.Add({name, "throughput", rate, "MiB/s", is_ours ? "" : "thermocline",
                      is_ours ? 0 : rate / ours_mib_per_s});
    bench.report.Add({name, "amplification", amplification, "written/handed", "", 0});
    bench.report.Add({name, "most_disk", result.disk_share, "of capacity", "", 0});
    bench.report.Add({name, "cpu", cpu, "s/GiB", "", 0});
    bench.report.Add({name, "get_p99", Percentile(result.reads.get_ms, .99), "ms", "", 0,
                      Text("p50 %.2f ms", Percentile(result.reads.get_ms, .5))});
  }
  return absl::OkStatus();
}

absl::Status AddOpening(const ColdBench& bench) {
  const size_t count = bench.quick ? 8192 : 1u << 20;
  constexpr size_t kSegment = 1u << 16;
  const ScratchDirectory scratch(bench.directory + "/open");
  TC_ASSIGN_OR_RETURN(const ColdBlocks blocks, ColdBlocks::Make(bench.content, 512));
  uint64_t stored_bytes = 0;
  {
    TC_ASSIGN_OR_RETURN(auto tier, OpenColdTier(scratch.path(), 4 * GiB));
    TierStore store(blocks, std::move(tier));
    for (size_t first = 0; first < count; first += kSegment) {
      TC_RETURN_IF_ERROR(store.Write(first, std::min(kSegment, count - first), 1).status());
    }
    stored_bytes = store.tier().Usage().used_bytes;
  }
  DropFileCaches(scratch.path());
  std::unique_ptr<Tier> tier;
  TC_ASSIGN_OR_RETURN(const DiskWork opened, MeasureDisk([&]() -> absl::Status {
                        TC_ASSIGN_OR_RETURN(tier, OpenColdTier(scratch.path(), 4 * GiB));
                        return absl::OkStatus();
                      }));
  if (tier->Usage().block_count != count) return absl::DataLossError("blocks are gone");
  const std::string name = "open/blocks:" + std::to_string(count);
  bench.report.Add({name, "latency", opened.seconds, "s", "", 0,
                    Text("CPU %.2f s; %.0f MiB read of %.0f MiB stored", opened.cpu_s,
                         static_cast<double>(opened.device_bytes_read) / MiB,
                         static_cast<double>(stored_bytes) / MiB)});
  size_t visited = 0;
  TC_ASSIGN_OR_RETURN(const DiskWork all, MeasureDisk([&] {
                        return tier->ForEach([&](const BlockRecord&) {
                          ++visited;
                          return true;
                        });
                      }));
  if (visited != count) return absl::DataLossError("records are gone");
  bench.report.Add({"records/blocks:" + std::to_string(count), "latency", all.seconds, "s", "", 0,
                    Text("CPU %.2f s", all.cpu_s)});
  return absl::OkStatus();
}

}  // namespace thermocline::bench
