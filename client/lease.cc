#include "client/lease_rep.h"

#include <algorithm>

#include "base/check.h"
#include "client/wire.h"
#include "hashing/checksum.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

// Each round ends at a shallower depth; only spaces with windows ever need a second one.
constexpr int kMaxLoadRounds = 4;

/// Whether a failed call surely did nothing, so that its slots may be given back at once. Where the
/// answer got lost the slots may be published already, and the daemon gives back those that are
/// not.
bool SurelyRefused(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kInternal:
      return false;
    default:
      return true;
  }
}

}  // namespace

Lease::Rep::~Rep() {
  if (held) connection->QueueRelease(lease);
}

bool Lease::Rep::windowed() const {
  return std::any_of(space->spec.parts.begin(), space->spec.parts.end(),
                     [](const PartSpec& part) { return part.window_tokens != 0; });
}

absl::Status Lease::Rep::Usable() const {
  const absl::Status alive = connection->Alive();
  if (!alive.ok() || !connection->LeaseHolds(generation)) {
    return absl::FailedPreconditionError(
        "this lease has ended with the session or the time that it was good for; match again" +
        (alive.ok() ? std::string() : " (" + std::string(alive.message()) + ")"));
  }
  if (!held) return absl::FailedPreconditionError("this lease was released; match again");
  return absl::OkStatus();
}

void Lease::Rep::AppendNames(NamesView names, uint32_t places) {
  if (space->spec.opaque_names) {
    keys.insert(keys.end(), names.keys().begin(), names.keys().begin() + places);
  } else {
    tokens.insert(tokens.end(), names.tokens().begin(),
                  names.tokens().begin() + size_t{places} * kPlaceTokens);
  }
}

absl::Status Lease::Rep::Acquire(NamesView names, uint32_t places, Deadline deadline) {
  TC_ASSIGN_OR_RETURN(const uint32_t number, space->NumberIn(*connection, deadline));
  const uint64_t before = connection->LeaseGeneration();
  v1::MatchRequest request;
  request.set_space(number);
  *request.mutable_names() = ToWire(names, places);
  auto response = connection->calls().Match(request, deadline);
  if (absl::IsResourceExhausted(response.status())) {
    // A session's leases are few, and some of them may be those that were let go of a moment ago.
    connection->FlushReturns(deadline);
    response = connection->calls().Match(request, deadline);
  }
  if (!response.ok()) return connection->Explain(response.status());
  if (held) {
    // Now, not with the next batch: a block that was found damaged gives way to the next commit
    // only once nobody leases it.
    connection->QueueRelease(lease);
    connection->FlushReturns(deadline);
  }
  // What was read through the old lease is judged by the generation that it was taken under.
  if (!held) generation = before;
  held = true;
  lease = response->lease();
  depth = leased_depth = response->depth();
  if (depth > places || depth % block_places() != 0) {
    return absl::InternalError("the daemon matched " + std::to_string(depth) + " places of " +
                               std::to_string(places));
  }
  const std::vector<BlockInfo> old_blocks = std::move(blocks);
  const std::vector<Source> old_sources = std::move(sources);
  blocks.clear();
  sources.clear();
  blocks.reserve(static_cast<size_t>(response->blocks_size()));
  sources.reserve(static_cast<size_t>(response->blocks_size()));
  for (const v1::Block& block : response->blocks()) TC_RETURN_IF_ERROR(Put(block, true));
  for (size_t i = 0; i < old_blocks.size(); ++i) {
    const size_t at = IndexOf(old_blocks[i].depth, old_blocks[i].part);
    if (at == blocks.size() || blocks[at].id != old_blocks[i].id) continue;
    blocks[at].matched_tier = old_blocks[i].matched_tier;
    const bool same_bytes = sources[at].offset == old_sources[i].offset;
    if (same_bytes && old_sources[i].verified) sources[at].verified = true;
  }
  return absl::OkStatus();
}

absl::Status Lease::Rep::Rematch(Deadline deadline) {
  const uint32_t wanted = depth;
  const NamesView names = space->spec.opaque_names ? NamesView(keys) : NamesView(tokens);
  TC_RETURN_IF_ERROR(Acquire(names, wanted, deadline));
  if (space->spec.opaque_names) {
    keys.resize(leased_depth);
  } else {
    tokens.resize(size_t{leased_depth} * kPlaceTokens);
  }
  if (depth == wanted) return absl::OkStatus();
  return absl::AbortedError("of " + std::to_string(wanted) + " places only " +
                            std::to_string(depth) + " are still here");
}

absl::Status Lease::Rep::Put(const v1::Block& block, bool matched) {
  const BlockTier tier = FromWire(block.tier());
  const bool in_arena =
      tier != BlockTier::kWarm || connection->Contains(block.offset(), block.bytes());
  if (block.part() >= part_count() || block.depth() >= leased_depth || !in_arena ||
      block.bytes() != space->spec.parts[block.part()].block_bytes) {
    return absl::InternalError(
        "the daemon answered with a block that cannot be one of this path (place " +
        std::to_string(block.depth()) + ", part " + std::to_string(block.part()) + ", offset " +
        std::to_string(block.offset()) + ", " + std::to_string(block.bytes()) + " bytes)");
  }
  if (block.depth() >= depth) return absl::OkStatus();
  const auto before = [&](const BlockInfo& a) {
    return a.depth != block.depth() ? a.depth < block.depth() : a.part < block.part();
  };
  size_t at = blocks.size();
  if (at > 0 && !before(blocks.back())) {
    at = static_cast<size_t>(std::partition_point(blocks.begin(), blocks.end(), before) -
                             blocks.begin());
  }
  const bool known =
      at < blocks.size() && blocks[at].depth == block.depth() && blocks[at].part == block.part();
  if (!known) {
    blocks.insert(blocks.begin() + at, BlockInfo{.depth = block.depth(), .part = block.part()});
    sources.insert(sources.begin() + at, Source{});
  }
  BlockInfo& info = blocks[at];
  const bool verified = known && info.id == block.id() && info.tier == tier &&
                        sources[at].offset == block.offset() && sources[at].verified;
  info.id = block.id();
  info.tier = tier;
  info.bytes = block.bytes();
  if (matched) info.matched_tier = tier;
  sources[at] = {.offset = block.offset(),
                 .checksum = block.checksum(),
                 .verified = block.checked() || verified};
  return absl::OkStatus();
}

size_t Lease::Rep::IndexOf(uint32_t block_depth, uint32_t part) const {
  const auto found = std::partition_point(blocks.begin(), blocks.end(), [&](const BlockInfo& a) {
    return a.depth != block_depth ? a.depth < block_depth : a.part < part;
  });
  if (found == blocks.end() || found->depth != block_depth || found->part != part) {
    return blocks.size();
  }
  return static_cast<size_t>(found - blocks.begin());
}

bool Lease::Rep::Readable(size_t index) {
  if (blocks[index].tier != BlockTier::kWarm) return false;
  Source& source = sources[index];
  if (source.verified) return true;
  const std::span<const std::byte> bytes = connection->Bytes(source.offset, blocks[index].bytes);
  source.verified = Checksum(bytes) == source.checksum;
  if (!source.verified) Cut(blocks[index].depth + 1 - block_places());
  return source.verified;
}

void Lease::Rep::Cut(uint32_t new_depth) {
  depth = new_depth;
  const auto end = std::partition_point(blocks.begin(), blocks.end(),
                                        [&](const BlockInfo& a) { return a.depth < new_depth; });
  sources.resize(static_cast<size_t>(end - blocks.begin()));
  blocks.erase(end, blocks.end());
}

uint32_t Lease::Rep::Advance(size_t& next) {
  while (next < blocks.size() && Readable(next)) ++next;
  next = std::min(next, blocks.size());  // a damaged block cuts its whole place off
  return next < blocks.size() ? blocks[next].depth + 1 - block_places() : depth;
}

absl::Status Lease::Rep::Promote(size_t& next, const std::function<void(uint32_t)>& on_ready,
                                 Deadline deadline) {
  uint32_t told = Advance(next);
  if (on_ready && told > 0) on_ready(told);
  if (next == blocks.size()) return absl::OkStatus();
  v1::LoadRequest request;
  request.set_lease(lease);
  const absl::Status loaded =
      connection->calls().Load(request, deadline, [&](const v1::LoadResponse& response) {
        for (const v1::Block& block : response.blocks()) TC_RETURN_IF_ERROR(Put(block, false));
        const uint32_t ready = Advance(next);
        if (on_ready && ready > told) on_ready(ready);
        told = std::max(told, ready);
        return absl::OkStatus();
      });
  if (loaded.ok() || absl::IsDeadlineExceeded(loaded)) return absl::OkStatus();
  return connection->Explain(loaded);
}

Lease::Lease(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
Lease::Lease(Lease&&) noexcept = default;
Lease& Lease::operator=(Lease&&) noexcept = default;
Lease::~Lease() = default;

uint32_t Lease::depth() const { return rep_->depth; }
std::span<const BlockInfo> Lease::blocks() const { return rep_->blocks; }

const BlockInfo* Lease::Find(uint32_t depth, uint32_t part) const {
  const size_t index = rep_->IndexOf(depth, part);
  return index < rep_->blocks.size() ? &rep_->blocks[index] : nullptr;
}

std::span<const std::byte> Lease::View(uint32_t depth, uint32_t part) {
  const size_t index = rep_->IndexOf(depth, part);
  if (index == rep_->blocks.size() || rep_->connection->Forked() || !rep_->Readable(index)) {
    return {};
  }
  return rep_->connection->Bytes(rep_->sources[index].offset, rep_->blocks[index].bytes);
}

absl::StatusOr<uint32_t> Lease::Load(const std::function<void(uint32_t)>& on_ready,
                                     Timeout timeout) {
  TC_RETURN_IF_ERROR(rep_->Usable());
  const Deadline deadline = rep_->space->core->DeadlineOf(timeout);
  for (int round = 0; round < kMaxLoadRounds; ++round) {
    size_t next = 0;
    TC_RETURN_IF_ERROR(rep_->Promote(next, on_ready, deadline));
    const uint32_t readable = rep_->Advance(next);
    if (readable == rep_->depth && (rep_->depth == rep_->leased_depth || !rep_->windowed())) {
      return readable;
    }
    rep_->Cut(readable);
    if (!rep_->windowed()) return readable;
    // A shorter path has its windows elsewhere: ask for it, and look whether they can be had.
    const absl::Status moved = rep_->Rematch(rep_->space->core->DeadlineOf(timeout));
    if (!moved.ok() && !absl::IsAborted(moved)) return moved;
  }
  rep_->Cut(0);
  return 0;
}

absl::Status Lease::Truncate(uint32_t depth, Timeout timeout) {
  TC_RETURN_IF_ERROR(rep_->Usable());
  TC_CHECK(depth <= rep_->depth);
  depth -= depth % rep_->block_places();
  if (depth == rep_->depth) return absl::OkStatus();
  rep_->Cut(depth);
  if (!rep_->windowed()) return absl::OkStatus();
  return rep_->Rematch(rep_->space->core->DeadlineOf(timeout));
}

absl::Status Lease::Commit(NamesView names, std::vector<Reservation> slots, Timeout timeout) {
  TC_RETURN_IF_ERROR(rep_->Usable());
  TC_RETURN_IF_ERROR(CheckNames(rep_->space->spec, names));
  const uint32_t parts = rep_->part_count();
  const uint32_t places = names.places() - names.places() % rep_->block_places();
  if (slots.size() != size_t{places} / rep_->block_places() * parts) {
    return absl::InvalidArgumentError("a commit of " + std::to_string(names.places()) +
                                      " places takes one slot for each block and part; " +
                                      std::to_string(slots.size()) + " slots were given");
  }
  if (places == 0) return absl::OkStatus();
  const Deadline deadline = rep_->space->core->DeadlineOf(timeout);
  if (rep_->depth != rep_->leased_depth) TC_RETURN_IF_ERROR(rep_->Rematch(deadline));

  v1::CommitRequest request;
  request.set_lease(rep_->lease);
  *request.mutable_names() = ToWire(names, places);
  for (size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].connection_ != rep_->connection || slots[i].part_ != i % parts) {
      return absl::FailedPreconditionError(
          "slot " + std::to_string(i) +
          " was reserved in another session, or for another part; reserve again");
    }
    v1::CommitItem* item = request.add_items();
    item->set_offset(slots[i].offset_);
    item->set_part(slots[i].part_);
    item->set_depth(rep_->depth + static_cast<uint32_t>(i / parts + 1) * rep_->block_places() - 1);
  }
  const auto response = rep_->connection->calls().Commit(request, deadline);
  const bool used = response.ok() || !SurelyRefused(response.status());
  for (Reservation& slot : slots) {
    if (used) slot.connection_.reset();
  }
  if (!response.ok()) return rep_->connection->Explain(response.status());
  if (response->depth() != rep_->depth + places ||
      response->blocks_size() != request.items_size()) {
    return absl::InternalError("the daemon answered a commit of " + std::to_string(places) +
                               " places at " + std::to_string(rep_->depth) + " with depth " +
                               std::to_string(response->depth()));
  }
  rep_->AppendNames(names, places);
  rep_->depth = rep_->leased_depth = response->depth();
  for (const v1::Block& block : response->blocks()) {
    TC_RETURN_IF_ERROR(rep_->Put(block, true));
  }
  return absl::OkStatus();
}

bool Lease::StillValid() const {
  return rep_ != nullptr && rep_->held && rep_->connection->LeaseHolds(rep_->generation);
}

void Lease::Release() {
  if (rep_ == nullptr || !rep_->held) return;
  rep_->connection->QueueRelease(rep_->lease);
  rep_->held = false;
  rep_->Cut(0);
}

}  // namespace client_v1
}  // namespace thermocline
