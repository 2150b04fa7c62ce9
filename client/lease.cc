#include "client/lease_rep.h"

#include <algorithm>

#include "base/check.h"
#include "base/units.h"
#include "client/wire.h"
#include "hashing/checksum.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

// Each round ends at a shallower depth; only spaces with windows ever need a second one.
constexpr int kMaxLoadRounds = 4;

}  // namespace

Lease::Rep::~Rep() {
  if (held) LetGo();
  DropMirrored();
}

void Lease::Rep::LetGo() {
  held = false;
  const auto pending = std::exchange(filling, nullptr);
  if (pending != nullptr && !connection->Forked() && pending->TakeHold(local, lease)) return;
  if (local == nullptr) return connection->QueueRelease(lease);
  if (connection->Forked()) return;
  // What was enqueued goes on, behind our pin.
  for (const auto& put : puts) {
    const bool last = put == puts.back();
    connection->puts().Abandon(put, last ? std::move(local) : nullptr);
  }
  puts.clear();
  if (local != nullptr) connection->local_readers().GiveBack(std::move(local));
}

bool Lease::Rep::windowed() const {
  return std::any_of(space->rules.begin(), space->rules.end(),
                     [](const PartRule& rule) { return rule.window_places != 0; });
}

uint32_t Lease::Rep::WindowBlocks(uint32_t part) const {
  return (space->rules[part].window_places + block_places() - 1) / block_places();
}

bool Lease::Rep::Needs(uint32_t part, uint32_t block, uint32_t count) const {
  const uint32_t window = WindowBlocks(part);
  return window == 0 || block + window >= count;
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

absl::Status Lease::Rep::Acquire(Deadline deadline) {
  TC_RETURN_IF_ERROR(space->CallIn(*connection, deadline, [&](Root root) -> absl::Status {
    const uint64_t before = connection->LeaseGeneration();
    // What was read through an earlier lease is judged by the generation that it was taken under.
    if (!held) generation = before;
    if (AcquireLocal(root)) return absl::OkStatus();
    v1::MatchRequest request;
    request.set_space(root.tag);
    *request.mutable_names() = ToWire(space->spec, names);
    return AcquireByMessage(std::move(request), deadline);
  }));
  names.resize(leased_depth);
  return absl::OkStatus();
}

bool Lease::Rep::AcquireLocal(Root root) {
  if (connection->remote()) return false;
  std::unique_ptr<LocalReader> next = connection->local_readers().Take();
  if (next == nullptr) return false;
  const Reader::Match match =
      next->reader.MatchAndPin(root, names, LocalReader::kLeasePin, space->rules, block_places());
  const auto found = static_cast<uint32_t>(match.depth - match.depth % block_places());
  // Cold, on the move, deleted, incomplete, or raced: the daemon knows more.
  if (match.usable != found || !match.sure) {
    connection->local_readers().GiveBack(std::move(next));
    return false;
  }
  const Place end = found > 0 ? next->reader.PlaceAt(found) : Place{root.node, 0};
  next->reader.Shorten(LocalReader::kLeasePin, end);
  const uint32_t count = found / block_places();
  LocalReaders::Outcome outcome{.absent = (names.size() / block_places() - count) * part_count(),
                                .requested_tokens = names.size() * kPlaceTokens,
                                .hit_tokens = uint64_t{found} * kPlaceTokens};
  for (uint32_t part = 0; part < part_count(); ++part) {
    const uint32_t window = WindowBlocks(part);
    const uint32_t hits = window == 0 ? count : std::min(window, count);
    outcome.warm_hits += hits;
    outcome.hit_bytes += hits * space->spec.parts[part].block_bytes;
  }
  connection->local_readers().Count(end, outcome);
  Hold(std::move(next), found);
  return true;
}

void Lease::Rep::Hold(std::unique_ptr<LocalReader> reader, uint32_t places) {
  if (held) LetGo();
  held = true;
  local = std::move(reader);
  depth = leased_depth = places;
  listed = false;
}

absl::StatusOr<v1::MatchResponse> Lease::Rep::Ask(v1::MatchRequest& request, Deadline deadline) {
  request.set_asked(connection->NewNumber());
  auto response = connection->calls().Match(request, deadline);
  if (!response.ok()) connection->QueueUntold(request.asked(), response.status());
  return response;
}

absl::Status Lease::Rep::AcquireByMessage(v1::MatchRequest request, Deadline deadline) {
  auto response = Ask(request, deadline);
  if (absl::IsResourceExhausted(response.status())) {
    // A session's leases are few, and some of them may be those that were let go of a moment ago.
    connection->FlushReturns(deadline);
    response = Ask(request, deadline);
  }
  if (!response.ok()) return connection->Explain(response.status());
  if (held) {
    // Now, not with the next batch: a block that was found damaged gives way to the next commit
    // only once nobody leases it.
    List();
    LetGo();
    connection->FlushReturns(deadline);
  }
  held = true;
  lease = response->lease();
  depth = leased_depth = response->depth();
  if (request.place() != 0) {
    TC_ASSIGN_OR_RETURN(names, NamesFromWire(space->spec, response->names()));
  }
  if (depth > names.size() || depth % block_places() != 0) {
    return absl::InternalError("the daemon matched " + std::to_string(depth) + " places of " +
                               std::to_string(names.size()));
  }
  const std::vector<BlockInfo> old_blocks = std::move(blocks);
  const std::vector<Source> old_sources = std::move(sources);
  listed = true;
  blocks.clear();
  sources.clear();
  blocks.reserve(static_cast<size_t>(response->blocks_size()));
  sources.reserve(static_cast<size_t>(response->blocks_size()));
  for (const v1::Block& block : response->blocks()) TC_RETURN_IF_ERROR(Put(block, true));
  CarryOver(old_blocks, old_sources);
  return absl::OkStatus();
}

// The path was held all the while, so a block that lies where it lay is the same.
void Lease::Rep::CarryOver(const std::vector<BlockInfo>& old_blocks,
                           const std::vector<Source>& old_sources) {
  for (size_t i = 0; i < old_blocks.size(); ++i) {
    const size_t at = IndexOf(old_blocks[i].depth, old_blocks[i].part);
    if (at == blocks.size() || blocks[at].id != old_blocks[i].id) continue;
    blocks[at].matched_tier = old_blocks[i].matched_tier;
    const bool same_bytes = sources[at].offset == old_sources[i].offset;
    if (same_bytes && old_sources[i].verified) sources[at].verified = true;
  }
}

void Lease::Rep::List() {
  if (listed) return;
  const std::vector<BlockInfo> old_blocks = std::move(blocks);
  const std::vector<Source> old_sources = std::move(sources);
  listed = true;
  blocks.clear();
  sources.clear();
  const Catalog& catalog = connection->catalog();
  const bool verify_always = space->core->options().verify_always;
  const uint32_t count = leased_depth / block_places();
  blocks.reserve(size_t{count} * part_count());
  sources.reserve(size_t{count} * part_count());
  uint32_t at = 0;  // places
  for (const Reader::Step& step : local->reader.path()) {
    for (uint32_t position = 0; position < step.count && at < depth; ++position) {
      if (++at % block_places() != 0) continue;
      for (uint32_t part = 0; part < part_count(); ++part) {
        if (!Needs(part, at / block_places() - 1, count)) continue;
        const Word word = local->reader.word(part, at - 1);
        const uint64_t bytes = space->spec.parts[part].block_bytes;
        const uint64_t offset = uint64_t{word.warm_slot()} * kPageBytes;
        if (!connection->Contains(offset, bytes)) return Cut(at - block_places());
        blocks.push_back({.depth = at - 1,
                          .part = part,
                          .id = catalog.id(step.node, position).load(std::memory_order_relaxed),
                          .matched_tier = BlockTier::kWarm,
                          .tier = BlockTier::kWarm,
                          .bytes = bytes});
        sources.push_back(
            {.offset = offset,
             .checksum =
                 catalog.checksum(part, step.node, position).load(std::memory_order_relaxed),
             .verified = word.checked() && !verify_always});
      }
    }
  }
  CarryOver(old_blocks, old_sources);
}

absl::Status Lease::Rep::Rematch(Deadline deadline) {
  const uint32_t wanted = depth;
  List();
  names.resize(wanted);
  TC_RETURN_IF_ERROR(Acquire(deadline));
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
  const bool same_slab = sources[at].slab == block.slab();
  sources[at] = {.offset = block.offset(),
                 .checksum = block.checksum(),
                 .verified = (block.checked() && !space->core->options().verify_always) || verified,
                 .slab = block.slab(),
                 .mapped = same_slab ? std::move(sources[at].mapped) : nullptr};
  if (connection->remote()) {
    // Held first: what another lease has fetched must not go with it.
    if (tier == BlockTier::kWarm) HoldMirrored(block.offset(), block.bytes());
    sources[at].verified = connection->mirror().Has(block.offset(), Mirrored(block));
  }
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

bool Lease::Rep::Readable(size_t index, Deadline deadline) {
  if (blocks[index].tier == BlockTier::kHot) return InPlace(index, deadline);
  if (blocks[index].tier != BlockTier::kWarm) return false;
  Source& source = sources[index];
  if (source.verified || connection->remote()) return source.verified;
  const std::span<const std::byte> bytes = connection->Bytes(source.offset, blocks[index].bytes);
  source.verified = Checksum(bytes) == source.checksum;
  // Only of bytes that were the block's is it known that they are damaged.
  if (!source.verified && connection->LeaseHolds(generation)) {
    connection->QueueReport(blocks[index].id, blocks[index].part);
  }
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

uint32_t Lease::Rep::Advance(size_t& next, Deadline deadline) {
  while (next < blocks.size() && Readable(next, deadline)) ++next;
  next = std::min(next, blocks.size());  // a damaged block cuts its whole place off
  return next < blocks.size() ? blocks[next].depth + 1 - block_places() : depth;
}

absl::Status Lease::Rep::Promote(size_t& next, const std::function<void(uint32_t)>& on_ready,
                                 Deadline deadline) {
  uint32_t told = Advance(next, deadline);
  if (on_ready && told > 0) on_ready(told);
  if (next == blocks.size()) return absl::OkStatus();
  TC_CHECK(local == nullptr);  // whose path is warm throughout
  const auto tell = [&] {
    const uint32_t ready = Advance(next, deadline);
    if (on_ready && ready > told) on_ready(ready);
    told = std::max(told, ready);
  };
  if (connection->remote()) {
    return Fetch(blocks[next].depth + 1 - block_places(), 0, tell, deadline);
  }
  v1::LoadRequest request;
  request.set_lease(lease);
  request.set_hot_stays(HotCanStay(deadline));
  const absl::Status loaded =
      connection->calls().Load(request, deadline, [&](const v1::LoadResponse& response) {
        for (const v1::Block& block : response.blocks()) TC_RETURN_IF_ERROR(Put(block, false));
        tell();
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
std::span<const BlockInfo> Lease::blocks() const {
  rep_->List();
  return rep_->blocks;
}

const BlockInfo* Lease::Find(uint32_t depth, uint32_t part) const {
  rep_->List();
  const size_t index = rep_->IndexOf(depth, part);
  return index < rep_->blocks.size() ? &rep_->blocks[index] : nullptr;
}

std::span<const std::byte> Lease::View(uint32_t depth, uint32_t part) {
  if (rep_->connection->Forked()) return {};
  rep_->List();
  size_t index = rep_->IndexOf(depth, part);
  if (index == rep_->blocks.size() || rep_->blocks[index].tier != BlockTier::kWarm) return {};
  const Deadline deadline = rep_->space->core->DeadlineOf({});
  if (!rep_->Readable(index, deadline)) {
    if (!rep_->connection->remote()) return {};
    rep_->Fetch(
            depth, depth + 1, [] {}, deadline)
        .IgnoreError();
    index = rep_->IndexOf(depth, part);
    if (index == rep_->blocks.size() || !rep_->Readable(index, deadline)) return {};
  }
  return rep_->connection->Bytes(rep_->sources[index].offset, rep_->blocks[index].bytes);
}

bool Lease::Read(uint32_t depth, std::span<std::byte> to, uint32_t part) {
  const std::span<const std::byte> view = View(depth, part);
  if (view.empty() || view.size() != to.size()) return false;
  CopyOut(to, view);
  return true;
}

absl::StatusOr<uint32_t> Lease::Load(const std::function<void(uint32_t)>& on_ready,
                                     Timeout timeout) {
  TC_RETURN_IF_ERROR(rep_->Usable());
  const Deadline deadline = rep_->space->core->DeadlineOf(timeout);
  TC_RETURN_IF_ERROR(rep_->Settle(deadline));
  for (int round = 0; round < kMaxLoadRounds; ++round) {
    size_t next = 0;
    rep_->List();
    TC_RETURN_IF_ERROR(rep_->Promote(next, on_ready, deadline));
    const uint32_t readable = rep_->Advance(next, deadline);
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
  TC_RETURN_IF_ERROR(rep_->Settle(rep_->space->core->DeadlineOf(timeout)));
  depth -= depth % rep_->block_places();
  if (depth == rep_->depth) return absl::OkStatus();
  rep_->List();
  rep_->Cut(depth);
  if (!rep_->windowed()) return absl::OkStatus();
  return rep_->Rematch(rep_->space->core->DeadlineOf(timeout));
}

bool Lease::StillValid() const {
  if (rep_ != nullptr && rep_->ending != nullptr && rep_->ending->ended.load()) {
    return rep_->ending->held;
  }
  const bool held = rep_ != nullptr && (rep_->held || rep_->ending != nullptr);
  return held && rep_->connection->LeaseHolds(rep_->generation);
}

void Lease::Release() {
  if (rep_ == nullptr || !rep_->held) return;
  rep_->Cut(0);
  rep_->listed = true;
  rep_->LetGo();
  rep_->DropMirrored();
}

}  // namespace client_v1
}  // namespace thermocline
