// Batches of unordered keys. Locally they are found in the catalog and copied out under one pin
// that goes from key to key; a remote client has the warm ones sent in one stream. What neither can
// give (it is cold, it was about to move, it is not checked and has another sum) is had by a lease.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/units.h"
#include "catalog/key_reader.h"
#include "client/client.h"
#include "client/core.h"
#include "client/lease_rep.h"
#include "client/wire.h"
#include "hashing/checksum.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

constexpr size_t kKeysPerCall = 4096;  // of a remote client; the daemon takes twice as many
constexpr int kAttempts = 4;           // to read the words of a key that changes meanwhile

using Buffers = std::span<const std::span<std::byte>>;

absl::Status CheckKeys(const SpaceSpec& spec, NamesView keys) {
  if (!spec.opaque_names || spec.block_tokens != kPlaceTokens) {
    return absl::InvalidArgumentError(
        "keys are looked up in a space with opaque names and one of them a block; match the prompt "
        "instead");
  }
  return CheckNames(spec, keys);
}

BlockTier TierOf(Word word) {
  if (word.moving() || word.deleted()) return BlockTier::kNone;
  if (word.warm_slot() != 0) return BlockTier::kWarm;
  if (word.hot_slot() != 0) return BlockTier::kHot;
  return word.cold_copy() ? BlockTier::kCold : BlockTier::kNone;
}

BlockTier SlowerOf(BlockTier a, BlockTier b) {
  return a == BlockTier::kNone || b == BlockTier::kNone ? BlockTier::kNone : std::max(a, b);
}

/// All parts of one key. One that changes while it is read is looked up again, a few times.
BlockTier TierOf(const KeyReader& reader, Root root, const Name& key, FoundKey found,
                 uint32_t parts) {
  for (int attempt = 0; attempt < kAttempts && found.node != 0; ++attempt) {
    BlockTier tier = TierOf(reader.Block(root, found, 0).word);
    for (uint32_t part = 1; part < parts; ++part) {
      tier = SlowerOf(tier, TierOf(reader.Block(root, found, part).word));
    }
    if (tier != BlockTier::kNone) return tier;
    reader.LookUp(root, {&key, 1}, {&found, 1});
  }
  return BlockTier::kNone;
}

/// One call of Space::Read.
class KeyRead {
 public:
  KeyRead(const Space& space, SpaceState& state, NamesView keys, Buffers buffers, uint32_t part,
          Deadline deadline)
      : space_(space),
        state_(state),
        keys_(keys),
        buffers_(buffers),
        part_(part),
        deadline_(deadline),
        tiers_(keys.places(), BlockTier::kNone) {}

  absl::StatusOr<std::vector<BlockTier>> Run() {
    TC_ASSIGN_OR_RETURN(const auto connection, state_.core->Get(deadline_));
    if (connection->remote()) {
      TC_RETURN_IF_ERROR(state_.CallIn(
          *connection, deadline_, [&](Root root) { return ReadRemote(*connection, root.tag); }));
    } else {
      TC_ASSIGN_OR_RETURN(const Root root, state_.RootIn(*connection, deadline_));
      ReadLocal(*connection, root);
    }
    for (const size_t key : left_) ReadByLease(key);
    return std::move(tiers_);
  }

 private:
  void ReadLocal(Connection& connection, Root root) {
    const uint64_t generation = connection.LeaseGeneration();
    std::unique_ptr<LocalReader> pins = connection.local_readers().Take();
    const KeyReader reader(connection.catalog());
    std::vector<Name> names;
    AppendNames(state_.spec, keys_, keys_.places(), names);
    std::vector<FoundKey> found(names.size());
    if (pins == nullptr || !reader.LookUp(root, names, found)) {
      left_.resize(names.size());
      std::iota(left_.begin(), left_.end(), size_t{0});
    } else {
      std::vector<Place> read;
      size_t key = 0;
      for (; key < names.size() && std::chrono::steady_clock::now() < deadline_; ++key) {
        if (found[key].node == 0) continue;
        const auto block = reader.Pin(root, found[key], part_, pins->own_pin);
        if (!block || !Copy(connection, *block, key)) {
          left_.push_back(key);
          continue;
        }
        read.push_back({found[key].node, 1});
        tiers_[key] = BlockTier::kWarm;
      }
      pins->own_pin.store(0, std::memory_order_release);
      if (!connection.LeaseHolds(generation)) {  // the pins may have said nothing all the while
        std::fill(tiers_.begin(), tiers_.end(), BlockTier::kNone);
        read.clear();
        left_.clear();
      }
      Count(connection, read, key);
    }
    if (pins != nullptr) connection.local_readers().GiveBack(std::move(pins));
  }

  bool Copy(Connection& connection, const KeyBlock& block, size_t key) {
    const uint64_t offset = uint64_t{block.word.warm_slot()} * kPageBytes;
    const std::span<std::byte> to = buffers_[key];
    if (!connection.Contains(offset, to.size())) return false;
    const std::span<const std::byte> from = connection.Bytes(offset, to.size());
    if (block.word.checked() && !state_.core->options().verify_always) {
      CopyOut(to, from);
      return true;
    }
    return CopyAndChecksum(to, from) == block.checksum;  // else the lease reports it
  }

  /// `reached`: so many keys before the deadline.
  void Count(Connection& connection, std::span<const Place> read, size_t reached) {
    const uint64_t asked = reached - left_.size();  // those are counted by their leases
    connection.local_readers().Count(
        read, {.warm_hits = read.size(),
               .absent = asked - read.size(),
               .requested_tokens = asked * kPlaceTokens,
               .hit_tokens = read.size() * kPlaceTokens,
               .hit_bytes = read.size() * state_.spec.parts[part_].block_bytes});
  }

  absl::Status ReadRemote(Connection& connection, uint32_t space) {
    for (size_t begin = 0; begin < keys_.places(); begin += kKeysPerCall) {
      const size_t count = std::min<size_t>(kKeysPerCall, keys_.places() - begin);
      v1::ReadKeysRequest request;
      request.set_space(space);
      *request.mutable_names() = ToWire(NamesView(keys_.keys().subspan(begin, count)));
      request.set_part(part_);
      std::vector<size_t> mentioned;  // in ascending order
      const absl::Status read =
          connection.calls().ReadKeys(request, deadline_, [&](const v1::ReadResponse& response) {
            for (const v1::ReadPiece& piece : response.pieces()) {
              if (piece.block().depth() >= count) {
                return absl::InternalError("the daemon sent a block of key " +
                                           std::to_string(piece.block().depth()) + " of " +
                                           std::to_string(count));
              }
              const size_t key = begin + piece.block().depth();
              if (mentioned.empty() || mentioned.back() != key) mentioned.push_back(key);
              TakeIn(piece, key);
            }
            return absl::OkStatus();
          });
      if (!read.ok() && !absl::IsDeadlineExceeded(read)) return connection.Explain(read);
      for (const size_t key : mentioned) {
        if (tiers_[key] == BlockTier::kNone) left_.push_back(key);
      }
    }
    return absl::OkStatus();
  }

  /// Pieces come in order; what was lost on the way has the wrong sum.
  void TakeIn(const v1::ReadPiece& piece, size_t key) {
    const std::span<std::byte> to = buffers_[key];
    const std::string& data = piece.data();
    if (piece.at() > to.size() || data.empty() || data.size() > to.size() - piece.at()) return;
    std::memcpy(to.data() + piece.at(), data.data(), data.size());
    const bool last = piece.at() + data.size() == to.size();
    if (last && Checksum(to) == piece.block().checksum()) tiers_[key] = BlockTier::kWarm;
  }

  void ReadByLease(size_t key) {
    const auto timeout = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline_ - std::chrono::steady_clock::now());
    if (timeout.count() <= 0) return;
    auto lease = space_.Match(NamesView(keys_.keys().subspan(key, 1)), timeout);
    if (!lease.ok() || lease->depth() == 0 || !lease->Load({}, timeout).ok()) return;
    if (!lease->Read(0, buffers_[key], part_) || !lease->StillValid()) return;
    tiers_[key] = lease->Find(0, part_)->matched_tier;
  }

  const Space& space_;
  SpaceState& state_;
  const NamesView keys_;
  const Buffers buffers_;
  const uint32_t part_;
  const Deadline deadline_;
  std::vector<BlockTier> tiers_;  // by key
  std::vector<size_t> left_;      // keys for which it takes a lease
};

absl::StatusOr<std::vector<BlockTier>> LookUpByMessage(Connection& connection, uint32_t space,
                                                       NamesView keys, Deadline deadline) {
  std::vector<BlockTier> tiers;
  for (size_t begin = 0; begin < keys.places(); begin += kKeysPerCall) {
    const size_t count = std::min<size_t>(kKeysPerCall, keys.places() - begin);
    v1::LookUpRequest request;
    request.set_space(space);
    *request.mutable_names() = ToWire(NamesView(keys.keys().subspan(begin, count)));
    const auto response = connection.calls().LookUp(request, deadline);
    if (!response.ok()) return connection.Explain(response.status());
    if (response->tiers_size() != static_cast<int>(count)) {
      return absl::InternalError("the daemon answered for " +
                                 std::to_string(response->tiers_size()) + " keys of " +
                                 std::to_string(count));
    }
    for (const int tier : response->tiers()) tiers.push_back(FromWire(static_cast<v1::Tier>(tier)));
  }
  return tiers;
}

}  // namespace

absl::StatusOr<std::vector<BlockTier>> Space::LookUp(NamesView keys, Timeout timeout) const {
  TC_RETURN_IF_ERROR(CheckKeys(state_->spec, keys));
  const Deadline deadline = state_->core->DeadlineOf(timeout);
  TC_ASSIGN_OR_RETURN(const auto connection, state_->core->Get(deadline));
  const auto ask = [&] {
    return state_->CallIn(*connection, deadline, [&](Root root) {
      return LookUpByMessage(*connection, root.tag, keys, deadline);
    });
  };
  if (connection->remote()) return ask();
  TC_ASSIGN_OR_RETURN(const Root root, state_->RootIn(*connection, deadline));
  std::vector<Name> names;
  AppendNames(state_->spec, keys, keys.places(), names);
  std::vector<FoundKey> found(names.size());
  const KeyReader reader(connection->catalog());
  if (!reader.LookUp(root, names, found)) return ask();
  const auto parts = static_cast<uint32_t>(state_->spec.parts.size());
  std::vector<BlockTier> tiers(names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    tiers[i] = TierOf(reader, root, names[i], found[i], parts);
  }
  return tiers;
}

absl::StatusOr<std::vector<BlockTier>> Space::Read(NamesView keys, Buffers buffers, uint32_t part,
                                                   Timeout timeout) const {
  TC_RETURN_IF_ERROR(CheckKeys(state_->spec, keys));
  if (part >= state_->spec.parts.size() || buffers.size() != keys.places()) {
    return absl::InvalidArgumentError(
        std::to_string(buffers.size()) + " buffers for " + std::to_string(keys.places()) +
        " keys, part " + std::to_string(part) + " of " + std::to_string(state_->spec.parts.size()));
  }
  const uint64_t bytes = state_->spec.parts[part].block_bytes;
  for (const std::span<std::byte> buffer : buffers) {
    if (buffer.size() == bytes) continue;
    return absl::InvalidArgumentError("a buffer of " + std::to_string(buffer.size()) +
                                      " bytes for a block of " + std::to_string(bytes));
  }
  return KeyRead(*this, *state_, keys, buffers, part, state_->core->DeadlineOf(timeout)).Run();
}

}  // namespace client_v1
}  // namespace thermocline
