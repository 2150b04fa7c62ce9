#include "tiers/device_mover.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "base/log.h"
#include "catalog/arena.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"
#include "tiers/device_mover_lock.h"
#include "tiers/device_slabs.h"

namespace thermocline {
namespace {

constexpr int kLost = 3;
constexpr int kNoLock = 4;
constexpr uint64_t kMaxHostBytes = uint64_t{1} << 40;

/// A file of memory, mapped whole.
class HostMapping {
 public:
  static absl::StatusOr<HostMapping> Map(int fd, uint64_t bytes) {
    struct stat file {};
    if (::fstat(fd, &file) != 0) return ErrnoStatus(errno, "stat host memory in the mover");
    if (static_cast<uint64_t>(file.st_size) < bytes) {
      return absl::InvalidArgumentError("host memory is said to be larger than its file");
    }
    void* const data =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (data == MAP_FAILED) return ErrnoStatus(errno, "map host memory in the mover");
    return HostMapping(static_cast<std::byte*>(data), bytes);
  }
  HostMapping(HostMapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  HostMapping& operator=(HostMapping&&) = delete;
  ~HostMapping() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }
  /// Nothing when it does not lie within.
  std::byte* At(uint64_t offset, uint64_t bytes) const {
    return offset <= bytes_ && bytes <= bytes_ - offset ? data_ + offset : nullptr;
  }

 private:
  HostMapping(std::byte* data, uint64_t bytes) : data_(data), bytes_(bytes) {}
  std::byte* data_;
  uint64_t bytes_;
};

struct Pool {
  std::map<uint32_t, HostMapping> hosts;
  std::map<uint32_t, std::vector<std::byte*>> pinned;  // by host
  std::unique_ptr<DeviceSlabs> slabs;                  // ends first
};

class Mover {
 public:
  absl::Status Do(const MoverRequest& request, std::span<const MoverTransfer> transfers, int fd) {
    if (request.version != kDeviceWireVersion) {
      return absl::FailedPreconditionError("mover and daemon are of different versions");
    }
    if (request.verb == MoverVerb::kHello) return Begin(request);
    TC_ASSIGN_OR_RETURN(Pool* const pool, PoolOf(request.pool));
    switch (request.verb) {
      case MoverVerb::kMapChunk:
        return MapChunk(*pool, request, fd);
      case MoverVerb::kMapNewChunk:
        return MapNewChunk(*pool, request, fd);
      case MoverVerb::kUnmapChunk:
        pool->slabs->Unmap(request.chunk);
        return absl::OkStatus();
      case MoverVerb::kMapHost:
        return MapHost(*pool, request, fd);
      case MoverVerb::kUnmapHost:
        UnmapHost(*pool, request.host);
        return absl::OkStatus();
      case MoverVerb::kPinHost:
        return PinHost(*pool, request);
      case MoverVerb::kUnpinHost:
        return UnpinHost(*pool, request);
      case MoverVerb::kCopyIn:
        return Copy(*pool, transfers, DeviceDirection::kIn);
      case MoverVerb::kCopyOut:
        return Copy(*pool, transfers, DeviceDirection::kOut);
      default:
        return absl::InvalidArgumentError("no such request to a mover");
    }
  }

 private:
  absl::Status Begin(const MoverRequest& request) {
    if (request.chunk_bytes == 0) return absl::InvalidArgumentError("chunks of no bytes");
    TC_RETURN_IF_ERROR(cuda::UseDevice(static_cast<int>(request.device)));
    device_ = static_cast<int>(request.device);
    chunk_bytes_ = request.chunk_bytes;
    return absl::OkStatus();
  }

  absl::StatusOr<Pool*> PoolOf(uint32_t number) {
    if (chunk_bytes_ == 0 || number >= kMaxMoverPools) {
      return absl::InvalidArgumentError("no such pool of a mover");
    }
    Pool& pool = pools_[number];
    if (pool.slabs == nullptr) {
      TC_ASSIGN_OR_RETURN(pool.slabs, DeviceSlabs::Create(device_, chunk_bytes_));
    }
    return &pool;
  }

  absl::Status MapChunk(Pool& pool, const MoverRequest& request, int fd) {
    if (fd < 0 || request.chunk >= kMaxChunks) {
      return absl::InvalidArgumentError("a chunk of device memory without its slab");
    }
    TC_ASSIGN_OR_RETURN(const cuda::Slab slab, cuda::Slab::Import(device_, fd, request.bytes));
    return pool.slabs->Map(request.chunk, slab);
  }

  absl::Status MapNewChunk(Pool& pool, const MoverRequest& request, int fd) {
    TC_RETURN_IF_ERROR(MapChunk(pool, request, fd));
    const absl::Status status = pool.slabs->Clear(request.chunk);
    if (!status.ok()) pool.slabs->Unmap(request.chunk);
    return status;
  }

  absl::Status MapHost(Pool& pool, const MoverRequest& request, int fd) {
    if (fd < 0 || request.bytes == 0 || request.bytes > kMaxHostBytes) {
      return absl::InvalidArgumentError("host memory of no size, or without a descriptor");
    }
    UnmapHost(pool, request.host);
    TC_ASSIGN_OR_RETURN(HostMapping mapping, HostMapping::Map(fd, request.bytes));
    pool.hosts.emplace(request.host, std::move(mapping));
    return absl::OkStatus();
  }

  void UnmapHost(Pool& pool, uint32_t host) {
    for (const std::byte* data : pool.pinned[host]) pool.slabs->Unpin(data);
    pool.pinned.erase(host);
    pool.hosts.erase(host);
  }

  static std::byte* HostAt(const Pool& pool, uint32_t host, uint64_t offset, uint64_t bytes) {
    const auto found = pool.hosts.find(host);
    return found == pool.hosts.end() ? nullptr : found->second.At(offset, bytes);
  }

  absl::Status PinHost(Pool& pool, const MoverRequest& request) {
    std::byte* const data = HostAt(pool, request.host, request.offset, request.bytes);
    if (data == nullptr) return absl::InvalidArgumentError("no such host memory to pin");
    TC_RETURN_IF_ERROR(pool.slabs->Pin({data, request.bytes}));
    pool.pinned[request.host].push_back(data);
    return absl::OkStatus();
  }

  absl::Status UnpinHost(Pool& pool, const MoverRequest& request) {
    const std::byte* const data = HostAt(pool, request.host, request.offset, 0);
    if (data == nullptr) return absl::InvalidArgumentError("no such host memory to unpin");
    pool.slabs->Unpin(data);
    std::erase(pool.pinned[request.host], data);
    return absl::OkStatus();
  }

  absl::Status Copy(Pool& pool, std::span<const MoverTransfer> transfers,
                    DeviceDirection direction) {
    std::vector<DeviceTransfer> copies;
    for (const MoverTransfer& transfer : transfers) {
      std::byte* const host = HostAt(pool, transfer.host, transfer.host_offset, transfer.bytes);
      if (host == nullptr) return absl::InvalidArgumentError("a copy beyond its host memory");
      copies.push_back({transfer.device_offset, host, transfer.bytes});
    }
    return pool.slabs->Copy(copies, direction);
  }

  int device_ = 0;
  uint64_t chunk_bytes_ = 0;
  std::map<uint32_t, Pool> pools_;
};

}  // namespace

int RunDeviceMover(int socket, int lock) {
  if (const absl::Status status = SignMoverLock(lock); !status.ok()) {
    LogEvent(LogLevel::kError, "mover_without_lock", {{"cause", status}});
    return kNoLock;
  }
  Mover mover;
  std::vector<std::byte> room(sizeof(MoverRequest) + kMaxMoverTransfers * sizeof(MoverTransfer));
  while (true) {
    UniqueFd fd;
    const auto got = ReceivePacket(socket, room, fd);
    if (!got.ok() || *got < sizeof(MoverRequest)) return 0;
    MoverRequest request;
    std::memcpy(&request, room.data(), sizeof request);
    std::vector<MoverTransfer> transfers((*got - sizeof request) / sizeof(MoverTransfer));
    if (request.count != transfers.size()) return 0;
    std::copy_n(room.begin() + sizeof request, transfers.size() * sizeof(MoverTransfer),
                std::as_writable_bytes(std::span(transfers)).begin());
    const absl::Status status = mover.Do(request, transfers, fd.get());
    const bool is_lost = cuda::IsSticky(status);
    const bool sent = SendPacket(socket, BytesOf(WireStatus::Of(status, is_lost))).ok();
    // No destructor has anything to free that the end of the process does not.
    if (is_lost) {
      LogEvent(LogLevel::kError, "mover_lost", {{"cause", status}});
      std::quick_exit(kLost);
    }
    if (!sent) return 0;
  }
}

}  // namespace thermocline
