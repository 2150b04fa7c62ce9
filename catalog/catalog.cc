#include "catalog/catalog.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "base/units.h"
#include "hashing/prefix_hash.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace thermocline {
namespace {

constexpr uint32_t kMaxNodes = uint32_t{1} << 28;
constexpr uint32_t kMinTableLog2 = 6;  // one page
constexpr uint32_t kMaxTableLog2 = 28;
constexpr int kSeals = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

absl::Status CheckGeometry(const Geometry& g) {
  const auto refuse = [](const char* what, uint64_t value, uint64_t least, uint64_t most) {
    return absl::InvalidArgumentError("catalog geometry: " + std::string(what) + " is " +
                                      std::to_string(value) + "; must be " + std::to_string(least) +
                                      " to " + std::to_string(most));
  };
  if (g.node_count < 2 || g.node_count > kMaxNodes) {
    return refuse("node_count", g.node_count, 2, kMaxNodes);
  }
  if (g.run_places < 1 || g.run_places > kMaxRunPlaces) {
    return refuse("run_places", g.run_places, 1, kMaxRunPlaces);
  }
  if (g.table_log2 < kMinTableLog2 || g.table_log2 > g.table_log2_max) {
    return refuse("table_log2", g.table_log2, kMinTableLog2, g.table_log2_max);
  }
  if (g.table_log2_max > kMaxTableLog2) {
    return refuse("table_log2_max", g.table_log2_max, g.table_log2, kMaxTableLog2);
  }
  return absl::OkStatus();
}

// Fills in what was left to us: a table that stays below three quarters when all nodes are in use.
Geometry Normal(Geometry g) {
  if (g.table_log2_max == 0) {
    g.table_log2_max = g.table_log2;
    while (g.table_log2_max < kMaxTableLog2 &&
           (uint64_t{6} << g.table_log2_max) < uint64_t{g.node_count}) {
      ++g.table_log2_max;
    }
  }
  return g;
}

}  // namespace

Catalog::Catalog(void* base, const Geometry& g) : base_(static_cast<char*>(base)), geometry_(g) {
  node_stride_ = sizeof(NodeHeader) + g.run_places * sizeof(SharedName);
  part_stride_ = RoundUp(size_t{g.node_count} * g.run_places * sizeof(uint64_t), kPageBytes);
  nodes_ = kPageBytes;
  ids_ = RoundUp(nodes_ + g.node_count * node_stride_, kPageBytes);
  words_ = ids_ + part_stride_;
  checksums_ = words_ + kMaxParts * part_stride_;
  tables_ = checksums_ + kMaxParts * part_stride_;
  const size_t buckets = (size_t{2} << g.table_log2_max) - (size_t{1} << g.table_log2);
  total_ = RoundUp(tables_ + buckets * sizeof(ChildBucket), kPageBytes);
}

absl::StatusOr<size_t> Catalog::Bytes(const Geometry& geometry) {
  const Geometry normal = Normal(geometry);
  TC_RETURN_IF_ERROR(CheckGeometry(normal));
  return Catalog(nullptr, normal).total_;
}

absl::StatusOr<Catalog> Catalog::Format(void* zeroed, const Geometry& geometry, uint64_t epoch) {
  const Geometry normal = Normal(geometry);
  TC_RETURN_IF_ERROR(CheckGeometry(normal));
  Catalog catalog(zeroed, normal);
  CatalogHeader& header = catalog.header();
  header.layout_version = kCatalogLayoutVersion;
  header.epoch = epoch;
  header.geometry = normal;
  header.table_log2.store(normal.table_log2, std::memory_order_relaxed);
  header.magic = kCatalogMagic;
  return catalog;
}

absl::StatusOr<Catalog> Catalog::Open(void* base, size_t bytes) {
  if (bytes < kPageBytes || static_cast<CatalogHeader*>(base)->magic != kCatalogMagic) {
    return absl::FailedPreconditionError("catalog: the memory does not begin with a catalog");
  }
  const CatalogHeader& header = *static_cast<CatalogHeader*>(base);
  if (header.layout_version != kCatalogLayoutVersion) {
    return absl::FailedPreconditionError(
        "catalog: layout version " + std::to_string(header.layout_version) + ", this program has " +
        std::to_string(kCatalogLayoutVersion) + "; restart the older of daemon and client");
  }
  const Geometry geometry = header.geometry;  // a copy: checked, then used
  TC_RETURN_IF_ERROR(CheckGeometry(geometry));
  Catalog catalog(base, geometry);
  if (bytes < catalog.total_) {
    return absl::FailedPreconditionError("catalog: " + std::to_string(bytes) +
                                         " bytes are mapped where its geometry needs " +
                                         std::to_string(catalog.total_));
  }
  return catalog;
}

void Catalog::Populate(size_t nodes) const {
  constexpr size_t kStep = 1024;  // nodes, everywhere, before the next ones anywhere
  const size_t row = geometry_.run_places * sizeof(uint64_t);
  nodes = std::min<size_t>(nodes, geometry_.node_count);
  for (size_t first = 0; first < nodes; first += kStep) {
    const size_t count = std::min(kStep, nodes - first);
    for (const auto& [region, stride] : {std::pair(nodes_, node_stride_), std::pair(ids_, row),
                                         std::pair(words_, row), std::pair(checksums_, row)}) {
      const size_t begin = (region + first * stride) / kPageBytes * kPageBytes;
      const size_t end = region + (first + count) * stride;
      (void)madvise(base_ + begin, end - begin, MADV_POPULATE_WRITE);
    }
  }
}

Catalog::Child Catalog::FindChild(Place parent, const Name& name) const {
  const NodeId hint = node(parent.node).next.load(std::memory_order_relaxed);
  if (Child child = CheckChild(hint, parent, name); child.node != 0) return child;
  const uint64_t hash = ChildHash(PlaceBits(parent), name);
  return Probe(table_log2().load(std::memory_order_acquire), hash, parent, name, hint);
}

Catalog::Search Catalog::Begin(Place parent, const Name& name) const {
  const Search search{ChildHash(PlaceBits(parent), name),
                      table_log2().load(std::memory_order_acquire), 0};
  __builtin_prefetch(&table(search.table_log2)[Home(search.hash, search.table_log2)]);
  return search;
}

void Catalog::Guess(Search& search) const {
  const ChildBucket& bucket = table(search.table_log2)[Home(search.hash, search.table_log2)];
  for (const auto& slot : bucket.entry) {
    const uint64_t entry = slot.load(std::memory_order_acquire);
    const auto id = static_cast<NodeId>(entry);
    if (entry >> 32 != (search.hash & 0xffffffff) || !IsNode(id)) continue;
    search.guess = id;
    __builtin_prefetch(&node(id));
    __builtin_prefetch(&name(id, 0));
    return;
  }
}

// A guess that fails was another's, or stood in a bucket that was full, or the table has grown.
Catalog::Child Catalog::End(const Search& search, Place parent, const Name& name) const {
  const Child child = CheckChild(search.guess, parent, name);
  return child.node != 0 ? child : FindChild(parent, name);
}

Catalog::Child Catalog::CheckChild(NodeId id, Place parent, const Name& first) const {
  if (!IsNode(id)) return {};
  const NodeState now = state(id);
  if (now.length() == 0) return {};
  if (node(id).parent.load(std::memory_order_relaxed) != PlaceBits(parent)) return {};
  return name(id, 0).Equals(first) ? Child{id, now} : Child{};
}

// Buckets of one cache line. A search goes on to the next bucket while it meets full ones; a
// tombstone counts as full.
Catalog::Child Catalog::Probe(uint32_t log2, uint64_t hash, Place parent, const Name& name,
                              NodeId tried) const {
  const ChildBucket* buckets = table(log2);
  const size_t mask = (size_t{1} << log2) - 1;
  size_t bucket = Home(hash, log2);
  for (size_t left = mask + 1; left > 0; --left, bucket = (bucket + 1) & mask) {
    bool full = true;
    for (const auto& slot : buckets[bucket].entry) {
      const uint64_t entry = slot.load(std::memory_order_acquire);
      if (entry == 0) full = false;
      if (entry >> 32 != (hash & 0xffffffff)) continue;
      const auto id = static_cast<NodeId>(entry);
      if (id == tried) continue;
      if (Child child = CheckChild(id, parent, name); child.node != 0) return child;
    }
    if (!full) return {};
  }
  return {};
}

absl::StatusOr<CatalogMemory> CatalogMemory::Create(const Geometry& geometry, uint64_t epoch) {
  TC_ASSIGN_OR_RETURN(const size_t bytes, Catalog::Bytes(geometry));
  UniqueFd fd(::memfd_create("thermocline-catalog", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return ErrnoStatus(errno, "memfd_create of a catalog");
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return ErrnoStatus(errno, "catalog: ftruncate to " + FormatBytes(bytes),
                       "lower the capacities, or raise the limit of file sizes (ulimit -f)");
  }
  void* base =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
  if (base == MAP_FAILED) {
    return ErrnoStatus(errno, "catalog: map " + FormatBytes(bytes),
                       "lower the capacities, or raise the limit on address space");
  }
  CatalogMemory memory(std::move(fd), base, bytes, Catalog(base, geometry));
  // From here on it can be mapped for reading only, whoever opens it and how, and never cut short.
  if (::fcntl(memory.fd(), F_ADD_SEALS, kSeals) != 0) {
    return ErrnoStatus(errno, "sealing a catalog", "Linux 5.1 or newer is needed");
  }
  TC_ASSIGN_OR_RETURN(memory.catalog_, Catalog::Format(base, geometry, epoch));
  return memory;
}

absl::StatusOr<CatalogMemory> CatalogMemory::Open(UniqueFd fd) {
  struct stat file {};
  if (::fstat(fd.get(), &file) != 0) return ErrnoStatus(errno, "fstat of a catalog");
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return absl::FailedPreconditionError("catalog: the memory handed over may yet be cut short");
  }
  const auto bytes = static_cast<size_t>(file.st_size);
  void* base = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
  if (base == MAP_FAILED) {
    return ErrnoStatus(errno, "map the daemon's catalog of " + FormatBytes(bytes),
                       "raise this process's limit of address space (ulimit -v)");
  }
  CatalogMemory memory(std::move(fd), base, bytes, Catalog(base, {}));
  TC_ASSIGN_OR_RETURN(memory.catalog_, Catalog::Open(base, bytes));
  return memory;
}

CatalogMemory::CatalogMemory(CatalogMemory&& other) noexcept
    : fd_(std::move(other.fd_)),
      base_(std::exchange(other.base_, nullptr)),
      bytes_(other.bytes_),
      catalog_(other.catalog_) {}

CatalogMemory::~CatalogMemory() {
  if (base_ != nullptr) ::munmap(base_, bytes_);
}

}  // namespace thermocline
