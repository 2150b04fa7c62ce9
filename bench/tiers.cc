// The tier stack alone, in one process and without clients, for what no client sees as such:
//   restart   opening an arena that an earlier daemon left, up to the first match that is found;
//             `scattered` is an arena whose slots lie in no order of their blocks, as after many
//             evictions. Measured beside it: the same names appended to a new tree and no more,
//             and what of the process is in memory after it, the slots' headers too.
//   pages     an arena of a gigabyte populated, touched by a client, read, copied and written at
//             random, on pages of 4 KiB, transparent huge ones and those of a hugetlbfs (the latter
//             two take mounts, and so root).
//   evict     what it costs to let go of one block while clients hold pins, which all are to be
//             read before anything is reused.
// --only takes one of these names.
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/units.h"
#include "bench/report.h"
#include "bench/tier_pages.h"
#include "catalog/arena.h"
#include "catalog/writer.h"
#include "proto/shm_layout.h"
#include "tests/byte_space.h"
#include "tiers/tier_stack.h"

namespace thermocline::bench {
namespace {

constexpr uint64_t kBlockBytes = 4096;
constexpr uint32_t kPathPlaces = 8192;
constexpr uint32_t kSlotsPerReserve = 4096;
constexpr uint32_t kNamesPerCommit = 512;
constexpr uint32_t kPinsPerClient = 64;
constexpr int kPid = 1'000'000'000;  // nobody's

std::vector<Name> Path(uint32_t number, uint32_t places) {
  std::mt19937_64 random(number);
  std::vector<Name> names(places);
  for (Name& name : names) {
    for (uint64_t& word : name.word) word = random();
  }
  return names;
}

/// A stack whose strand and disk are one queue, run by whoever waits.
class Stack {
 public:
  Stack(std::string directory, uint64_t slots)
      : directory_(std::move(directory)), slots_(slots + slots / 8 + 64) {}

  absl::Status Open() {
    StackOptions options;
    options.arena_path = directory_ + "/arena";
    options.data_dir = directory_;
    options.warm_capacity_bytes = slots_ * kBlockBytes;
    options.max_places = static_cast<uint32_t>(slots_ * 2);
    options.max_clients = 128;
    options.scrub_bytes_per_tick = 0;
    options.strand = [this](Task task) { queue_.push_back(std::move(task)); };
    options.disk = options.strand;
    options.strand_at = [](std::chrono::steady_clock::duration, Task) { return true; };
    TC_ASSIGN_OR_RETURN(stack_, TierStack::Open(std::move(options)));
    TC_ASSIGN_OR_RETURN(client_, stack_->AddClient(kPid, 1, nullptr));
    TC_ASSIGN_OR_RETURN(space_, stack_->OpenSpace(ByteSpace("bench", kBlockBytes)));
    return absl::OkStatus();
  }
  void Close() {
    stack_.reset();
    queue_.clear();
  }
  void Settle() {
    while (!queue_.empty()) {
      Task task = std::move(queue_.front());
      queue_.pop_front();
      task();
    }
  }
  /// Adds what comes free to `offsets`.
  absl::Status Reserve(uint32_t count, std::vector<uint64_t>& offsets) {
    absl::Status status = absl::DeadlineExceededError("no answer");
    stack_->Reserve(client_, space_, 0, count, std::chrono::seconds(10),
                    [&](absl::StatusOr<std::vector<uint64_t>> got) {
                      status = got.status();
                      if (got.ok()) offsets.insert(offsets.end(), got->begin(), got->end());
                    });
    Settle();
    return status;
  }
  /// Commits a path into the slots given, which are taken from the end. Answers where it ends.
  absl::StatusOr<Place> Commit(std::span<const Name> names, std::vector<uint64_t>& offsets) {
    TC_ASSIGN_OR_RETURN(LeaseView lease, stack_->Match(client_, space_, {}));
    for (size_t at = 0; at < names.size();) {
      const size_t end = std::min(names.size(), at + kNamesPerCommit);
      std::vector<CommitItem> items;
      for (size_t depth = at; depth < end; ++depth) {
        items.push_back({.offset = offsets.back(), .depth = static_cast<uint32_t>(depth)});
        offsets.pop_back();
      }
      TC_ASSIGN_OR_RETURN(lease,
                          stack_->Commit(client_, lease.lease, names.subspan(at, end - at), items));
      at = end;
    }
    TC_RETURN_IF_ERROR(stack_->Release(client_, lease.lease));
    return lease.end;
  }
  absl::StatusOr<LeaseView> Match(std::span<const Name> names) {
    TC_ASSIGN_OR_RETURN(LeaseView lease, stack_->Match(client_, space_, names));
    if (lease.depth != names.size()) return absl::InternalError("a path is not all there");
    return lease;
  }
  TierStack* operator->() { return stack_.get(); }
  ClientNumber client() const { return client_; }

 private:
  const std::string directory_;
  const uint64_t slots_;
  std::deque<Task> queue_;
  std::unique_ptr<TierStack> stack_;
  ClientNumber client_;
  uint32_t space_ = 0;
};

/// A directory on a tmpfs, gone with it.
class Scratch {
 public:
  explicit Scratch(const std::string& name)
      : path_("/dev/shm/thermocline-bench-" + std::to_string(getpid()) + "-" + name) {
    std::filesystem::create_directories(path_);
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

/// Of this process, in milliseconds: on a machine that others use too, a second of the wall says
/// little.
double CpuMilliseconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

/// Bytes of this process's pages that are in memory, mapped files too.
uint64_t ResidentBytes() {
  uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages >> pages;
  return pages * static_cast<uint64_t>(getpagesize());
}

/// Milliseconds of the same names in a new tree, in new memory.
absl::StatusOr<double> NewTree(uint32_t paths, uint32_t places) {
  std::vector<std::vector<Name>> names;
  for (uint32_t path = 0; path < paths; ++path) names.push_back(Path(path, places));
  absl::Status status;
  const double ms = Milliseconds([&] {
    status = [&] {
      TC_ASSIGN_OR_RETURN(auto memory,
                          CatalogMemory::Create({.node_count = paths * places / 8 + 1024}, 1));
      Writer writer(memory.catalog());
      TC_ASSIGN_OR_RETURN(const Root root, writer.AddRoot(1));
      uint64_t id = 0;
      for (const std::vector<Name>& path : names) {
        Place at = Writer::RootPlace(root);
        for (const Name& name : path) {
          TC_ASSIGN_OR_RETURN(at, writer.Append(at, name, ++id));
          writer.SetWord(at, 0, Word().WithWarmSlot(static_cast<uint32_t>(id)));
        }
      }
      return absl::OkStatus();
    }();
  });
  TC_RETURN_IF_ERROR(status);
  return ms;
}

absl::Status Restart(bool scattered, uint32_t paths, uint32_t places, double tree_ms,
                     Report& report) {
  const uint32_t blocks = paths * places;
  const Scratch scratch(scattered ? "scattered" : "restart");
  Stack stack(scratch.path(), blocks);
  TC_RETURN_IF_ERROR(stack.Open());
  std::vector<uint64_t> offsets;
  while (offsets.size() < blocks) {
    TC_RETURN_IF_ERROR(stack.Reserve(
        std::min(kSlotsPerReserve, blocks - static_cast<uint32_t>(offsets.size())), offsets));
  }
  std::reverse(offsets.begin(), offsets.end());
  if (scattered) std::shuffle(offsets.begin(), offsets.end(), std::mt19937_64(1));
  for (uint32_t path = 0; path < paths; ++path) {
    TC_RETURN_IF_ERROR(stack.Commit(Path(path, places), offsets).status());
  }
  std::vector<double> times, cpu_times;
  double block_bytes = 0;
  for (int round = 0; round < 3; ++round) {
    stack.Close();
    const std::vector<Name> first = Path(0, places);
    const uint64_t resident_bytes = ResidentBytes();
    absl::Status status;
    const double cpu = CpuMilliseconds();
    times.push_back(Milliseconds([&] {
      status = stack.Open();
      if (status.ok()) status = stack.Match(first).status();
    }));
    cpu_times.push_back(CpuMilliseconds() - cpu);
    TC_RETURN_IF_ERROR(status);
    block_bytes = static_cast<double>(ResidentBytes() - resident_bytes) / blocks;
    if (stack->Stats().places != blocks) return absl::InternalError("not all blocks came back");
  }
  const double ms = Median(std::move(times));
  const std::string name =
      std::string("restart") + (scattered ? "_scattered" : "") + "/slots:" + std::to_string(blocks);
  report.Add({name, "latency", ms, "ms", "new_tree", ms / tree_ms});
  report.Add({name, "cpu", Median(std::move(cpu_times)), "ms", "", 0});
  report.Add({name, "memory", block_bytes, "B/block", "", 0});
  return absl::OkStatus();
}

/// Microseconds of one eviction while `clients` each hold pins on paths that stay.
absl::StatusOr<double> Evict(uint32_t clients, uint32_t blocks) {
  const Scratch scratch("evict");
  Stack stack(scratch.path(), blocks);
  TC_RETURN_IF_ERROR(stack.Open());
  std::vector<uint64_t> offsets;
  constexpr uint32_t kPlaces = 64;
  const auto put = [&](uint32_t path) -> absl::StatusOr<Place> {
    TC_RETURN_IF_ERROR(stack.Reserve(kPlaces, offsets));
    return stack.Commit(Path(path, kPlaces), offsets);
  };
  uint32_t path = 0;
  TC_ASSIGN_OR_RETURN(const Place held, put(path++));
  std::vector<std::shared_ptr<ControlArea>> areas;
  for (uint32_t client = 0; client < clients; ++client) {
    areas.push_back(std::make_shared<ControlArea>());
    for (uint32_t pin = 0; pin < kPinsPerClient; ++pin) {
      areas.back()->pins[pin] = PlaceBits(Place{held.node, 1 + pin % held.count});
    }
    TC_RETURN_IF_ERROR(stack->AddClient(kPid, 1, areas.back()).status());
  }
  const auto evictions = [&] { return stack->Stats().tiers[0].evictions; };
  while (evictions() == 0) TC_RETURN_IF_ERROR(put(path++).status());
  const uint64_t before = evictions();
  double ms = 0;
  for (uint32_t end = path + blocks / kPlaces; path < end; ++path) {
    absl::Status status;
    ms += Milliseconds([&] { status = stack.Reserve(kPlaces, offsets); });
    TC_RETURN_IF_ERROR(status);
    TC_RETURN_IF_ERROR(stack.Commit(Path(path, kPlaces), offsets).status());
    ms += Milliseconds([&] { stack.Settle(); });
  }
  if (!stack.Match(Path(0, kPlaces)).ok()) return absl::InternalError("a pinned path has gone");
  return ms * 1e3 / static_cast<double>(evictions() - before);
}

absl::Status CompareRestarts(bool quick, Report& report) {
  const uint32_t paths = quick ? 4 : 122;
  const uint32_t places = quick ? 512 : kPathPlaces;
  TC_ASSIGN_OR_RETURN(const double tree_ms, NewTree(paths, places));
  report.Add(
      {"new_tree/places:" + std::to_string(paths * places), "latency", tree_ms, "ms", "", 0});
  TC_RETURN_IF_ERROR(Restart(false, paths, places, tree_ms, report));
  return Restart(true, paths, places, tree_ms, report);
}

absl::Status CompareEvictions(bool quick, Report& report) {
  double alone_us = 0;
  for (const uint32_t clients : {1u, 64u}) {
    TC_ASSIGN_OR_RETURN(const double us, Evict(clients, quick ? 2048 : 16384));
    if (clients == 1) alone_us = us;
    report.Add({"evict/clients:" + std::to_string(clients), "latency", us, "us",
                clients == 1 ? "" : "evict/clients:1", clients == 1 ? 0 : us / alone_us});
  }
  return absl::OkStatus();
}

absl::Status Run(const Arguments& arguments, Report& report) {
  const auto wanted = [&](const char* part) {
    return arguments.only.empty() || arguments.only == part;
  };
  if (wanted("restart")) TC_RETURN_IF_ERROR(CompareRestarts(arguments.quick, report));
  if (wanted("pages")) {
    const Scratch scratch("pages");
    TC_RETURN_IF_ERROR(ComparePages(scratch.path(), arguments.quick ? 64 * MiB : GiB, report));
  }
  if (wanted("evict")) TC_RETURN_IF_ERROR(CompareEvictions(arguments.quick, report));
  return absl::OkStatus();
}

}  // namespace
}  // namespace thermocline::bench

int main(int argc, char** argv) {
  return thermocline::bench::RunBenchmark(argc, argv, thermocline::bench::Run);
}
