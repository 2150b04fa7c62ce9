// Keeps the process alive when a file that it maps loses pages. Whoever was given a descriptor to
// write through can cut the file or punch it, and the next access there raises SIGBUS: in the
// daemon, for what one client of one tenant did. Guarded, the access finds zeros: the file gets its
// length back, or, where its file system has no memory, the page is replaced by one of our own
// until the owner maps the file anew. Blocks are checked by their sums, so zeros are damage like
// any other that a client can do to its own tenant.
#pragma once
#include <cstddef>
#include <cstdint>

namespace thermocline {

/// Thread: any. Owner: borrows descriptor and mapping, which must outlive it.
class MappingGuard {
 public:
  static constexpr int kMaxGuards = 1024;

  /// Of a shared mapping of the whole of `fd`, in pages of `page_bytes`. Beyond kMaxGuards at a
  /// time there is none.
  MappingGuard(int fd, std::byte* base, uint64_t bytes, uint64_t page_bytes);
  ~MappingGuard();
  MappingGuard(const MappingGuard&) = delete;

  /// Accesses that were saved so far.
  uint64_t saved() const;

 private:
  int slot_ = -1;
};

}  // namespace thermocline
