// Hot blocks where they lie. A path with such blocks is leased by message: the daemon keeps their
// slots for as long, tells in which slab of the device's memory each lies, and hands the slab over
// when it is first needed. What cannot be mapped is brought to memory, as for any other client.
#include <algorithm>
#include <utility>

#include "client/lease_rep.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

absl::Status Mismatch(const std::string& what, const std::string& ours, const std::string& theirs) {
  return absl::InvalidArgumentError("the blocks of this space have " + what + " " + ours +
                                    ", and who would read them on the device expects " + theirs +
                                    "; open a space of that layout");
}

absl::Status CheckLayout(const SpaceSpec& spec, const BlockLayout& expected) {
  if (spec.kv_dtype != expected.kv_dtype) {
    return Mismatch("values of type", spec.kv_dtype, expected.kv_dtype);
  }
  if (spec.layout != expected.layout) return Mismatch("the layout", spec.layout, expected.layout);
  if (spec.block_tokens != expected.block_tokens) {
    return Mismatch("so many tokens:", std::to_string(spec.block_tokens),
                    std::to_string(expected.block_tokens));
  }
  if (spec.parts.size() != expected.block_bytes.size()) {
    return Mismatch("so many parts:", std::to_string(spec.parts.size()),
                    std::to_string(expected.block_bytes.size()));
  }
  for (size_t part = 0; part < spec.parts.size(); ++part) {
    if (spec.parts[part].block_bytes == expected.block_bytes[part]) continue;
    return Mismatch("so many bytes in part " + std::to_string(part) + ":",
                    std::to_string(spec.parts[part].block_bytes),
                    std::to_string(expected.block_bytes[part]));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status NoDevice() {
  return absl::FailedPreconditionError(
      "this client has no device; set ClientOptions::device (client/device_cuda.h)");
}

bool Lease::Rep::InPlace(size_t index, Deadline deadline) {
  Source& source = sources[index];
  if (!on_device || source.slab == 0) return false;
  if (source.mapped == nullptr) {
    source.mapped = connection->MapSlab(*space->core->options().device, source.slab,
                                        source.offset + blocks[index].bytes, false, deadline);
  }
  return source.mapped != nullptr;
}

bool Lease::Rep::HotCanStay(Deadline deadline) {
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].tier == BlockTier::kHot && !InPlace(i, deadline)) return false;
  }
  return on_device;
}

absl::StatusOr<Lease> Space::MatchOnDevice(NamesView names, const BlockLayout& expected,
                                           Timeout timeout) const {
  const ClientOptions& options = state_->core->options();
  if (options.device == nullptr) return NoDevice();
  TC_RETURN_IF_ERROR(CheckLayout(state_->spec, expected));
  TC_ASSIGN_OR_RETURN(Lease lease, Match(names, timeout));
  lease.rep_->on_device = !options.verify_always && !lease.rep_->connection->remote();
  return lease;
}

absl::StatusOr<std::vector<Reservation>> Space::ReserveOnDevice(uint32_t count,
                                                                const BlockLayout& expected,
                                                                uint32_t part,
                                                                std::chrono::milliseconds wait,
                                                                Timeout timeout) const {
  const std::shared_ptr<DeviceAccess> device = state_->core->options().device;
  if (device == nullptr) return NoDevice();
  TC_RETURN_IF_ERROR(CheckLayout(state_->spec, expected));
  TC_RETURN_IF_ERROR(CheckPart(state_->spec, part));
  if (count == 0) return std::vector<Reservation>();
  const Deadline deadline = state_->core->DeadlineOf(timeout) + wait;
  TC_ASSIGN_OR_RETURN(const auto connection, state_->core->Get(deadline));
  if (connection->remote()) {
    return absl::InvalidArgumentError(
        "a remote client reaches no device of the daemon's machine; use Reserve");
  }
  const uint64_t bytes = state_->spec.parts[part].block_bytes;
  TC_ASSIGN_OR_RETURN(const std::vector<Connection::DeviceSlot> granted,
                      state_->CallIn(*connection, deadline, [&](Root root) {
                        return connection->TakeDeviceSlots(
                            {root.tag, part, bytes}, std::min(count, kMaxReserve), wait, deadline);
                      }));
  std::vector<Reservation> slots;
  for (const auto& [slot, slab, at] : granted) {
    const auto mapped = connection->MapSlab(*device, slab, at + bytes, true, deadline);
    if (mapped == nullptr) {
      connection->QueueAbort(slot);
      continue;
    }
    slots.push_back(Reservation(connection, part, slot.offset, slot.grant, bytes, std::nullopt,
                                {mapped, mapped.get() + at}));
  }
  if (!slots.empty()) return slots;
  return absl::ResourceExhaustedError(
      "the device's memory that was granted cannot be mapped; use Reserve, and copy there");
}

std::span<const std::byte> Lease::DeviceView(uint32_t depth, uint32_t part) {
  if (rep_->connection->Forked()) return {};
  rep_->List();
  const size_t index = rep_->IndexOf(depth, part);
  if (index == rep_->blocks.size() || rep_->blocks[index].tier != BlockTier::kHot) return {};
  if (!rep_->InPlace(index, rep_->space->core->DeadlineOf({}))) return {};
  const Rep::Source& source = rep_->sources[index];
  return {source.mapped.get() + source.offset, rep_->blocks[index].bytes};
}

absl::Status Lease::ReleaseAfter(DeviceStream stream) {
  const std::shared_ptr<DeviceAccess> device = rep_->space->core->options().device;
  if (device == nullptr) return NoDevice();
  TC_RETURN_IF_ERROR(rep_->Usable());
  auto left = std::make_unique<Rep>();
  left->connection = rep_->connection;
  left->space = rep_->space;
  left->generation = rep_->generation;
  left->ending = std::make_shared<Rep::Ending>();
  left->ending->rep = std::move(rep_);
  const absl::Status asked = device->After(stream, [ending = left->ending] {
    ending->held = ending->rep->connection->LeaseHolds(ending->rep->generation);
    ending->ended.store(true);
    ending->rep.reset();
  });
  rep_ = asked.ok() ? std::move(left) : std::move(left->ending->rep);
  return asked;
}

}  // namespace client_v1
}  // namespace thermocline
