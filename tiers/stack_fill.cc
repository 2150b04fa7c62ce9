// Slots of the device's memory that clients fill themselves, by streams of their own. What is
// reserved is the client's until it is committed or given back; where its process may still write
// there, until that has ended: a kernel that was launched writes on, whoever has lost its session.
//
// Nobody publishes what nobody has summed. So a commit has its slots read down once, through the
// device's mover, and the block that other clients then find in the hot tier is as good as one that
// went there from memory; but there is no other copy of it before it leaves the device.
#include <algorithm>

#include "base/log.h"
#include "tiers/stack_core.h"

namespace thermocline {
namespace {

constexpr uint64_t kFillShare = 2;                        // of the hot tier, what clients may fill
constexpr std::chrono::milliseconds kFillPause{100};      // before one is tried again
constexpr std::chrono::milliseconds kFillPatience{2000};  // with a device that lends no memory

uint64_t FillShare(const DeviceTier& hot) { return hot.Usage().capacity_bytes / kFillShare; }

absl::Status Refusal(const std::string& why) {
  return absl::ResourceExhaustedError("no slot of the device's memory can be had: " + why +
                                      "; fill one of the arena instead (Reserve)");
}

}  // namespace

uint32_t StackCore::PageOf(uint64_t device_slot) {
  return static_cast<uint32_t>((device_slot - kDeviceSlots) / kPageBytes) + DeviceTier::kFirstPage;
}

uint64_t StackCore::FillBytes(uint64_t device_slot) const {
  return hot_->SlotBytesAt(PageOf(device_slot));
}

SlabPlace StackCore::PlaceOnDevice(uint64_t offset) const {
  const DeviceTier::Location location = hot_->LocationOf(PageOf(offset));
  return {location.slab, location.offset};
}

/// Of a slot that was reserved, and that nobody writes any more.
void StackCore::FreeSlot(uint64_t offset) {
  if (!IsDeviceSlot(offset)) return host_->Free(offset);
  if (const auto read = fills_.summing.find(offset); read != fills_.summing.end()) {
    read->second = true;
    return;
  }
  fills_.bytes -= FillBytes(offset);
  hot_->Free(PageOf(offset));
}

// ---- reserving

void StackCore::ReserveOnDevice(ClientNumber number, uint32_t space, uint16_t part, uint32_t count,
                                std::chrono::milliseconds wait, ReserveCallback done,
                                uint64_t grant) {
  const auto bytes = CheckReserve(number, space, part, count);
  absl::Status status = bytes.status();
  uint64_t most = 0;
  if (status.ok() && !options_.clients_fill) {
    status = absl::PermissionDeniedError(
        "this tenant's clients may not write where its blocks lie (commit = \"copy\"), and there "
        "is no staging memory on a device; fill slots of the arena (Reserve)");
  } else if (status.ok() && hot_ == nullptr) {
    status = Refusal(options_.open_hot ? HotState() : "the hot tier is off");
  } else if (status.ok()) {
    most = FillShare(*hot_) / SlabAllocator::SlotBytes(*bytes);
    if (most == 0) status = Refusal("a block takes more than clients may fill of the hot tier");
  }
  if (!status.ok()) {
    return PostStrand([done = std::move(done), status](StackCore&) { done(status); });
  }
  wait = std::max(wait, std::chrono::milliseconds(0));
  fills_.waiters.emplace(++fills_.last_waiter,
                         FillWaiter{.client = number.value,
                                    .space = space,
                                    .part = part,
                                    .bytes = *bytes,
                                    .count = static_cast<uint32_t>(std::min<uint64_t>(count, most)),
                                    .grant = grant,
                                    .deadline = options_.clock->Now() + wait,
                                    .done = std::move(done),
                                    .tried = {},
                                    .slots = {}});
  SchedulePump();
}

/// Answers those for whom it is too late, and tries for the first of the others for whom there may
/// be room.
void StackCore::ServeFills() {
  const SteadyTime now = options_.clock->Now();
  for (auto next = fills_.waiters.begin(); next != fills_.waiters.end();) {
    const uint64_t number = next->first;
    FillWaiter& waiter = next->second;
    ++next;
    const bool is_tried = number == fills_.reserving ? now >= *waiter.tried + kFillPatience
                                                     : waiter.tried.has_value();
    if (closing_) {
      AnswerFill(number, absl::UnavailableError("the daemon is shutting down"));
    } else if (!hot_moves_.Allows()) {
      AnswerFill(number, Refusal(HotState()));
    } else if (now >= waiter.deadline && is_tried) {
      AnswerFill(number, Refusal("the hot tier is full of blocks in use"));
    } else if (fills_.reserving == 0) {
      TryFill(number, waiter);
    }
  }
}

/// With what it has, or, if that is nothing, with why.
void StackCore::AnswerFill(uint64_t number, const absl::Status& why) {
  FillWaiter waiter = std::move(fills_.waiters.extract(number).mapped());
  for (const uint64_t offset : waiter.slots) {
    ++fills_.reserved;
    reservations_[offset] = {waiter.client, waiter.space, waiter.part, waiter.bytes, waiter.grant};
  }
  if (!waiter.slots.empty()) return waiter.done(std::move(waiter.slots));
  ++stats_.refused_reserves;
  waiter.done(why);
}

void StackCore::TryFill(uint64_t number, FillWaiter& waiter) {
  const SteadyTime now = options_.clock->Now();
  if (waiter.tried && now < *waiter.tried + kFillPause) return;
  waiter.tried = now;
  const uint64_t slot_bytes = SlabAllocator::SlotBytes(waiter.bytes);
  const uint64_t share = FillShare(*hot_);
  const uint64_t allowed = share > fills_.bytes ? (share - fills_.bytes) / slot_bytes : 0;
  const uint64_t count = std::min<uint64_t>(waiter.count - waiter.slots.size(), allowed);
  const uint64_t free = hot_->FreeSlots(waiter.bytes);
  if (count == 0) return;
  // In the grace period no slot comes free.
  if (free < count && !grace_) {
    SettleHot();
    std::vector<BlockRef> rising;
    EvictHot(count - free, rising);
  }
  fills_.reserving = number;
  options_.hot([hot = hot_, owner = clients_.at(waiter.client).process, bytes = waiter.bytes, count,
                inner = spaces_.at(waiter.space).inner_count(), strand = options_.strand,
                weak = std::weak_ptr<StackCore*>(self_), number] {
    std::vector<uint32_t> pages;
    absl::Status status;
    for (bool is_emptied = false; pages.size() < count;) {
      const auto page = hot->Reserve(bytes, owner, inner);
      status = page.status();
      if (!page.ok()) break;
      if (*page) {
        pages.push_back(**page);
      } else if (!pages.empty() || std::exchange(is_emptied, true)) {
        break;
      } else {
        hot->ReturnEmptyChunks();  // those of other sizes
      }
    }
    strand([weak, number, pages = std::move(pages), status] {
      if (const auto self = weak.lock()) (*self)->FinishReserving(number, pages, status);
    });
  });
}

void StackCore::FinishReserving(uint64_t number, const std::vector<uint32_t>& pages,
                                const absl::Status& status) {
  fills_.reserving = 0;
  SchedulePump();
  if (absl::IsUnavailable(status)) FailHot(status);
  const auto found = fills_.waiters.find(number);
  if (found == fills_.waiters.end()) {  // nobody has heard of them
    for (const uint32_t page : pages) hot_->Free(page);
    return;
  }
  FillWaiter& waiter = found->second;
  for (const uint32_t page : pages) {
    const uint64_t offset = kDeviceSlots + DeviceTier::OffsetOf(page);
    waiter.slots.push_back(offset);
    fills_.bytes += FillBytes(offset);
  }
  const bool is_hopeless = !status.ok() && !absl::IsResourceExhausted(status);
  if (waiter.slots.size() == waiter.count || is_hopeless) {
    AnswerFill(number, Refusal(std::string(status.message())));
  }
}

// Of a session that has ended.
void StackCore::CancelFills(uint32_t client) {
  for (auto next = fills_.waiters.begin(); next != fills_.waiters.end();) {
    if (next->second.client != client) {
      ++next;
      continue;
    }
    for (const uint64_t offset : next->second.slots) FreeSlot(offset);  // it has not heard of them
    PostStrand([done = std::move(next->second.done)](StackCore&) {
      done(absl::CancelledError("the session has ended"));
    });
    next = fills_.waiters.erase(next);
  }
}

// ---- summing

void StackCore::SumOnDevice(ClientNumber client, std::vector<uint64_t> offsets, SumsCallback done) {
  std::vector<FillSum> sums;
  const absl::Status status = [&]() -> absl::Status {
    for (const uint64_t offset : offsets) {
      TC_ASSIGN_OR_RETURN(const uint64_t bytes, ReservedBytes(client, offset));
      if (!IsDeviceSlot(offset)) {
        return absl::InvalidArgumentError("a slot of the arena is none of the device's");
      }
      if (fills_.summing.contains(offset)) {
        return absl::FailedPreconditionError("a slot is being committed already");
      }
      sums.push_back({.offset = offset, .page = PageOf(offset), .bytes = bytes});
    }
    if (hot_moves_.Allows()) return absl::OkStatus();
    return absl::ResourceExhaustedError("what was filled on the device cannot be read (" +
                                        HotState() + "); go on uncached");
  }();
  if (!status.ok()) {
    return PostStrand([done = std::move(done), status](StackCore&) { done(status); });
  }
  for (const FillSum& sum : sums) fills_.summing.emplace(sum.offset, false);
  hot_moves_.Try();
  options_.hot([hot = hot_, sums = std::move(sums), strand = options_.strand,
                weak = std::weak_ptr<StackCore*>(self_), done = std::move(done)]() mutable {
    absl::Status read;
    for (FillSum& sum : sums) {
      const auto summed = hot->SumSlot(sum.page, sum.bytes);
      read = summed.status();
      if (!read.ok()) break;
      sum.checksum = *summed;
    }
    strand([weak, sums = std::move(sums), read, done = std::move(done)] {
      if (const auto self = weak.lock()) (*self)->FinishSumming(sums, read, done);
    });
  });
}

void StackCore::FinishSumming(const std::vector<FillSum>& sums, const absl::Status& read,
                              const SumsCallback& done) {
  std::vector<uint64_t> checksums;
  for (const FillSum& sum : sums) {
    checksums.push_back(sum.checksum);
    if (fills_.summing.extract(sum.offset).mapped()) FreeSlot(sum.offset);
  }
  SchedulePump();
  if (read.ok()) {
    hot_moves_.Succeeded();
    return done(std::move(checksums));
  }
  FailHot(read);
  done(absl::ResourceExhaustedError("what was filled on the device could not be read (" +
                                    std::string(read.message()) + "); go on uncached"));
}

}  // namespace thermocline
