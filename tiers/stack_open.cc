// Opening a stack: state file, tiers, and the tree rebuilt from the headers in both tiers by ids
// and names alone. Headers are sorted by depth; a block whose parent is missing, whose space nobody
// knows, or whose name another place has taken, is dropped.
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "base/process.h"
#include "tiers/disk_tier.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

constexpr uint32_t kPlacesPerNode = 8;  // as few as in bad trees; nodes cost nothing until used
constexpr int kEpochShift = 32;

std::string StatePath(const StackOptions& options) { return options.data_dir + "/state.json"; }

absl::StatusOr<CatalogMemory> MakeCatalog(const StackOptions& options, uint64_t epoch) {
  return CatalogMemory::Create({.node_count = options.max_places / kPlacesPerNode + 1024}, epoch);
}

// Ids hold the epoch that gave them; a new epoch is above all of them.
absl::StatusOr<uint64_t> LeastEpoch(const StackState& state, Tier* cold) {
  uint64_t epoch = state.epoch + 1;
  if (cold == nullptr) return epoch;
  TC_RETURN_IF_ERROR(cold->ForEach([&](const BlockHeader& header) {
    epoch = std::max(epoch, (header.id >> kEpochShift) + 1);
    return true;
  }));
  return epoch;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TierStack>> TierStack::Open(Options options) {
  std::unique_ptr<Tier> cold;
  if (options.cold_capacity_bytes > 0) {
    TC_ASSIGN_OR_RETURN(cold, DiskTier::Open({.directory = options.data_dir,
                                              .capacity_bytes = options.cold_capacity_bytes}));
  }
  return StackCore::OpenWith(std::move(options), std::move(cold));
}

absl::StatusOr<std::unique_ptr<StackCore>> StackCore::OpenWith(StackOptions options,
                                                               std::unique_ptr<Tier> cold) {
  TC_CHECK(options.strand && options.disk && options.strand_at && options.clock != nullptr);
  if (options.chunk_bytes == 0) options.chunk_bytes = kDefaultChunkBytes;
  TC_ASSIGN_OR_RETURN(const StackState state, ReadStateFile(StatePath(options)));
  TC_ASSIGN_OR_RETURN(const uint64_t least_epoch, LeastEpoch(state, cold.get()));
  TC_ASSIGN_OR_RETURN(auto host, HostTier::Open({.arena_path = options.arena_path,
                                                 .capacity_bytes = options.warm_capacity_bytes,
                                                 .chunk_bytes = options.chunk_bytes,
                                                 .least_epoch = least_epoch,
                                                 .capacity_option = "warm_capacity"}));
  TC_ASSIGN_OR_RETURN(auto memory, MakeCatalog(options, host->arena().epoch()));
  TC_ASSIGN_OR_RETURN(auto warm_policy, MakePolicy(options.policy));
  TC_ASSIGN_OR_RETURN(auto cold_policy, MakePolicy(options.policy));
  std::unique_ptr<StackCore> core(new StackCore(std::move(options), std::move(host),
                                                std::move(cold), std::move(memory),
                                                std::move(warm_policy), std::move(cold_policy)));
  TC_RETURN_IF_ERROR(core->Recover(state));
  TC_RETURN_IF_ERROR(Annotate(core->SaveState(), "data directory"));
  core->SchedulePump();
  core->PostStrand([](StackCore& self) { self.Scrub(); });
  return core;
}

StackCore::StackCore(StackOptions options, std::shared_ptr<HostTier> host,
                     std::shared_ptr<Tier> cold, CatalogMemory memory,
                     std::unique_ptr<Policy> warm_policy, std::unique_ptr<Policy> cold_policy)
    : options_(std::move(options)),
      host_(std::move(host)),
      cold_(std::move(cold)),
      memory_(std::move(memory)),
      writer_(memory_.catalog()),
      warm_policy_(std::move(warm_policy)),
      cold_policy_(std::move(cold_policy)),
      self_process_{::getpid(), ProcessStartTime(::getpid()).value_or(0)},
      self_(std::make_shared<StackCore*>(this)),
      scrub_area_(writer_.LendPins(scrub_pins_)) {}

StackCore::~StackCore() = default;

absl::Status StackCore::Recover(const StackState& state) {
  last_id_ = epoch() << kEpochShift;
  std::unordered_map<uint64_t, Found> found;
  found.reserve(host_->Usage().block_count + (cold_ ? cold_->Usage().block_count : 0));
  TC_RETURN_IF_ERROR(CollectRecords(found));
  places_.reserve(found.size());
  std::set<Fingerprint> used;
  const Fingerprint* last = nullptr;  // mostly the next one's, too
  for (const auto& [id, entry] : found) {
    if (last == nullptr || !(*last == entry.record.space)) used.insert(entry.record.space);
    last = &entry.record.space;
  }
  for (const SpaceSpec& spec : state.spaces) {
    const Fingerprint fingerprint = FingerprintOf(spec);
    if (!used.contains(fingerprint) || space_numbers_.contains(fingerprint)) continue;
    TC_ASSIGN_OR_RETURN(const Root root, writer_.AddRoot(last_space_ + 1));
    AddSpace(spec, root);
  }
  std::vector<const Found*> sorted;
  sorted.reserve(found.size());
  for (const auto& [id, entry] : found) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(), [](const Found* a, const Found* b) {
    if (a->record.depth != b->record.depth) return a->record.depth < b->record.depth;
    return a->record.id > b->record.id;  // of two with one name the later
  });
  uint64_t dropped = 0;
  for (const Found* entry : sorted) {
    if (RestorePlace(*entry)) continue;
    ForgetFound(*entry);
    ++dropped;
  }
  for (const auto& slot : host_->left_granted()) quarantine_[slot.offset] = {slot.owner, {}};
  forgotten_.insert(forgotten_.end(), host_->left_damaged().begin(), host_->left_damaged().end());
  grace_ = warm_policy_->size() > 0 || !quarantine_.empty() || !forgotten_.empty();
  RestorePins(state);
  LogEvent(LogLevel::kInfo, "stack_opened",
           {{"epoch", epoch()},
            {"places", places_.size()},
            {"warm_blocks", host_->Usage().block_count},
            {"cold_blocks", cold_ ? cold_->Usage().block_count : 0},
            {"dropped_places", dropped},
            {"quarantined_slots", quarantine_.size()}});
  return absl::OkStatus();
}

absl::Status StackCore::CollectRecords(std::unordered_map<uint64_t, Found>& found) {
  const auto collect = [&](const BlockRecord& record) -> FoundPart* {
    last_sequence_ = std::max(last_sequence_, record.sequence);
    const auto [at, fresh] = found.try_emplace(record.id);
    Found& entry = at->second;
    if (fresh) entry.record = record;
    if (!SamePlace(entry.record, record)) return nullptr;
    if (entry.parts.size() <= record.part) entry.parts.resize(record.part + 1u);
    return &entry.parts[record.part];
  };
  const auto copy_of = [](const BlockRecord& record, uint64_t offset) {
    return FoundCopy{record.payload_bytes, record.payload_checksum, record.sequence, offset};
  };
  std::vector<uint64_t> misfits;
  host_->ForEachSlot([&](uint64_t offset, const BlockRecord& record) {
    if (FoundPart* part = collect(record)) {
      part->warm = copy_of(record, offset);
    } else {
      misfits.push_back(offset);
    }
  });
  for (uint64_t offset : misfits) ForgetSlot(offset);
  stats_.corrupt_blocks += misfits.size() + host_->Usage().corrupt_count;
  if (cold_ == nullptr) return absl::OkStatus();
  const absl::Status read = cold_->ForEach([&](const BlockRecord& record) {
    if (FoundPart* part = collect(record)) {
      part->cold = copy_of(record, 0);
    } else {
      erasures_.push_back({record.id, record.part});
      ++stats_.corrupt_blocks;
    }
    return true;
  });
  stats_.corrupt_blocks += cold_->Usage().corrupt_count;
  return read;
}

// All of a place or nothing: a part that its space does not have makes the place suspect.
bool StackCore::RestorePlace(const Found& found) {
  const BlockRecord& record = found.record;
  const auto number = space_numbers_.find(record.space);
  if (number == space_numbers_.end()) return false;
  Space& space = spaces_.at(number->second);
  if (found.parts.size() > space.part_count()) return false;
  for (uint32_t part = 0; part < found.parts.size(); ++part) {
    for (const FoundCopy* copy : {&found.parts[part].warm, &found.parts[part].cold}) {
      if (copy->payload_bytes == 0) continue;
      if (copy->payload_bytes != space.spec.parts[part].block_bytes) return false;
    }
  }
  const auto place = RestorePath(space, record);
  if (!place) return false;
  PlaceState& state = places_.at(record.id);
  for (uint32_t part = 0; part < found.parts.size(); ++part) {
    const auto& [warm, cold] = found.parts[part];
    const bool is_warm = warm.payload_bytes != 0;
    const bool stale = is_warm && cold.payload_bytes != 0 && cold.checksum != warm.checksum;
    const bool is_cold = cold.payload_bytes != 0 && !stale;
    if (!is_warm && !is_cold) continue;
    state.parts[part].checksum = (is_warm ? warm : cold).checksum;
    state.parts[part].sequence = (is_warm ? warm : cold).sequence;
    state.parts[part].adopted = is_warm;
    const auto page = static_cast<uint32_t>(warm.offset / kPageBytes);
    ChangeWord(record.id, *place, part, Word().WithWarmSlot(page).WithColdCopy(is_cold));
    if (stale) QueueErasure(record.id, part);
  }
  if (!IsComplete(space, state, *place)) NoteIncomplete(record.id);
  return true;
}

// The place of a block, and the inner ones before it where no other block has brought them: they
// hold no bytes and get new ids.
std::optional<Place> StackCore::RestorePath(Space& space, const BlockRecord& record) {
  if (record.inner.size() != space.inner_count()) return std::nullopt;
  if ((record.depth + 1) % space.block_places != 0) return std::nullopt;
  Place at = Writer::RootPlace(space.root);
  if (record.parent_id != 0) {
    const auto parent = writer_.PlaceOf(record.parent_id);
    if (!parent || writer_.RootOf(*parent) != space.root) return std::nullopt;
    at = *parent;
  }
  if (writer_.Depth(at) + record.inner.size() != record.depth) return std::nullopt;
  for (const Name& name : record.inner) {
    if (const auto there = writer_.FindNext(at, name)) {
      at = *there;
      continue;
    }
    const auto place = Append(space, at, name, ++last_id_);
    if (!place.ok()) return std::nullopt;
    NoteIncomplete(last_id_);  // until something stands behind it
    at = *place;
  }
  const auto place = Append(space, at, record.name, record.id);
  if (!place.ok()) return std::nullopt;
  return *place;
}

// What has no place in this epoch may still be read by leases of the last one.
void StackCore::ForgetSlot(uint64_t offset) {
  host_->Disown(offset);
  forgotten_.push_back(offset);
}

// Its parent or its space is not there, for lack of a copy or of the state file: it is lost, which
// is no damage.
void StackCore::ForgetFound(const Found& found) {
  for (uint32_t part = 0; part < found.parts.size(); ++part) {
    const auto& [warm, cold] = found.parts[part];
    if (warm.payload_bytes != 0) {
      ForgetSlot(warm.offset);
      ++warm_counters_.evictions;
    }
    if (cold.payload_bytes != 0) {
      erasures_.push_back({found.record.id, static_cast<uint16_t>(part)});
      ++cold_counters_.evictions;
    }
  }
}

void StackCore::RestorePins(const StackState& state) {
  const int64_t now = UnixMs();
  for (const StackState::Pin& pin : state.pins) {
    last_pin_ = std::max(last_pin_, pin.pin);
    if (pin.expires_unix_ms <= now || !places_.contains(pin.place_id)) continue;
    TtlPin restored{{pin.pin, pin.space, pin.depth, pin.expires_unix_ms, pin.tier}, pin.place_id};
    HoldPin(restored, +1);
    pins_.emplace(pin.pin, restored);
  }
}

}  // namespace thermocline
