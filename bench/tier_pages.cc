#include "bench/tier_pages.h"

#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "base/units.h"
#include "catalog/arena.h"
#include "client/client.h"
#include "hashing/checksum.h"
#include "tests/huge_page_pool.h"

namespace thermocline::bench {
namespace {

constexpr uint64_t kRead = 64 * KiB;
constexpr uint64_t kCopy = 1 * MiB;
constexpr int kRounds = 5;

struct Figures {
  double populate_s = 0;  // a GiB, as touch_s
  double touch_s = 0;     // by a client that has mapped it anew
  double read = 0;        // GiB/s, as all below
  double copied = 0;
  double streamed = 0;
  double put = 0;
};

double GiBs(uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(GiB); }

/// GiB/s of `work` on pieces of the arena in an order that no prefetcher foresees: the median.
double Rate(uint64_t bytes, uint64_t piece, const std::function<void(uint64_t at)>& work) {
  std::vector<uint64_t> places(bytes / piece);
  for (size_t i = 0; i < places.size(); ++i) places[i] = i * piece;
  std::shuffle(places.begin(), places.end(), std::mt19937_64(1));
  std::vector<double> rates;
  for (int round = 0; round < kRounds; ++round) {
    const double ms = Milliseconds([&] {
      for (const uint64_t at : places) work(at);
    });
    rates.push_back(GiBs(bytes) / ms * 1e3);
  }
  return Median(std::move(rates));
}

absl::StatusOr<double> TouchAsClient(const Arena& arena, uint64_t bytes) {
  void* map = mmap(nullptr, arena.mapped_bytes(), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_NORESERVE, arena.fd(), 0);
  if (map == MAP_FAILED) return ErrnoStatus(errno, "map the arena again");
  const auto* const data = static_cast<const volatile std::byte*>(map) + kArenaDataOffset;
  const double ms = Milliseconds([&] {
    for (uint64_t at = 0; at < bytes; at += kPageBytes) (void)data[at];
  });
  munmap(map, arena.mapped_bytes());
  return ms / 1e3 / GiBs(bytes);
}

absl::StatusOr<Figures> Measure(const std::string& directory, HugePages huge_pages,
                                uint64_t bytes) {
  const std::string path = directory + "/pages";
  TC_ASSIGN_OR_RETURN(Arena arena, Arena::Open({.path = path,
                                                .capacity_bytes = bytes,
                                                .capacity_option = "the benchmark's arena",
                                                .huge_pages = huge_pages}));
  Figures figures;
  absl::Status status;
  const double ms = Milliseconds([&] {
    for (uint32_t chunk = 0; chunk < arena.chunk_count() && status.ok(); ++chunk) {
      status = arena.PopulateChunk(chunk);
    }
  });
  TC_RETURN_IF_ERROR(status);
  figures.populate_s = ms / 1e3 / GiBs(bytes);
  TC_ASSIGN_OR_RETURN(figures.touch_s, TouchAsClient(arena, bytes));
  std::byte* const data = arena.data(kArenaDataOffset / kPageBytes);
  // As large as the arena: what is copied lands in cold memory, as in an engine.
  const uint64_t out_bytes = std::min(bytes, 256 * MiB);
  std::vector<std::byte> out(out_bytes, std::byte{1});
  uint64_t sum = 0;
  figures.read = Rate(bytes, kRead, [&](uint64_t at) { sum += Checksum({data + at, kRead}); });
  figures.copied = Rate(bytes, kCopy, [&](uint64_t at) {
    std::memcpy(out.data() + at % out_bytes, data + at, kCopy);
  });
  figures.streamed = Rate(bytes, kCopy, [&](uint64_t at) {
    StreamingCopy({out.data() + at % out_bytes, kCopy}, {data + at, kCopy});
  });
  figures.put = Rate(bytes, kCopy, [&](uint64_t at) {
    StreamingCopy({data + at, kCopy}, {out.data() + at % out_bytes, kCopy});
  });
  if (sum == 1) return absl::InternalError("the sums came out at one");  // so that they are needed
  TC_RETURN_IF_ERROR(Arena::Remove(path));
  return figures;
}

void Add(const std::string& kind, const Figures& figures, const Figures& plain, Report& report) {
  const bool is_plain = kind == "4k";
  const auto row = [&](const char* what, const char* metric, const char* unit, double value,
                       double of_plain) {
    const std::string name = std::string(what) + "/pages:";
    report.Add({name + kind, metric, value, unit, is_plain ? "" : name + "4k",
                is_plain ? 0 : value / of_plain});
  };
  row("populate", "latency", "s/GiB", figures.populate_s, plain.populate_s);
  row("client_touch", "latency", "s/GiB", figures.touch_s, plain.touch_s);
  row("read_in_place_64k", "throughput", "GiB/s", figures.read, plain.read);
  row("copied_1m", "throughput", "GiB/s", figures.copied, plain.copied);
  row("streamed_1m", "throughput", "GiB/s", figures.streamed, plain.streamed);
  row("put_1m", "throughput", "GiB/s", figures.put, plain.put);
}

}  // namespace

absl::Status ComparePages(const std::string& directory, uint64_t bytes, Report& report) {
  TC_ASSIGN_OR_RETURN(const Figures plain, Measure(directory, HugePages::kNone, bytes));
  Add("4k", plain, plain, report);
  const std::string tmpfs = directory + "/transparent";
  if (mkdir(tmpfs.c_str(), 0700) != 0 ||
      mount("tmpfs", tmpfs.c_str(), "tmpfs", 0, "huge=advise") != 0) {
    std::printf("SKIPPED: transparent huge pages (no tmpfs with huge=advise can be mounted: %s)\n",
                std::strerror(errno));
  } else {
    const auto transparent = Measure(tmpfs, HugePages::kTransparent, bytes);
    umount(tmpfs.c_str());
    TC_RETURN_IF_ERROR(transparent.status());
    Add("transparent", *transparent, plain, report);
  }
  const testing::HugePagePool pool(directory + "/hugetlb", bytes / testing::kHugePageBytes + 1);
  if (!pool.why_not().empty()) {
    std::printf("SKIPPED: pages of a hugetlbfs (%s)\n", pool.why_not().c_str());
    return absl::OkStatus();
  }
  // The slot headers, of which there are none, would lie elsewhere.
  TC_ASSIGN_OR_RETURN(const Figures hugetlb,
                      Measure(directory + "/hugetlb", HugePages::kHugetlb, bytes));
  Add("hugetlb", hugetlb, plain, report);
  return absl::OkStatus();
}

}  // namespace thermocline::bench
