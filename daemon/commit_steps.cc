#include "daemon/commit_steps.h"

#include <algorithm>
#include <string>
#include <utility>

#include "hashing/checksum.h"

namespace thermocline {

absl::StatusOr<CommitSteps> CommitSteps::Of(const v1::CommitRequest& request) {
  TC_RETURN_IF_ERROR(CheckCount("items", static_cast<size_t>(request.items_size())));
  TC_ASSIGN_OR_RETURN(WireNames names, NamesOf(request.names()));
  std::vector<uint64_t> offsets;
  for (const v1::CommitItem& item : request.items()) {
    offsets.push_back(item.offset());
    if (item.part() < kMaxParts) continue;
    return absl::InvalidArgumentError("part " + std::to_string(item.part()) +
                                      " of a block; parts are below " + std::to_string(kMaxParts));
  }
  // Each is summed or copied, whatever comes of it: no small request may ask for much of that.
  std::sort(offsets.begin(), offsets.end());
  if (std::adjacent_find(offsets.begin(), offsets.end()) != offsets.end()) {
    return absl::InvalidArgumentError("a slot is named twice in one commit; reserve one for each");
  }
  CommitSteps steps(request, std::move(names));
  if (offsets.empty()) return steps;
  steps.on_device_ = IsDeviceSlot(offsets.back());
  if (steps.on_device_ == IsDeviceSlot(offsets.front())) return steps;
  return absl::InvalidArgumentError(
      "the slots of one commit are of the arena or of the device's memory, not of both; send two");
}

absl::Status CommitSteps::Find(TenantView& tenant, uint64_t session, ClientNumber client,
                               std::shared_ptr<RemoteWork> remote) {
  TC_RETURN_IF_ERROR(tenant.CheckOffered(session, offsets()));
  staging_ = tenant.sessions.at(session).staging;
  if (remote != nullptr) {
    TC_ASSIGN_OR_RETURN(in_hand_, SlotsInHand::Take(remote, offsets()));
  }
  for (const v1::CommitItem& item : request_->items()) {
    TC_ASSIGN_OR_RETURN(const uint64_t bytes, tenant.stack->ReservedBytes(client, item.offset()));
    // What lay there before is none of this client's business.
    if (remote != nullptr && !remote->Filled(item.offset(), bytes)) {
      return absl::FailedPreconditionError("the slot at offset " + std::to_string(item.offset()) +
                                           " was not filled whole; send its " +
                                           std::to_string(bytes) + " bytes with Write first");
    }
    if (staging_ == nullptr && !on_device_)
      payloads_.push_back(tenant.stack->SlotPayload(item.offset(), bytes));
    items_.push_back({.offset = item.offset(),
                      .part = static_cast<uint16_t>(item.part()),
                      .depth = item.depth(),
                      .keep_slot = item.keep_slot(),
                      .grant = item.grant()});
  }
  return absl::OkStatus();
}

uint64_t CommitSteps::payload_bytes() const {
  uint64_t bytes = 0;
  for (const std::span<const std::byte> payload : payloads_) bytes += payload.size();
  return bytes;
}

absl::Status CommitSteps::Sum() {
  for (size_t i = 0; i < payloads_.size(); ++i) {
    items_[i].checksum = Checksum(payloads_[i]);
    TC_RETURN_IF_ERROR(CheckSum(i));
  }
  return absl::OkStatus();
}

absl::Status CommitSteps::TakeSums(std::span<const uint64_t> checksums) {
  for (size_t i = 0; i < checksums.size(); ++i) {
    items_[i].checksum = checksums[i];
    TC_RETURN_IF_ERROR(CheckSum(i));
  }
  return absl::OkStatus();
}

absl::Status CommitSteps::CheckSum(size_t item) const {
  const uint64_t claimed = request_->items(static_cast<int>(item)).checksum();
  if (claimed == 0 || claimed == items_[item].checksum) return absl::OkStatus();
  return absl::DataLossError("the slot at offset " + std::to_string(items_[item].offset) +
                             " does not hold what its checksum claims; it was written after it "
                             "was summed, or by somebody else");
}

absl::Status CommitSteps::CopyStaged(TenantView& tenant, ClientNumber client) {
  for (size_t i = 0; i < items_.size(); ++i) {
    CommitItem& item = items_[i];
    TC_ASSIGN_OR_RETURN(const uint64_t bytes, tenant.stack->ReservedBytes(client, item.offset));
    const uint64_t at = request_->items(static_cast<int>(i)).staged_at();
    const auto source = staging_->Piece(at, bytes);
    if (!source) {
      return absl::InvalidArgumentError(
          "what is staged at " + std::to_string(at) +
          " does not lie in the session's staging memory; stage it in a "
          "piece of its own");
    }
    item.checksum = CopyAndChecksum(tenant.stack->SlotPayload(item.offset, bytes), *source);
    TC_RETURN_IF_ERROR(CheckSum(i));
  }
  return absl::OkStatus();
}

absl::StatusOr<LeaseView> CommitSteps::Publish(TenantView& tenant, ClientNumber client,
                                               const std::optional<PinnedEnd>& end) {
  const auto with_end = [&](auto&& call) { return end ? call(*end) : call(request_->lease()); };
  if (staging_ != nullptr) {
    // A commit that will be refused is not worth the copies.
    TC_RETURN_IF_ERROR(with_end([&](const auto& at) {
      return tenant.stack->CheckCommit(client, at, names_.names, items_);
    }));
    TC_RETURN_IF_ERROR(CopyStaged(tenant, client));
  }
  return with_end(
      [&](const auto& at) { return tenant.stack->Commit(client, at, names_.names, items_); });
}

std::vector<GrantedSlot> CommitSteps::slots() const {
  std::vector<GrantedSlot> slots;
  for (const v1::CommitItem& item : request_->items()) {
    slots.push_back({.offset = item.offset(), .grant = item.grant()});
  }
  return slots;
}

std::vector<uint64_t> CommitSteps::offsets() const {
  std::vector<uint64_t> offsets;
  for (const v1::CommitItem& item : request_->items()) offsets.push_back(item.offset());
  return offsets;
}

}  // namespace thermocline
