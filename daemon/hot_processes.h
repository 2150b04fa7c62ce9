// The hot tier's processes as the daemon's program has them: with --vram it is the custodian, with
// --mover the mover, and else it connects to the one and starts the other. See tiers/device_*.h.
#pragma once
#include <signal.h>

#include <memory>
#include <span>
#include <string>

#include "base/executor.h"
#include "base/mutex.h"
#include "base/status.h"
#include "daemon/options.h"
#include "tiers/device_custodian.h"
#include "tiers/device_moved_memory.h"
#include "tiers/tier_stack.h"

namespace thermocline {

/// Serves until one of `signals` comes, which are blocked.
/// Errors: those of DeviceCustodian::Open, with what to do about them.
absl::Status RunCustodian(const DaemonOptions& options, const sigset_t& signals);

/// `arguments` are what HotProcesses gives it: all that it needs to know, for the configuration may
/// be another one by now. Answers the exit code.
/// Errors: InvalidArgument when no daemon has started it.
absl::StatusOr<int> RunMover(std::span<char* const> arguments);

/// What the hot tiers of all tenants share. Where there is no device, or no custodian, they are
/// told so, and serve from the other tiers.
/// Thread: any. Owner: outlives the stacks.
class HotProcesses {
 public:
  explicit HotProcesses(const DaemonOptions& options) : options_(options) {}

  /// Gives a tenant its hot tier, if the options say so. No mover of an earlier daemon copies to
  /// its arena any more then, whether there is a hot tier now or not.
  /// REQUIRES: no other daemon uses the arena's directory, which all tenants share.
  /// Errors: those of LockMover, and of stat.
  absl::Status AddTo(StackOptions& stack);

 private:
  absl::Status Connect(const std::string& directory) TC_REQUIRES(mutex_);

  const DaemonOptions options_;
  Executor copies_{{.name = "tc-hot", .thread_count = 1}};
  Mutex mutex_;
  absl::Status connected_ TC_GUARDED_BY(mutex_);
  uint32_t tenants_ TC_GUARDED_BY(mutex_) = 0;  // so far
  std::shared_ptr<CustodianClient> custodian_ TC_GUARDED_BY(mutex_);
  std::shared_ptr<MoverProcess> mover_ TC_GUARDED_BY(mutex_);
};

}  // namespace thermocline
