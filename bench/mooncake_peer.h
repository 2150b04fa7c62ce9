// Mooncake Store as a peer, from the wheel that bench/run.sh installs under build/: driven through
// mooncake_peer.py, in a network namespace of its own.
#pragma once
#include <memory>
#include <string>

#include "bench/coprocess.h"
#include "bench/store.h"

namespace thermocline::bench {

/// Why it cannot be had here; empty: it can.
std::string MooncakeMissing();

/// Thread: one.
class Mooncake : public Store {
 public:
  /// Modes: "own" (the memory is this client's own), "shared" (a daemon's, shared with it), "tcp"
  /// (a daemon's, over the loopback). Buffers of `capacity_bytes`.
  static absl::StatusOr<std::unique_ptr<Mooncake>> Start(const std::string& mode,
                                                         size_t capacity_bytes);

  std::string name() const override { return "mooncake_" + mode_; }
  absl::StatusOr<Transfer> Put(const Load& load) override;
  absl::StatusOr<Transfer> Get(const Load& load) override;
  absl::Status Check(const Load& load) override;
  absl::Status Clear() override;
  /// Microseconds of one batch_is_exist of `asked` keys among `keys`: the median of the rounds'
  /// means.
  absl::StatusOr<double> Exist(size_t keys, size_t asked, int rounds, int calls);

 private:
  Mooncake(std::string mode, std::unique_ptr<Coprocess> process)
      : mode_(std::move(mode)), process_(std::move(process)) {}

  const std::string mode_;
  const std::unique_ptr<Coprocess> process_;
};

}  // namespace thermocline::bench
