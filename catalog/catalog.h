// The catalog: a radix tree of prompt prefixes with one writer and wait-free readers. A *run node*
// holds the names of up to 32 consecutive places of one path side by side; a path that diverges
// inside a run hangs as a child at that place, so that nothing is ever split or moved. Names are
// compared, never trusted to a hash. Children are found by a hint in the parent, else through a
// hash table, and neither is trusted: a child says itself who its parent is, under its version.
//
// `Catalog` is the mapping, common to the writer and the readers; docs/catalog.md argues why a
// reader is right.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/status.h"
#include "base/unique_fd.h"
#include "catalog/layout.h"
#include "catalog/word.h"

namespace thermocline {

/// A view of a formatted catalog.
/// Thread: any; copyable. What each thread may write is said at Writer and Reader.
/// Owner:  borrows the memory.
class Catalog {
 public:
  /// Size of the memory that Format wants, a multiple of the page. Most of it is never touched.
  /// Errors: InvalidArgument for a geometry out of range.
  static absl::StatusOr<size_t> Bytes(const Geometry& geometry);

  /// Formats zeroed, page-aligned memory of Bytes(geometry).
  /// Errors: InvalidArgument for a geometry out of range.
  static absl::StatusOr<Catalog> Format(void* zeroed, const Geometry& geometry, uint64_t epoch);

  /// Views memory that another process formatted.
  /// Errors: FailedPrecondition when it is no catalog, of another layout version, or cut short.
  static absl::StatusOr<Catalog> Open(void* base, size_t bytes);

  const Geometry& geometry() const { return geometry_; }
  uint64_t epoch() const { return header().epoch; }

  NodeHeader& node(NodeId node) const {
    return *reinterpret_cast<NodeHeader*>(base_ + nodes_ + node * node_stride_);
  }
  /// The `position`-th name of the run, from 0.
  SharedName& name(NodeId node, uint32_t position) const {
    return reinterpret_cast<SharedName*>(base_ + nodes_ + node * node_stride_ +
                                         sizeof(NodeHeader))[position];
  }
  std::atomic<uint64_t>& word(uint32_t part, NodeId node, uint32_t position) const {
    return reinterpret_cast<std::atomic<uint64_t>*>(
        base_ + words_ + part * part_stride_)[size_t{node} * geometry_.run_places + position];
  }
  /// Of the block that the word stands for: written before it is.
  std::atomic<uint64_t>& checksum(uint32_t part, NodeId node, uint32_t position) const {
    return reinterpret_cast<std::atomic<uint64_t>*>(
        base_ + checksums_ + part * part_stride_)[size_t{node} * geometry_.run_places + position];
  }
  std::atomic<uint64_t>& id(NodeId node, uint32_t position) const {
    return reinterpret_cast<std::atomic<uint64_t>*>(
        base_ + ids_)[size_t{node} * geometry_.run_places + position];
  }
  ChildBucket* table(uint32_t log2) const {
    const size_t before = (size_t{1} << log2) - (size_t{1} << geometry_.table_log2);
    return reinterpret_cast<ChildBucket*>(base_ + tables_) + before;
  }
  std::atomic<uint32_t>& table_log2() const { return header().table_log2; }

  bool IsNode(NodeId node) const { return node != 0 && node < geometry_.node_count; }
  NodeState state(NodeId id) const { return {node(id).state.load(std::memory_order_acquire)}; }

  struct Child {
    NodeId node = 0;
    NodeState state;
  };
  /// The child that hangs at `parent` with `name` first; node 0 when there is none. Sound for a
  /// reader only while the version of what was found stands.
  Child FindChild(Place parent, const Name& name) const;

  /// FindChild in three steps, so that the cache misses of many searches overlap: each step asks
  /// the memory for what the next one reads. It finds what FindChild finds.
  struct Search {
    uint64_t hash = 0;
    uint32_t table_log2 = 0;
    NodeId guess = 0;
  };
  Search Begin(Place parent, const Name& name) const;
  void Guess(Search& search) const;
  Child End(const Search& search, Place parent, const Name& name) const;

  /// Makes memory for the first `nodes` nodes, with words of part 0. Failing is no harm: what is
  /// missing comes when it is written to.
  /// Thread: any, of the process that formatted it.
  void Populate(size_t nodes) const;

  /// The bucket that a search for `hash` begins with.
  static size_t Home(uint64_t hash, uint32_t log2) { return hash >> (64 - log2); }

 private:
  friend class CatalogMemory;
  Catalog(void* base, const Geometry& geometry);
  CatalogHeader& header() const { return *reinterpret_cast<CatalogHeader*>(base_); }
  Child CheckChild(NodeId node, Place parent, const Name& name) const;
  Child Probe(uint32_t log2, uint64_t hash, Place parent, const Name& name, NodeId tried) const;

  char* base_;
  Geometry geometry_;
  size_t node_stride_, part_stride_;
  size_t nodes_, ids_, words_, checksums_, tables_, total_;
};

/// A catalog's memory, as its writer made it or as a reader in another process maps it: a memfd
/// that nobody but its maker can ever write.
/// Owner: unmaps and closes in its destructor.
class CatalogMemory {
 public:
  /// Formatted anew, to be written by this process alone.
  /// Errors: InvalidArgument for a geometry out of range, ResourceExhausted without memory.
  static absl::StatusOr<CatalogMemory> Create(const Geometry& geometry, uint64_t epoch);
  /// Maps what another process made, read-only.
  /// Errors: those of Catalog::Open; FailedPrecondition for a file that may yet be cut.
  static absl::StatusOr<CatalogMemory> Open(UniqueFd fd);
  CatalogMemory(CatalogMemory&& other) noexcept;
  CatalogMemory& operator=(CatalogMemory&& other) = delete;
  ~CatalogMemory();

  const Catalog& catalog() const { return catalog_; }
  /// To be handed to readers. Borrowed.
  int fd() const { return fd_.get(); }

 private:
  CatalogMemory(UniqueFd fd, void* base, size_t bytes, Catalog catalog)
      : fd_(std::move(fd)), base_(base), bytes_(bytes), catalog_(catalog) {}

  UniqueFd fd_;
  void* base_;
  size_t bytes_;
  Catalog catalog_;
};

}  // namespace thermocline
