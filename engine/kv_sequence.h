// The KV blocks of one sequence, wherever they lie. With a daemon they are its own: a cached prefix
// is leased and attended to in place, new tokens are computed straight into reserved slots of the
// arena, and every full block is committed, the generated tokens' too, so that the next turn finds
// it. Without one, or once the arena has no slot to give, they are private pages, and nothing else
// changes.
//
//   leased ... leased | enqueued ... enqueued | reserved ... reserved | private ... private
//
// Enqueued are those on their way to be published; nobody waits for that.
//
// The cache may vanish at any time: a daemon dies, a lease ends because this process was stopped
// for a minute. So whoever computes with these blocks asks Intact() afterwards; if not, the result
// is void, Recover() says how many tokens are still held, and the rest is computed again.
//
// A daemon that is there and does not answer (stopped, or out of breath) costs one short time-out:
// then what is held is copied away, and the daemon is left alone for a while, longer each time.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "client/client.h"
#include "engine/paged_kv.h"
#include "engine/weights.h"

namespace thermocline {

/// The space of a model's KV as this engine computes it. The weights' content is the model,
/// whatever its file is called; `numerics` tells apart what computes it differently, empty: the
/// CPU.
SpaceSpec SpaceOf(const ModelConfig& config, const KvGeometry& geometry, const Sha256& weights,
                  std::string_view numerics = {});

/// How long a daemon is waited for: before a prefill, which is at stake and for which it may have
/// to touch memory first; between two tokens, where whoever reads the answer would notice; and how
/// long it is left alone once it is silent, the first time.
struct DaemonPatience {
  std::chrono::milliseconds first{2000};
  std::chrono::milliseconds call{600};
  std::chrono::milliseconds backoff{1000};
};

/// For a forward pass on the device whose memory the hot tier has.
struct DeviceBlocks {
  BlockLayout layout;  // of the kernels that read there
  /// Copies a block off the device, and waits.
  std::function<absl::Status(std::byte* to, const std::byte* from, uint64_t bytes)> copy_off;
};
/// The layout of SpaceOf.
BlockLayout LayoutOf(const KvGeometry& geometry);

/// Thread: one at a time.
/// Owner:  borrows `pages` and `client`, which outlive it.
class KvSequence {
 public:
  /// Without a daemon: private pages alone.
  explicit KvSequence(PrivateBlocks& pages) : pages_(pages) {}
  /// `on_silence` is told, on the calling thread, of each time that the daemon falls silent.
  KvSequence(PrivateBlocks& pages, Client& client, Space space,
             std::function<void(const absl::Status&)> on_silence = {}, DaemonPatience patience = {})
      : pages_(pages),
        client_(&client),
        space_(std::move(space)),
        on_silence_(std::move(on_silence)),
        patience_(patience) {}
  ~KvSequence() { Clear(); }
  KvSequence(const KvSequence&) = delete;
  KvSequence& operator=(const KvSequence&) = delete;

  /// From the next Begin on hot blocks stay where they are. REQUIRES: the client has a device.
  void ReadOnDevice(DeviceBlocks device) { device_ = std::move(device); }

  /// Starts anew with the longest cached prefix of `ids` that leaves at least one id to compute,
  /// even where an earlier turn lost the cache, unless it is too early to try a silent daemon
  /// again. Returns its tokens. A cache that cannot be asked is a miss.
  size_t Begin(std::span<const int32_t> ids);

  /// Makes blocks for the positions [0, tokens).
  /// Errors: ResourceExhausted when not even private pages can be had.
  absl::Status Extend(size_t tokens);

  /// Block i holds the positions 16 i ...: those before the first position not yet computed are
  /// read only.
  std::span<std::byte* const> blocks() const { return pointers_; }
  /// Whether block i lies on the device, of the first so many.
  std::span<const uint8_t> on_device() const { return on_device_; }

  /// Publishes the blocks that `computed`, all ids whose KV is in place, fills. Does not wait.
  void Commit(std::span<const int32_t> computed);
  /// Waits for that, at the end of a turn: then whoever asks next finds all of it.
  void Settle();

  /// Whether everything read from and written to the blocks so far was read from and written to
  /// this sequence's own.
  bool Intact();
  /// After !Intact(): keeps in private pages what can be kept, goes on without the cache, returns
  /// the tokens held.
  size_t Recover();

  /// Tokens that Begin found, by the tier they lay in: "warm", "cold".
  const std::map<std::string, size_t>& cached_by_tier() const { return cached_by_tier_; }
  /// Blocks since Begin that went into private pages although there is a daemon.
  size_t uncached_blocks() const { return uncached_blocks_; }
  /// Times since Begin that the cache was lost under our hands (and copied away or given up).
  size_t losses() const { return losses_; }

 private:
  using SteadyTime = std::chrono::steady_clock::time_point;

  size_t leased() const { return lease_ ? lease_->depth() : 0; }
  /// Takes note of an answer of the daemon's, or of its missing; returns `status` again.
  absl::Status Heard(absl::Status status);
  bool Reachable() const { return !silent_ && client_->Connected(); }
  /// Takes over what the daemon has published of what was enqueued.
  void TakeUp();
  absl::Status CopyBlock(std::byte* to, size_t block) const;
  /// Copies everything into private pages and ends the lease; false where it did not last so long.
  bool Detach();
  void FreePrivate();
  void Clear();

  PrivateBlocks& pages_;
  Client* client_ = nullptr;
  std::optional<Space> space_;
  std::function<void(const absl::Status&)> on_silence_;
  const DaemonPatience patience_;
  bool silent_ = false;                   // the last call had no answer in time
  SteadyTime retry_at_{};                 // of a silent daemon
  std::chrono::milliseconds backoff_{0};  // that led there
  std::optional<Lease> lease_;
  size_t enqueued_ = 0;       // blocks right behind the leased ones
  SteadyTime enqueued_at_{};  // the first of them
  std::vector<Reservation> reserved_;
  std::vector<std::byte*> pointers_;  // leased, enqueued, reserved, private
  std::optional<DeviceBlocks> device_;
  std::vector<uint8_t> on_device_;  // of the blocks that Begin has leased
  size_t private_count_ = 0;
  bool lost_ = false;  // a commit failed
  std::map<std::string, size_t> cached_by_tier_;
  size_t uncached_blocks_ = 0;
  size_t losses_ = 0;
};

}  // namespace thermocline
