#include <algorithm>
#include <utility>

#include "client/client.h"
#include "client/core.h"
#include "client/lease_rep.h"
#include "client/wire.h"

namespace thermocline {
inline namespace client_v1 {

absl::Status CheckPart(const SpaceSpec& spec, uint32_t part) {
  if (part < spec.parts.size()) return absl::OkStatus();
  return absl::InvalidArgumentError("part " + std::to_string(part) + " of a space with " +
                                    std::to_string(spec.parts.size()));
}

Reservation::Reservation(std::shared_ptr<Connection> connection, uint32_t part, uint64_t offset,
                         uint64_t grant, uint64_t bytes, std::optional<uint64_t> staged_at,
                         std::shared_ptr<std::byte> device)
    : connection_(std::move(connection)),
      part_(part),
      offset_(offset),
      grant_(grant),
      bytes_(bytes),
      staged_at_(staged_at),
      device_(std::move(device)) {
  if (device_ == nullptr) connection_->HoldSlot(offset_, bytes_);
}

Reservation::Reservation(Reservation&&) noexcept = default;

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  if (this != &other) {
    GiveBack();
    connection_ = std::move(other.connection_);
    part_ = other.part_;
    offset_ = other.offset_;
    grant_ = other.grant_;
    bytes_ = other.bytes_;
    staged_at_ = other.staged_at_;
    device_ = std::move(other.device_);
  }
  return *this;
}

Reservation::~Reservation() { GiveBack(); }

void Reservation::GiveBack() {
  if (connection_ == nullptr) return;
  connection_->QueueAbort({offset_, grant_});
  Unstage();
  Use();
}

void Reservation::Unstage() {
  if (staged_at_ && !connection_->Forked()) connection_->staging().Give(*staged_at_);
  staged_at_.reset();
}

void Reservation::Use() {
  if (device_ == nullptr) connection_->DropSlot(offset_);
  device_.reset();
  connection_.reset();
}

std::span<std::byte> Reservation::device_bytes() const {
  if (connection_ == nullptr || connection_->Forked() || device_ == nullptr) return {};
  return {device_.get(), bytes_};
}

std::span<std::byte> Reservation::bytes() const {
  if (connection_ == nullptr || connection_->Forked() || device_ != nullptr) return {};
  if (staged_at_) return {connection_->staging().At(*staged_at_), bytes_};
  return connection_->Bytes(offset_, bytes_);
}

const SpaceSpec& Space::spec() const { return state_->spec; }
Fingerprint Space::fingerprint() const { return state_->fingerprint; }

absl::StatusOr<Lease> Space::Match(NamesView names, Timeout timeout) const {
  TC_RETURN_IF_ERROR(CheckNames(state_->spec, names));
  const Deadline deadline = state_->core->DeadlineOf(timeout);
  auto rep = std::make_unique<Lease::Rep>();
  TC_ASSIGN_OR_RETURN(rep->connection, state_->core->Get(deadline));
  rep->space = state_;
  AppendNames(state_->spec, names, names.places(), rep->names);
  TC_RETURN_IF_ERROR(rep->Acquire(deadline));
  return Lease(std::move(rep));
}

absl::StatusOr<std::vector<Reservation>> Space::Reserve(uint32_t count, uint32_t part,
                                                        std::chrono::milliseconds wait,
                                                        Timeout timeout) const {
  TC_RETURN_IF_ERROR(CheckPart(state_->spec, part));
  if (count == 0) return std::vector<Reservation>();
  const Deadline deadline = state_->core->DeadlineOf(timeout) + wait;
  TC_ASSIGN_OR_RETURN(const auto connection, state_->core->Get(deadline));
  const uint64_t bytes = state_->spec.parts[part].block_bytes;
  TC_ASSIGN_OR_RETURN(const std::vector<Magazine::Slot> granted,
                      state_->CallIn(*connection, deadline, [&](Root root) {
                        return connection->TakeSlots({root.tag, part, bytes},
                                                     std::min(count, kMaxReserve), wait, deadline);
                      }));
  std::vector<Reservation> slots;
  for (const Magazine::Slot& slot : granted) {
    std::optional<uint64_t> staged_at;
    if (connection->staging().there()) {
      staged_at = connection->staging().Take(bytes);
      if (!staged_at) {
        connection->QueueAbort(slot);
        continue;
      }
    }
    slots.push_back(Reservation(connection, part, slot.offset, slot.grant, bytes, staged_at));
  }
  if (slots.empty()) {
    return absl::ResourceExhaustedError(
        "this session's staging memory is full of what it has reserved or committed; settle what "
        "was enqueued, or go on uncached");
  }
  return slots;
}

absl::StatusOr<PinInfo> Space::Pin(NamesView names, std::chrono::milliseconds ttl, BlockTier tier,
                                   Timeout timeout) const {
  TC_RETURN_IF_ERROR(CheckNames(state_->spec, names));
  if (ttl.count() <= 0) return absl::InvalidArgumentError("a pin's time to live must be positive");
  const Deadline deadline = state_->core->DeadlineOf(timeout);
  TC_ASSIGN_OR_RETURN(const auto connection, state_->core->Get(deadline));
  v1::PinRequest request;
  *request.mutable_names() = ToWire(names);
  request.set_ttl_ms(static_cast<uint64_t>(ttl.count()));
  request.set_tier(ToWire(tier));
  const int64_t now_ms = std::chrono::duration_cast<std::chrono::milliseconds>(
                             std::chrono::system_clock::now().time_since_epoch())
                             .count();
  const auto response = state_->CallIn(*connection, deadline, [&](Root root) {
    request.set_space(root.tag);
    return connection->calls().Pin(request, deadline);
  });
  if (!response.ok()) return connection->Explain(response.status());
  return PinInfo{.pin = response->pin(),
                 .space = state_->fingerprint,
                 .depth = response->depth(),
                 .expires_unix_ms = now_ms + ttl.count(),
                 .tier = tier};
}

absl::StatusOr<PrefetchInfo> Space::Prefetch(NamesView names, Timeout timeout) const {
  TC_RETURN_IF_ERROR(CheckNames(state_->spec, names));
  const Deadline deadline = state_->core->DeadlineOf(timeout);
  TC_ASSIGN_OR_RETURN(const auto connection, state_->core->Get(deadline));
  v1::PrefetchRequest request;
  *request.mutable_names() = ToWire(names);
  const auto response = state_->CallIn(*connection, deadline, [&](Root root) {
    request.set_space(root.tag);
    return connection->calls().Prefetch(request, deadline);
  });
  if (!response.ok()) return connection->Explain(response.status());
  return PrefetchInfo{.matched_depth = response->matched_depth(),
                      .promoting_blocks = response->promoting_blocks()};
}

}  // namespace client_v1
}  // namespace thermocline
