// Memory that a client fills with what it commits, where it may not write in the arena: a sealed
// memfd that only this client and the daemon map. The daemon copies from there into the slot, and
// sums the copy: what the client does to its own later changes nothing.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/status.h"
#include "base/unique_fd.h"

namespace thermocline {

/// Thread: any. Owner: the mapping and the descriptor; shared by the session and its tenant.
class Staging {
 public:
  static absl::StatusOr<std::shared_ptr<const Staging>> Create(uint64_t bytes);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  int fd() const { return fd_.get(); }
  uint64_t bytes() const { return bytes_; }
  /// Nothing when it does not lie inside.
  std::optional<std::span<const std::byte>> Piece(uint64_t offset, uint64_t bytes) const {
    if (bytes > bytes_ || offset > bytes_ - bytes) return std::nullopt;
    return std::span(base_ + offset, bytes);
  }

 private:
  Staging(UniqueFd fd, const std::byte* base, uint64_t bytes)
      : fd_(std::move(fd)), base_(base), bytes_(bytes) {}

  UniqueFd fd_;
  const std::byte* base_;
  uint64_t bytes_;
};

/// Opens the arena for clients that may not write there, by `view_path`, which must be the same
/// file on a mount that is read-only: a descriptor of any other could be opened again for writing.
/// Errors: FailedPrecondition, saying how to mount it.
absl::StatusOr<UniqueFd> OpenArenaView(const std::string& view_path, int arena_fd);

}  // namespace thermocline
