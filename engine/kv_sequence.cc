#include "engine/kv_sequence.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "engine/transformer.h"

namespace thermocline {
namespace {

// Slots asked for at once: enough that a long prompt costs few messages, few enough that one prompt
// does not empty the daemon's reserve of free slots.
constexpr size_t kReserveAtOnce = 64;
// A prefill may wait for the daemon to demote something; it costs less than computing the same
// blocks again next time.
constexpr std::chrono::milliseconds kReserveWait{20};
// What each block to load from disk or to sum, and each to publish, adds to what a call may take.
constexpr std::chrono::milliseconds kLoadTimeout{50};
constexpr std::chrono::milliseconds kCommitTimeout{5};
constexpr std::chrono::milliseconds kLastBackoff{60'000};
constexpr const char* kLayout = "lkht.v1";  // kernels/kv_geometry.h

}  // namespace

SpaceSpec SpaceOf(const ModelConfig& config, const KvGeometry& geometry, const Sha256& weights,
                  std::string_view numerics) {
  SpaceSpec spec;
  spec.model = config.architecture + " by thermocline-engine, numerics " +
               (numerics.empty() ? std::to_string(kNumericsVersion) : std::string(numerics));
  std::copy(weights.begin(), weights.end(), spec.weights_sha256.begin());
  spec.kv_dtype = KvDtypeName(geometry.dtype);
  spec.layers = config.layers;
  spec.kv_heads = config.kv_heads;
  spec.head_dim = config.head_dim;
  spec.block_tokens = geometry.block_tokens;
  spec.parts = {{.name = "layers 0-" + std::to_string(config.layers - 1),
                 .block_bytes = geometry.block_bytes()}};
  spec.layout = kLayout;
  spec.rope = std::string(config.rope_layout == RopeLayout::kHalves ? "halves" : "adjacent") +
              " base=" + std::to_string(config.rope_base);
  return spec;
}

BlockLayout LayoutOf(const KvGeometry& geometry) {
  return {.kv_dtype = KvDtypeName(geometry.dtype),
          .layout = kLayout,
          .block_tokens = static_cast<uint32_t>(geometry.block_tokens),
          .block_bytes = {geometry.block_bytes()}};
}

size_t KvSequence::Begin(std::span<const int32_t> ids) {
  Clear();
  cached_by_tier_.clear();
  uncached_blocks_ = losses_ = 0;
  if (!space_ || ids.empty()) return 0;
  if (silent_ && std::chrono::steady_clock::now() < retry_at_) return 0;
  const auto wanted = ids.first(ids.size() - 1);
  absl::StatusOr<Lease> lease =
      device_ ? space_->MatchOnDevice(wanted, device_->layout, patience_.first)
              : space_->Match(wanted, patience_.first);
  if (!Heard(lease.status()).ok()) return 0;
  lease_.emplace(*std::move(lease));
  if (!lease_->Load({}, patience_.first + lease_->blocks().size() * kLoadTimeout).ok()) {
    lease_.reset();
    return 0;
  }
  for (size_t i = 0; i < leased(); ++i) {
    std::span<const std::byte> bytes = lease_->View(i);
    const bool is_hot = bytes.empty() && device_;
    if (is_hot) bytes = lease_->DeviceView(i);
    if (bytes.empty()) break;  // damaged, and depth() says so now
    if (device_) on_device_.push_back(is_hot ? 1 : 0);
    pointers_.push_back(const_cast<std::byte*>(bytes.data()));
    cached_by_tier_[BlockTierName(lease_->Find(i)->matched_tier)] += kBlockTokens;
  }
  TC_CHECK(pointers_.size() == leased());
  return pointers_.size() * kBlockTokens;
}

absl::Status KvSequence::Extend(size_t tokens) {
  const size_t needed = BlocksOf(tokens);
  while (pointers_.size() < needed && lease_ && private_count_ == 0 && !silent_) {
    const auto count = static_cast<uint32_t>(std::min(needed - pointers_.size(), kReserveAtOnce));
    auto slots =
        space_->Reserve(count, 0, kReserveWait, count > 1 ? patience_.first : patience_.call);
    if (!Heard(slots.status()).ok()) break;  // full, silent or gone: private pages from here on
    for (Reservation& slot : *slots) {
      pointers_.push_back(slot.bytes().data());
      reserved_.push_back(std::move(slot));
    }
  }
  while (pointers_.size() < needed) {
    TC_ASSIGN_OR_RETURN(std::byte * page, pages_.Allocate());
    pointers_.push_back(page);
    ++private_count_;
    if (space_ && losses_ == 0) ++uncached_blocks_;
  }
  return absl::OkStatus();
}

void KvSequence::Commit(std::span<const int32_t> computed) {
  if (!lease_ || lost_) return;
  TakeUp();
  const size_t begin = pointers_.size() - private_count_ - reserved_.size();
  const size_t end = std::min(computed.size() / kBlockTokens, pointers_.size() - private_count_);
  // To a daemon that is gone nothing can be given; Intact() keeps what would be lost with the
  // slots.
  if (lost_ || end <= begin || !Reachable()) return;
  const auto cut = reserved_.begin() + static_cast<ptrdiff_t>(end - begin);
  std::vector<Reservation> slots(std::make_move_iterator(reserved_.begin()),
                                 std::make_move_iterator(cut));
  reserved_.erase(reserved_.begin(), cut);
  const auto names = computed.subspan(begin * kBlockTokens, (end - begin) * kBlockTokens);
  const auto timeout = patience_.call + slots.size() * kCommitTimeout;
  if (!Heard(lease_->CommitAsync(names, std::move(slots), timeout)).ok()) {
    lost_ = true;
    return;
  }
  if (enqueued_ == 0) enqueued_at_ = std::chrono::steady_clock::now();
  enqueued_ += end - begin;
  TakeUp();  // a lease that is held by message has waited
}

void KvSequence::Settle() {
  if (enqueued_ == 0 || lost_ || !Reachable()) return;
  const absl::Status settled = Heard(lease_->Settle(patience_.call));
  if (settled.ok()) TakeUp();
  lost_ = lost_ || (!settled.ok() && !absl::IsDeadlineExceeded(settled));
}

void KvSequence::TakeUp() {
  if (enqueued_ == 0) return;
  const size_t begin = pointers_.size() - private_count_ - reserved_.size() - enqueued_;
  if (!lease_->Settled()) {
    const bool late = std::chrono::steady_clock::now() > enqueued_at_ + patience_.call;
    if (late) Heard(absl::DeadlineExceededError("what was committed has no answer")).IgnoreError();
    return;
  }
  enqueued_ = 0;
  lost_ = !Heard(lease_->Settle(patience_.call)).ok();
  // Where another client was first, the block is another one, of the same bytes.
  for (size_t i = begin; i < leased() && !lost_; ++i) {
    const std::span<const std::byte> bytes = lease_->View(i);
    lost_ = bytes.empty();
    pointers_[i] = const_cast<std::byte*>(bytes.data());
  }
}

bool KvSequence::Intact() {
  if (!lease_) return true;
  if (lost_ || !lease_->StillValid()) return false;
  TakeUp();
  if (lost_) return false;
  // While the lease still lasts, a lost daemon costs a copy and no computing.
  return Reachable() || Detach();
}

absl::Status KvSequence::Heard(absl::Status status) {
  if (!absl::IsDeadlineExceeded(status)) {
    silent_ = false;
    backoff_ = {};
    return status;
  }
  backoff_ = std::clamp(backoff_ * 2, patience_.backoff, kLastBackoff);
  retry_at_ = std::chrono::steady_clock::now() + backoff_;
  const bool told = std::exchange(silent_, true);
  if (!told && on_silence_) on_silence_(status);
  return status;
}

size_t KvSequence::Recover() {
  if (lost_) {  // its slots are gone, what was leased before may still be right
    FreePrivate();
    pointers_.resize(leased());
    on_device_.resize(std::min(on_device_.size(), leased()));
    reserved_.clear();
    enqueued_ = 0;
    lost_ = false;
  }
  if (Detach()) return pointers_.size() * kBlockTokens;
  Clear();
  ++losses_;
  return 0;
}

absl::Status KvSequence::CopyBlock(std::byte* to, size_t block) const {
  const uint64_t bytes = pages_.geometry().block_bytes();
  if (block < on_device_.size() && on_device_[block] != 0) {
    return device_->copy_off(to, pointers_[block], bytes);
  }
  std::memcpy(to, pointers_[block], bytes);
  return absl::OkStatus();
}

bool KvSequence::Detach() {
  if (!lease_) return true;
  std::vector<std::byte*> copies;
  size_t whole = 0;
  const size_t shared = pointers_.size() - private_count_;
  for (size_t i = 0; i < shared; ++i) {
    absl::StatusOr<std::byte*> page = pages_.Allocate();
    if (!page.ok()) break;
    copies.push_back(*page);
    if (!CopyBlock(*page, i).ok()) break;
    ++whole;
  }
  if (whole < shared || !lease_->StillValid()) {
    for (std::byte* page : copies) pages_.Free(page);
    return false;
  }
  std::copy(copies.begin(), copies.end(), pointers_.begin());
  private_count_ = pointers_.size();
  on_device_.clear();
  lease_.reset();  // what was enqueued is published all the same
  reserved_.clear();
  enqueued_ = 0;
  ++losses_;
  return true;
}

void KvSequence::FreePrivate() {
  for (; private_count_ > 0; --private_count_) {
    pages_.Free(pointers_.back());
    pointers_.pop_back();
  }
}

void KvSequence::Clear() {
  FreePrivate();
  pointers_.clear();
  on_device_.clear();
  reserved_.clear();
  enqueued_ = 0;
  lease_.reset();
  lost_ = false;
}

}  // namespace thermocline
