// Opening a stack: state file, tiers, and the tree rebuilt from the headers in both tiers by ids
// and names alone. Headers are sorted by id; a block whose parent is missing, whose space nobody
// knows, or whose name a later place has taken, is dropped.
//
// A restart is to serve a million warm blocks after half a second: headers are read where they lie,
// what is sorted are ids, whatever lies anywhere is fetched ahead, and a second thread first makes
// memory for the tree and then tells the policies of what stands in it.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <future>

#include "base/log.h"
#include "base/process.h"
#include "base/sort_by_id.h"
#include "tiers/log_tier.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

constexpr uint32_t kPlacesPerNode = 8;  // as few as in bad trees; nodes cost nothing until used
constexpr int kEpochShift = 32;
constexpr size_t kFetchAhead = 16;  // blocks; more than that the caches do not take
constexpr size_t kCacheLine = 64;
constexpr size_t kMostOpenFiles = size_t{1} << 13;  // of one cold tier
constexpr size_t kBatch = size_t{1} << 15;  // of places that the policies are told of at once

uint64_t OffsetOf(uint32_t page) { return uint64_t{page} * kPageBytes; }

bool IsOfOnePlace(const BlockHeader& a, const BlockHeader& b) {
  return a.parent_id == b.parent_id && a.depth == b.depth && a.name == b.name && a.space == b.space;
}

uint64_t ChunkBytes(const StackOptions& options) {
  return options.chunk_bytes == 0 ? kDefaultChunkBytes : options.chunk_bytes;
}

// Its table of children begins with the size that it needs for `blocks`: growing would hash all of
// them again.
absl::StatusOr<CatalogMemory> MakeCatalog(const StackOptions& options, uint64_t epoch,
                                          uint64_t blocks) {
  Geometry geometry{.node_count = options.max_places / kPlacesPerNode + 1024};
  while ((uint64_t{kMaxRunPlaces} * 6 << geometry.table_log2) < blocks) ++geometry.table_log2;
  return CatalogMemory::Create(geometry, epoch);
}

absl::StatusOr<std::vector<BlockRecord>> RecordsOf(Tier* cold) {
  std::vector<BlockRecord> records;
  if (cold == nullptr) return records;
  TC_RETURN_IF_ERROR(cold->ForEach([&](const BlockRecord& record) {
    records.push_back(record);
    return true;
  }));
  return records;
}

// Ids hold the epoch that gave them; a new epoch is above all of them.
uint64_t LeastEpoch(const StackState& state, const std::vector<BlockRecord>& cold) {
  uint64_t epoch = state.epoch + 1;
  for (const BlockRecord& record : cold) epoch = std::max(epoch, (record.id >> kEpochShift) + 1);
  return epoch;
}

}  // namespace

/// Tells the policies of the places that a restart has found, on a thread of its own: batch after
/// batch, while the next one is put into the tree.
/// Thread: one. Owner: borrows the policies, which are its own until Finish.
class StackCore::PolicyFeed {
 public:
  /// Does `first` there before.
  template <class First>
  PolicyFeed(Policy& warm, Policy& cold, First first)
      : warm_(warm), cold_(cold), behind_(std::async(std::move(first))) {}

  void Add(uint64_t id, uint64_t parent, bool warm, bool cold) {
    next_.push_back({id, parent, warm, cold});
    if (next_.size() == kBatch) Send();
  }
  /// Returns when they have been told of all that was added.
  void Finish() {
    Send();
    behind_.wait();
  }

 private:
  struct Member {
    uint64_t id, parent;
    bool warm, cold;
  };
  void Send() {
    behind_.wait();
    told_.swap(next_);
    next_.clear();
    behind_ = std::async([this] {
      for (size_t i = 0; i < told_.size(); ++i) {
        if (i + kFetchAhead < told_.size()) Fetch(told_[i + kFetchAhead]);
        const Member& member = told_[i];
        if (member.warm) warm_.Insert(member.id, member.parent);
        if (member.cold) cold_.Insert(member.id, member.parent);
      }
    });
  }
  void Fetch(const Member& member) const {
    if (member.warm) warm_.Prefetch(member.id);
    if (member.cold) cold_.Prefetch(member.id);
  }

  Policy& warm_;
  Policy& cold_;
  std::vector<Member> next_, told_;
  std::future<void> behind_;
};

size_t ColdOpenFiles(size_t stacks) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  return std::min<size_t>(limit.rlim_cur / 4 / stacks, kMostOpenFiles);
}

absl::StatusOr<std::unique_ptr<TierStack>> TierStack::Open(Options options) {
  std::unique_ptr<Tier> cold;
  if (options.cold_capacity_bytes > 0) {
    const uint64_t capacity = options.cold_capacity_bytes;
    TC_ASSIGN_OR_RETURN(cold, LogTier::Open({.directory = options.data_dir,
                                             .capacity_bytes = capacity,
                                             .account = options.cold_account,
                                             .unit_bytes = ChunkBytes(options),
                                             .envelope = BlockEnvelope(options.cold_envelope),
                                             .open_files = options.cold_open_files,
                                             .own_bytes = LogTier::OwnBytes(capacity)}));
  }
  return StackCore::OpenWith(std::move(options), std::move(cold));
}

absl::StatusOr<std::unique_ptr<StackCore>> StackCore::OpenWith(StackOptions options,
                                                               std::unique_ptr<Tier> cold) {
  TC_CHECK(options.strand && options.disk && options.strand_at && options.clock != nullptr);
  if (!options.reads) options.reads = options.disk;
  if (!options.work) options.work = options.disk;
  if (!options.hot) options.hot = options.disk;
  options.chunk_bytes = ChunkBytes(options);
  TC_ASSIGN_OR_RETURN(const StackState state, ReadStateFile(options.data_dir));
  TC_ASSIGN_OR_RETURN(const std::vector<BlockRecord> cold_records, RecordsOf(cold.get()));
  TC_ASSIGN_OR_RETURN(auto host, HostTier::Open({.arena_path = options.arena_path,
                                                 .metadata_path = options.arena_metadata_path,
                                                 .capacity_bytes = options.warm_capacity_bytes,
                                                 .chunk_bytes = options.chunk_bytes,
                                                 .least_epoch = LeastEpoch(state, cold_records),
                                                 .capacity_option = "warm_capacity",
                                                 .huge_pages = options.huge_pages,
                                                 .account = options.warm_account}));
  TC_ASSIGN_OR_RETURN(auto memory, MakeCatalog(options, host->arena().epoch(),
                                               host->Usage().block_count + cold_records.size()));
  TC_ASSIGN_OR_RETURN(auto warm_policy, MakePolicy(options.policy));
  TC_ASSIGN_OR_RETURN(auto cold_policy, MakePolicy(options.policy));
  std::unique_ptr<StackCore> core(new StackCore(std::move(options), std::move(host),
                                                std::move(cold), std::move(memory),
                                                std::move(warm_policy), std::move(cold_policy)));
  TC_ASSIGN_OR_RETURN(core->hot_policy_, MakePolicy(core->options_.policy));
  core->OpenHot();
  TC_RETURN_IF_ERROR(core->Recover(state, cold_records));
  TC_RETURN_IF_ERROR(
      Annotate(WriteStateFile(core->options_.data_dir, core->StateNow()), "data directory"));
  core->WatchBudgets();
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
      holds_(writer_),
      hot_moves_(options_.clock, 1, kColdPause),
      cold_writes_(options_.clock, 1, kColdPause),
      cold_reads_(options_.clock, kReadFailures, kColdPause),
      write_budget_(options_.clock, options_.cold_write_bytes_per_day),
      scrub_area_(writer_.LendPins(scrub_pins_)) {}

StackCore::~StackCore() {
  options_.warm_account.SetWake(nullptr);
  options_.cold_account.SetWake(nullptr);
}

// Each id is above those of the places before it, so that in their order every place finds its
// parent there already.
absl::Status StackCore::Recover(const StackState& state, const std::vector<BlockRecord>& cold) {
  last_id_ = epoch() << kEpochShift;
  LargeVector<FoundBlock> found = host_->TakeLeft();
  stats_.corrupt_blocks += host_->Usage().corrupt_count;
  const size_t warm_count = found.size();
  std::vector<DeviceTier::Left> hot;
  if (hot_ != nullptr) hot = hot_->TakeLeft();
  for (const auto& [record, page] : hot) {
    found.push_back({record.id, &record, page, record.part, true});
  }
  for (const BlockRecord& record : cold) found.push_back({record.id, &record, 0, record.part});
  SortById(found);  // stable: of one place what is warm comes first
  writer_.Reserve(found.size());
  places_.Reserve(found.size());
  warm_policy_->Reserve(warm_count);
  cold_policy_->Reserve(cold.size());
  feed_ = std::make_unique<PolicyFeed>(*warm_policy_, *cold_policy_,
                                       [&] { writer_.Populate(found.size()); });
  grace_ = true;  // what goes now may be read, too
  const uint64_t dropped = RestorePlaces(found, state);
  feed_->Finish();
  feed_.reset();
  for (const auto& slot : host_->left_granted()) quarantine_[slot.offset] = {slot.owner, {}};
  if (hot_ != nullptr) {
    for (const auto& [page, owner] : hot_->left_granted()) {
      const uint64_t offset = kDeviceSlots + DeviceTier::OffsetOf(page);
      quarantine_[offset] = {owner, {}};
      fills_.bytes += FillBytes(offset);
    }
  }
  forgotten_.insert(forgotten_.end(), host_->left_damaged().begin(), host_->left_damaged().end());
  grace_ = warm_policy_->size() > 0 || hot_policy_->size() > 0 || !quarantine_.empty() ||
           !forgotten_.empty() || !forgotten_hot_.empty();
  RestorePins(state);
  LogEvent(LogLevel::kInfo, "stack_opened",
           {{"epoch", epoch()},
            {"places", places_.size()},
            {"warm_blocks", host_->Usage().block_count},
            {"cold_blocks", cold_ ? cold_->Usage().block_count : 0},
            {"hot_blocks", hot_ ? hot_->Usage().block_count : 0},
            {"dropped_places", dropped},
            {"quarantined_slots", quarantine_.size()}});
  return absl::OkStatus();
}

// Answers how many have no place in this epoch.
uint64_t StackCore::RestorePlaces(std::span<const FoundBlock> found, const StackState& state) {
  uint64_t dropped = 0;
  size_t fetched = 0;
  Space* space = nullptr;  // of the last place, and mostly of the next one
  Fingerprint fingerprint;
  for (size_t begin = 0, end = 0; begin < found.size(); begin = end) {
    for (const size_t ahead = std::min(found.size(), begin + kFetchAhead); fetched < ahead;) {
      Fetch(found[fetched++]);
    }
    for (end = begin + 1; end < found.size() && found[end].id == found[begin].id;) ++end;
    const FoundPlace place = PlaceOf(found.subspan(begin, end - begin));
    if (begin == 0 || !(fingerprint == place.header->space)) {
      fingerprint = place.header->space;
      space = RestoreSpace(fingerprint, state);
    }
    if (space != nullptr && RestorePlace(*space, place)) continue;
    ForgetPlace(place);
    ++dropped;
  }
  return dropped;
}

// In an arena that has seen many evictions, neighbours by id lie anywhere.
void StackCore::Fetch(const FoundBlock& block) const {
  const char* const header = reinterpret_cast<const char*>(block.header);
  for (size_t at = 0; at < sizeof(BlockHeader); at += kCacheLine) __builtin_prefetch(header + at);
  writer_.Prefetch(block.id);
  places_.Prefetch(block.id);
}

// Spaces that have blocks; the others are opened when somebody asks for them.
StackCore::Space* StackCore::RestoreSpace(const Fingerprint& fingerprint, const StackState& state) {
  const auto number = space_numbers_.find(fingerprint);
  if (number != space_numbers_.end()) return &spaces_.at(number->second);
  for (const SpaceSpec& spec : state.spaces) {
    if (!(FingerprintOf(spec) == fingerprint)) continue;
    const auto root = writer_.AddRoot(last_space_ + 1);
    return root.ok() ? &AddSpace(spec, *root) : nullptr;
  }
  return nullptr;
}

// A record that contradicts the first one of its id is damage that its checksum did not show.
StackCore::FoundPlace StackCore::PlaceOf(std::span<const FoundBlock> blocks) {
  FoundPlace place{.header = blocks.front().header, .inner = InnerOf(blocks.front())};
  for (const FoundBlock& block : blocks) {
    const BlockHeader& header = *block.header;
    last_sequence_ = std::max(last_sequence_, header.sequence);
    if (&block != &blocks.front() &&
        (!IsOfOnePlace(header, *place.header) || InnerOf(block) != place.inner)) {
      ForgetBlock(block);
      ++stats_.corrupt_blocks;
      continue;
    }
    FoundPart& part = place.parts[block.part];
    (block.is_hot ? part.hot : block.page != 0 ? part.warm : part.cold) = &block;
    place.part_count = std::max<uint32_t>(place.part_count, block.part + 1u);
  }
  return place;
}

std::vector<Name> StackCore::InnerOf(const FoundBlock& block) const {
  if (block.header->inner_count == 0) return {};
  if (block.is_hot || block.page == 0) {
    return static_cast<const BlockRecord*>(block.header)->inner;
  }
  return host_->RecordAt(OffsetOf(block.page)).inner;
}

// All of a place or nothing: a part that its space does not have makes the place suspect.
bool StackCore::RestorePlace(Space& space, const FoundPlace& found) {
  if (found.part_count > space.part_count()) return false;
  for (uint32_t part = 0; part < found.part_count; ++part) {
    const auto& [warm, hot, cold] = found.parts[part];
    for (const FoundBlock* block : {warm, hot, cold}) {
      if (block == nullptr) continue;
      if (block->header->payload_bytes != space.spec.parts[part].block_bytes) return false;
    }
  }
  const auto place = RestorePath(space, found);
  if (!place) return false;
  const uint64_t id = found.header->id;
  PlaceState& state = places_.at(id);
  bool any_hot = false;
  bool any_warm = false;
  bool any_cold = false;
  bool complete = true;
  for (uint32_t part = 0; part < space.part_count(); ++part) {
    const auto& [warm, hot, cold] = found.parts[part];
    if (warm == nullptr && hot == nullptr && cold == nullptr) {
      complete = complete && space.window_blocks[part] != 0;
      continue;
    }
    const BlockHeader& header = *(warm != nullptr ? warm : hot != nullptr ? hot : cold)->header;
    const auto differs = [&](const FoundBlock* block) {
      return block != nullptr && block->header->payload_checksum != header.payload_checksum;
    };
    const bool stale = differs(cold);
    const bool has_hot = hot != nullptr && !differs(hot);
    if (differs(hot)) ForgetBlock(*hot);
    if (has_hot && warm != nullptr) hot_going_.insert({id, static_cast<uint16_t>(part)});
    state.parts[part].checksum = header.payload_checksum;
    state.parts[part].sequence = header.sequence;
    state.parts[part].adopted = warm != nullptr;
    const Word word = Word()
                          .WithWarmSlot(warm == nullptr ? 0 : warm->page)
                          .WithHotSlot(has_hot ? hot->page : 0)
                          .WithColdCopy(cold != nullptr && !stale);
    PublishWord(space, *place, part, word, header.payload_checksum);
    any_hot = any_hot || has_hot;
    any_warm = any_warm || warm != nullptr;
    any_cold = any_cold || word.cold_copy();
    if (stale) QueueErasure(id, part);
  }
  feed_->Add(id, found.header->parent_id, any_warm, any_cold);
  if (any_hot) hot_policy_->Insert(id, found.header->parent_id);
  if (!complete) NoteIncomplete(id);
  return true;
}

// The place of a block, and the inner ones before it where no other block has brought them: they
// hold no bytes and get new ids.
std::optional<Place> StackCore::RestorePath(Space& space, const FoundPlace& found) {
  const BlockHeader& header = *found.header;
  if (found.inner.size() != space.inner_count()) return std::nullopt;
  if ((header.depth + 1) % space.block_places != 0) return std::nullopt;
  Place at = Writer::RootPlace(space.root);
  if (header.parent_id != 0) {
    const auto parent = writer_.PlaceOf(header.parent_id);
    if (!parent || writer_.RootOf(*parent) != space.root) return std::nullopt;
    at = *parent;
  }
  if (writer_.Depth(at) + found.inner.size() != header.depth) return std::nullopt;
  for (const Name& name : found.inner) {
    if (const auto there = writer_.FindNext(at, name)) {
      at = *there;
      continue;
    }
    const auto place = Append(space, at, name, ++last_id_);
    if (!place.ok()) return std::nullopt;
    NoteIncomplete(last_id_);  // until something stands behind it
    at = *place;
  }
  auto place = Append(space, at, header.name, header.id);
  if (absl::IsAlreadyExists(place.status())) {
    Uproot(*writer_.FindNext(at, header.name));
    place = Append(space, at, header.name, header.id);
  }
  if (!place.ok()) return std::nullopt;
  return *place;
}

// Of two places with one name the later one stays: the earlier had left the tree, with all that
// stood behind it, before the later came. What is left of it was not erased yet.
void StackCore::Uproot(Place first) {
  feed_->Finish();
  std::vector<Place> places = {first};
  writer_.VisitSubtree(first, [&](Place place) { places.push_back(place); });
  for (; !places.empty(); places.pop_back()) {  // nothing before what stands behind it
    const Place place = places.back();
    const uint64_t id = writer_.IdOf(place);
    for (uint32_t part = 0; part < places_.at(id).parts.size(); ++part) {
      Movement move{.place = place, .part = part};
      if (writer_.BeginMove({&move, 1}) == 0) continue;  // no bytes: nothing is pinned yet
      if (move.before.warm_slot() != 0) ForgetSlot(OffsetOf(move.before.warm_slot()));
      ChangeWord(id, place, part, move.before.WithWarmSlot(0));
    }
    for (const Dropped& dropped : writer_.Drop({&place, 1}).dropped) Forget(dropped);
  }
}

// What has no place in this epoch may still be read by leases of the last one.
void StackCore::ForgetSlot(uint64_t offset) {
  host_->Disown(offset);
  forgotten_.push_back(offset);
}

void StackCore::ForgetBlock(const FoundBlock& block) {
  if (block.is_hot) {
    ForgetHotSlot(block.page);
  } else if (block.page != 0) {
    ForgetSlot(OffsetOf(block.page));
  } else {
    erasures_.push_back({block.id, block.part});
  }
}

// Its parent or its space is not there, for lack of a copy or of the state file: it is lost, which
// is no damage.
void StackCore::ForgetPlace(const FoundPlace& place) {
  for (uint32_t part = 0; part < place.part_count; ++part) {
    const auto& [warm, hot, cold] = place.parts[part];
    if (warm != nullptr) ForgetBlock(*warm);
    if (hot != nullptr) ForgetBlock(*hot);
    if (cold != nullptr) ForgetBlock(*cold);
    hot_counters_.evictions += hot != nullptr ? 1 : 0;
    warm_counters_.evictions += warm != nullptr ? 1 : 0;
    cold_counters_.evictions += cold != nullptr ? 1 : 0;
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
  if (CheckPinQuotas({}).ok()) return;
  LogEvent(LogLevel::kWarning, "pins_over_quota",
           {{"tenant", options_.name},
            {"warm_bytes", pinned_.warm},
            {"cold_bytes", pinned_.cold},
            {"pin_quota", options_.pin_quota_percent}});
}

}  // namespace thermocline
