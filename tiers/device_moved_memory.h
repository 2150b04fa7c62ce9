// Device memory as a process without CUDA has it: slabs from the custodian, bytes by the mover.
//
// The mover is started when it is first needed, and again, after a while, when it has ended; what
// it had mapped is mapped again then, so that its end shows as copies that fail for a moment. Bytes
// outside of the memory that it maps go through a staging area.
#pragma once
#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "tiers/device_custodian.h"
#include "tiers/device_memory.h"
#include "tiers/device_mover.h"

namespace thermocline {

/// The mover's process, seen from the daemon; pools of several tenants share it.
/// Thread: any. Owner: ends the process in its destructor.
class MoverProcess {
 public:
  struct Options {
    std::vector<std::string> command;  // that calls RunDeviceMover(kSocket, kLock)
    int device = 0;
    uint64_t chunk_bytes = 0;
    std::string lock_path;                            // see device_mover_lock.h
    std::chrono::milliseconds former_patience{5000};  // with an earlier daemon's mover
    std::chrono::milliseconds patience{30000};        // with one request
    std::chrono::milliseconds end_patience{5000};     // until it is killed
    std::chrono::milliseconds least_pause{
        1000};  // between its end and the next start; doubles until one has copied
    std::chrono::milliseconds most_pause{60000};
  };
  static constexpr int kSocket = 3;
  static constexpr int kLock = 4;

  /// Ends what an earlier daemon has left running. To be opened before hot memory, or an arena that
  /// a mover copies to, is adopted. Errors: of LockMover.
  static absl::StatusOr<std::shared_ptr<MoverProcess>> Open(Options options);
  ~MoverProcess();

  /// Of a request to the mover that runs, or is started for it. `generation`: which one the caller
  /// has told what it needs to know; when another one runs, `tell` is called before, and makes the
  /// calls that tell it, by `call`.
  /// Errors: Unavailable when it cannot be started, has ended, or does not answer, and none of its
  ///         copies is under way any more; its own.
  using CallMover = std::function<absl::Status(const MoverRequest& request,
                                               std::span<const MoverTransfer> transfers, int fd)>;
  absl::Status Call(uint64_t& generation, const std::function<absl::Status(const CallMover&)>& tell,
                    const MoverRequest& request, std::span<const MoverTransfer> transfers = {},
                    int fd = -1);
  /// Starts it unless it runs. Errors: Unavailable when it has ended and its pause has not; why it
  /// does not start.
  absl::Status EnsureRuns();
  // These two wait for nothing, whatever is under way.
  uint64_t starts() const { return starts_; }
  pid_t pid() const { return pid_; }  // 0: none runs

 private:
  MoverProcess(Options options, UniqueFd lock)
      : options_(std::move(options)), lock_(std::move(lock)) {}
  using SteadyTime = std::chrono::steady_clock::time_point;
  absl::Status EnsureRunning() TC_REQUIRES(mutex_);
  absl::Status Start() TC_REQUIRES(mutex_);
  absl::Status CallOnce(const MoverRequest& request, std::span<const MoverTransfer> transfers,
                        int fd) TC_REQUIRES(mutex_);
  void End(const std::string& why) TC_REQUIRES(mutex_);

  const Options options_;
  const UniqueFd lock_;  // of the movers, one after the other
  Mutex mutex_;          // held during a request: one is under way at a time
  UniqueFd socket_ TC_GUARDED_BY(mutex_);
  std::atomic<uint64_t> starts_ = 0;  // these two are written with it held; this one first
  std::atomic<pid_t> pid_ = 0;
  std::chrono::milliseconds pause_ TC_GUARDED_BY(mutex_){0};
  SteadyTime not_before_ TC_GUARDED_BY(mutex_){};
  std::string why_ended_ TC_GUARDED_BY(mutex_);
};

/// Thread: as DeviceMemory. Owner: borrows nothing; shares custodian and mover.
class MovedDeviceMemory final : public DeviceMemory {
 public:
  /// `pool`: its name with the custodian; `number`: with the mover, another one each.
  static absl::StatusOr<std::unique_ptr<MovedDeviceMemory>> Open(
      std::shared_ptr<CustodianClient> custodian, std::shared_ptr<MoverProcess> mover,
      std::string pool, uint32_t number);
  ~MovedDeviceMemory() override;

  std::array<uint8_t, 16> uuid() const override { return custodian_->view().uuid; }
  absl::StatusOr<std::vector<uint32_t>> Chunks() const override;
  absl::Status Lend(uint32_t chunk) override;
  void Return(uint32_t chunk) override;
  absl::StatusOr<UniqueFd> Export(uint32_t chunk) const override {
    return custodian_->Export(pool_, chunk);
  }
  absl::Status Copy(std::span<const DeviceTransfer> transfers, DeviceDirection direction) override;
  /// A mover that has ended has nothing pinned any more; none is started in order to pin.
  uint64_t pinner() const override { return mover_->pid() == 0 ? 0 : mover_->starts(); }
  absl::Status Pin(uint64_t pinner, uint64_t offset, uint64_t bytes) override;
  void Unpin(uint64_t offset) override;

  /// Memory that the mover maps by this descriptor, whole, and copies from and to directly. It must
  /// outlive this. Once, before the first copy.
  void UseHost(std::span<std::byte> host, int fd);

 private:
  MovedDeviceMemory(std::shared_ptr<CustodianClient> custodian, std::shared_ptr<MoverProcess> mover,
                    std::string pool, uint32_t number);
  absl::Status TellMover(const MoverProcess::CallMover& call) TC_REQUIRES(mutex_);
  absl::Status Call(const MoverRequest& request, std::span<const MoverTransfer> transfers = {},
                    int fd = -1) TC_REQUIRES(mutex_);
  void UnpinLocked(uint64_t offset) TC_REQUIRES(mutex_);
  MoverRequest MapRequest(MoverVerb verb, uint32_t chunk) const;
  absl::Status Flush(DeviceDirection direction, std::vector<MoverTransfer>& batch)
      TC_REQUIRES(mutex_);
  MoverRequest PinRequest(MoverVerb verb, uint32_t host, uint64_t offset, uint64_t bytes) const;
  MoverRequest Request(MoverVerb verb) const {
    return {.verb = verb, .pool = number_, .chunk_bytes = custodian_->view().chunk_bytes};
  }

  static constexpr uint32_t kStaging = 0;  // hosts
  static constexpr uint32_t kArena = 1;
  static constexpr uint64_t kStagingBytes = 8u << 20;

  const std::shared_ptr<CustodianClient> custodian_;
  const std::shared_ptr<MoverProcess> mover_;
  const std::string pool_;
  const uint32_t number_;
  Mutex mutex_;  // held during a copy: one of a pool is under way at a time
  uint64_t generation_ TC_GUARDED_BY(mutex_) = 0;
  std::vector<uint32_t> chunks_ TC_GUARDED_BY(mutex_);
  std::span<std::byte> arena_;
  int arena_fd_ = -1;
  UniqueFd staging_fd_;
  std::span<std::byte> staging_;
};

}  // namespace thermocline
