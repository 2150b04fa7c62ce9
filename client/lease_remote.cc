// What a lease does where blocks travel: fetches them into the mirror and sends what was filled
// there.
#include <algorithm>
#include <utility>

#include "client/lease_rep.h"
#include "hashing/checksum.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

constexpr uint64_t kMaxChunkBytes = 1 << 20;  // payload of a message, as the daemon bounds it

}  // namespace

absl::Status Lease::Rep::Fetch(uint32_t from_depth, uint32_t to_depth,
                               const std::function<void()>& landed, Deadline deadline) {
  v1::ReadRequest request;
  request.set_lease(lease);
  request.set_from_depth(from_depth);
  request.set_to_depth(to_depth);
  const absl::Status fetched =
      connection->calls().Read(request, deadline, [&](const v1::ReadResponse& response) {
        for (const v1::ReadPiece& piece : response.pieces()) TC_RETURN_IF_ERROR(TakeIn(piece));
        landed();
        return absl::OkStatus();
      });
  if (fetched.ok() || absl::IsDeadlineExceeded(fetched)) return absl::OkStatus();
  return connection->Explain(fetched);
}

absl::Status Lease::Rep::TakeIn(const v1::ReadPiece& piece) {
  const v1::Block& block = piece.block();
  const bool fits = block.part() < part_count() && block.depth() < leased_depth &&
                    block.bytes() == space->spec.parts[block.part()].block_bytes &&
                    connection->Contains(block.offset(), block.bytes()) &&
                    piece.at() <= block.bytes() &&
                    piece.data().size() <= block.bytes() - piece.at() && block.id() != 0;
  if (!fits) {
    return absl::InternalError("the daemon sent a piece that cannot be one of this path (place " +
                               std::to_string(block.depth()) + ", part " +
                               std::to_string(block.part()) + ", byte " +
                               std::to_string(piece.at()) + ")");
  }
  if (block.depth() >= depth) return absl::OkStatus();  // behind one that was damaged
  HoldMirrored(block.offset(), block.bytes());
  Mirror& mirror = connection->mirror();
  mirror.Store(block.offset(), Mirrored(block), piece.at(), piece.data());
  if (piece.at() + piece.data().size() < block.bytes()) return absl::OkStatus();
  if (!mirror.Land(block.offset(), Mirrored(block), block.bytes())) {
    Cut(block.depth() + 1 - block_places());
    return absl::OkStatus();
  }
  return Put(block, false);
}

void Lease::Rep::HoldMirrored(uint64_t offset, uint64_t bytes) {
  connection->HoldSlot(offset, bytes);
  const auto at = std::lower_bound(mirrored.begin(), mirrored.end(), offset);
  const bool held_before = at != mirrored.end() && *at == offset;
  if (held_before) return connection->DropSlot(offset);
  mirrored.insert(at, offset);
}

void Lease::Rep::DropMirrored() {
  for (const uint64_t offset : std::exchange(mirrored, {})) connection->DropSlot(offset);
}

absl::Status Lease::Rep::Send(const std::vector<Reservation>& slots, v1::CommitRequest& commit,
                              Deadline deadline) {
  for (size_t i = 0; i < slots.size(); ++i) {
    commit.mutable_items(static_cast<int>(i))->set_checksum(Checksum(slots[i].bytes()));
  }
  size_t slot = 0;
  uint64_t at = 0;
  const absl::Status sent = connection->calls().Write(deadline, [&](v1::WriteRequest& message) {
    for (uint64_t room = kMaxChunkBytes; room > 0 && slot < slots.size();) {
      const std::span<const std::byte> bytes = slots[slot].bytes();
      const uint64_t count = std::min<uint64_t>(room, bytes.size() - at);
      v1::WritePiece* piece = message.add_pieces();
      piece->set_offset(slots[slot].offset_);
      piece->set_at(at);
      piece->set_data(bytes.data() + at, count);
      room -= count;
      at += count;
      if (at < bytes.size()) break;
      at = 0;
      ++slot;
    }
    return message.pieces_size() > 0;
  });
  return connection->Explain(sent);
}

void Lease::Rep::KeepCommitted(const v1::CommitRequest& request,
                               const v1::CommitResponse& response) {
  if (!connection->remote() || response.blocks_size() != request.items_size()) return;
  for (int i = 0; i < response.blocks_size(); ++i) {
    const v1::Block& block = response.blocks(i);
    if (block.offset() != request.items(i).offset()) continue;  // another client was first
    if (!connection->Contains(block.offset(), block.bytes())) continue;
    HoldMirrored(block.offset(), block.bytes());
    connection->mirror().Become(block.offset(), Mirrored(block));
  }
}

}  // namespace client_v1
}  // namespace thermocline
