// The custodian of the hot tier's memory: the process that creates slabs of a device and hands them
// to those who may have them, by descriptors. It maps nothing, launches nothing and has no context,
// so that no error of CUDA can take it down; what it keeps is there for as long as it lives,
// whoever else comes and goes. When it ends, memory lives on with those who have it mapped, and no
// daemon finds it any more: another custodian's uuid differs.
//
// Slabs lie in pools, one a tenant, by number; each is one chunk of its hot tier. A client may ask
// for any: those of this user alone may connect. It serves one daemon at a time, which says when it
// starts what pools are its own; what an earlier one had besides is given back then.
#pragma once
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "kernels/cuda/memory.h"
#include "tiers/device_wire.h"

namespace thermocline {

/// What a custodian says of itself.
struct CustodianView {
  std::array<uint8_t, 16> uuid{};  // of its slabs: no other custodian has the same
  uint64_t capacity_bytes = 0;
  uint64_t used_bytes = 0;
  uint64_t chunk_bytes = 0;
  int device = 0;
};

/// Thread: one.
class DeviceCustodian {
 public:
  struct Options {
    std::string socket_path;
    uint64_t capacity_bytes = 0;  // of all pools together; hard
    uint64_t chunk_bytes = 0;     // a multiple of 2 MiB
    int device = 0;
  };
  /// Listens. Errors: AlreadyExists when another one does; InvalidArgument; Unavailable,
  /// Unimplemented without a device; those of ListenAt.
  static absl::StatusOr<std::unique_ptr<DeviceCustodian>> Open(Options options);
  ~DeviceCustodian();

  /// Answers until `stop` is readable. Errors: of poll.
  absl::Status Serve(int stop);

 private:
  static constexpr size_t kMaxClients = 64;
  static constexpr size_t kMaxPools = 1024;
  struct PoolName;
  struct Request;
  struct Reply;
  friend class CustodianClient;

  DeviceCustodian(Options options, Listener listener);
  bool Accept();
  bool Answer(int client);
  absl::Status Do(const Request& request, Reply& reply, UniqueFd& fd);
  absl::Status Lend(const std::string& pool, uint32_t chunk);
  absl::Status Keep(int client, std::span<const PoolName> pools);

  const Options options_;
  Listener listener_;
  std::array<uint8_t, 16> uuid_;
  std::vector<UniqueFd> clients_;
  int daemon_ = -1;  // among them
  std::map<std::string, std::map<uint32_t, cuda::Slab>> pools_;
  uint64_t used_bytes_ = 0;
};

/// Thread: any, one call at a time.
/// Errors: Every call answers Unavailable while the custodian does not answer, and connects again;
///         FailedPrecondition once another one answers in its place: then all that was hot is lost,
///         but for what a mover has mapped still.
class CustodianClient {
 public:
  static constexpr std::chrono::milliseconds kPatience{10000};  // cuMemCreate may take a second
  static constexpr size_t kMaxKeptPools = 64;
  static absl::StatusOr<std::unique_ptr<CustodianClient>> Connect(
      const std::string& socket_path, std::chrono::milliseconds patience = kPatience);

  const CustodianView& view() const { return view_; }  // as it was when we connected
  /// The custodian serves this daemon, and no other while this lives; it gives back what is in no
  /// pool of these, kMaxKeptPools at most.
  /// Errors: FailedPrecondition while it serves another one, now or when we connect again.
  absl::Status Keep(std::span<const std::string> pools);
  /// The pool has this chunk then. Errors: ResourceExhausted beyond the capacity, or when the
  /// device has no more.
  absl::Status Lend(std::string_view pool, uint32_t chunk);
  /// Absent is fine.
  absl::Status Return(std::string_view pool, uint32_t chunk);
  /// The chunk's slab. Errors: NotFound.
  absl::StatusOr<UniqueFd> Export(std::string_view pool, uint32_t chunk);
  /// Those that the pool has, ascending.
  absl::StatusOr<std::vector<uint32_t>> Chunks(std::string_view pool);

 private:
  CustodianClient(std::string socket_path, std::chrono::milliseconds patience)
      : socket_path_(std::move(socket_path)), patience_(patience) {}
  absl::Status Reconnect() TC_REQUIRES(mutex_);
  absl::Status SayKept() TC_REQUIRES(mutex_);
  absl::Status Exchange(std::span<const std::byte> packet, DeviceCustodian::Reply& reply,
                        UniqueFd& fd) TC_REQUIRES(mutex_);
  absl::Status Call(uint32_t verb, std::string_view pool, uint32_t chunk,
                    DeviceCustodian::Reply& reply, UniqueFd& fd);

  const std::string socket_path_;
  const std::chrono::milliseconds patience_;
  Mutex mutex_;                                        // held during a call
  UniqueFd socket_ TC_GUARDED_BY(mutex_);              // none after a call without an answer
  std::vector<std::byte> kept_ TC_GUARDED_BY(mutex_);  // what Keep says; nothing before
  CustodianView view_;
};

}  // namespace thermocline
