#include "tiers/device_slabs.h"

#include <sys/random.h>

#include <string>
#include <utility>

#include "base/check.h"
#include "kernels/cuda/copies.h"

namespace thermocline {

absl::StatusOr<std::unique_ptr<DeviceSlabs>> DeviceSlabs::Create(int device, uint64_t chunk_bytes) {
  TC_ASSIGN_OR_RETURN(const cuda::DeviceInfo info, cuda::Describe(device));
  TC_RETURN_IF_ERROR(cuda::UseDevice(device));
  std::array<std::unique_ptr<Lane>, 2> lanes;
  for (auto& lane : lanes) {
    TC_ASSIGN_OR_RETURN(cuda::Stream stream, cuda::Stream::Create());
    TC_ASSIGN_OR_RETURN(cuda::Event done, cuda::Event::Create());
    lane.reset(new Lane{.mutex = {}, .stream = std::move(stream), .done = std::move(done)});
  }
  return std::unique_ptr<DeviceSlabs>(
      new DeviceSlabs(device, chunk_bytes, info.reaches_pinned_by_host_address, std::move(lanes)));
}

DeviceSlabs::DeviceSlabs(int device, uint64_t chunk_bytes, bool kernel_reaches_pinned,
                         std::array<std::unique_ptr<Lane>, 2> lanes)
    : device_(device),
      chunk_bytes_(chunk_bytes),
      kernel_reaches_pinned_(kernel_reaches_pinned),
      lanes_(std::move(lanes)) {}

DeviceSlabs::~DeviceSlabs() { cuda::UseDevice(device_).IgnoreError(); }  // whose its members are

absl::Status DeviceSlabs::Map(uint32_t chunk, const cuda::Slab& slab) {
  TC_RETURN_IF_ERROR(cuda::UseDevice(device_));
  TC_ASSIGN_OR_RETURN(cuda::SlabMapping mapping,
                      cuda::SlabMapping::Map(slab, cuda::Access::kReadWrite));
  if (mapping.bytes() < chunk_bytes_) {
    return absl::InvalidArgumentError("chunk " + std::to_string(chunk) + " of device memory has " +
                                      std::to_string(mapping.bytes()) + " bytes, needed are " +
                                      std::to_string(chunk_bytes_));
  }
  MutexLock lock(mutex_);
  std::swap(chunks_[chunk], mapping);
  return absl::OkStatus();
}

absl::Status DeviceSlabs::Clear(uint32_t chunk) {
  std::byte* data = nullptr;
  {
    MutexLock lock(mutex_);
    TC_ASSIGN_OR_RETURN(data, AddressOf({.offset = chunk * chunk_bytes_, .bytes = chunk_bytes_}));
  }
  TC_RETURN_IF_ERROR(cuda::UseDevice(device_));
  Lane& lane = *lanes_[static_cast<size_t>(DeviceDirection::kIn)];
  MutexLock lock(lane.mutex);
  TC_RETURN_IF_ERROR(cuda::FillAsync(data, 0, chunk_bytes_, lane.stream.get()));
  return lane.stream.Synchronize();
}

void DeviceSlabs::Unmap(uint32_t chunk) {
  cuda::UseDevice(device_).IgnoreError();
  cuda::SlabMapping mapping;
  MutexLock lock(mutex_);
  if (const auto found = chunks_.find(chunk); found != chunks_.end()) {
    mapping = std::move(found->second);
    chunks_.erase(found);
  }
}

absl::Status DeviceSlabs::Pin(std::span<std::byte> host) {
  TC_RETURN_IF_ERROR(cuda::UseDevice(device_));
  TC_ASSIGN_OR_RETURN(cuda::HostPin pin, cuda::HostPin::Register(host.data(), host.size()));
  MutexLock lock(mutex_);
  pinned_[host.data()] = {host.size(), std::move(pin)};
  return absl::OkStatus();
}

void DeviceSlabs::Unpin(const std::byte* host) {
  cuda::UseDevice(device_).IgnoreError();
  Pinned pinned;
  MutexLock lock(mutex_);
  if (const auto found = pinned_.find(host); found != pinned_.end()) {
    pinned = std::move(found->second);
    pinned_.erase(found);
  }
}

bool DeviceSlabs::IsPinned(const std::byte* host, uint64_t bytes) const {
  auto after = pinned_.upper_bound(host);
  if (after == pinned_.begin()) return false;
  --after;
  return host + bytes <= after->first + after->second.bytes;
}

absl::StatusOr<std::byte*> DeviceSlabs::AddressOf(const DeviceTransfer& transfer) {
  const uint64_t within = transfer.offset % chunk_bytes_;
  const uint64_t number = transfer.offset / chunk_bytes_;
  const auto chunk =
      number > UINT32_MAX ? chunks_.end() : chunks_.find(static_cast<uint32_t>(number));
  if (chunk == chunks_.end() || transfer.bytes > chunk_bytes_ - within) {
    return absl::InvalidArgumentError("no chunk of device memory has " +
                                      std::to_string(transfer.bytes) + " bytes at offset " +
                                      std::to_string(transfer.offset));
  }
  return chunk->second.data() + within;
}

absl::Status DeviceSlabs::Copy(std::span<const DeviceTransfer> transfers,
                               DeviceDirection direction) {
  const bool is_in = direction == DeviceDirection::kIn;
  std::vector<cuda::Copy> direct;
  std::vector<cuda::Copy> staged;
  {
    MutexLock lock(mutex_);
    for (const DeviceTransfer& transfer : transfers) {
      TC_ASSIGN_OR_RETURN(std::byte* const device, AddressOf(transfer));
      auto& copies = IsPinned(transfer.host, transfer.bytes) ? direct : staged;
      copies.push_back({.to = is_in ? device : transfer.host,
                        .from = is_in ? transfer.host : device,
                        .bytes = transfer.bytes});
    }
  }
  TC_RETURN_IF_ERROR(cuda::UseDevice(device_));
  Lane& lane = *lanes_[static_cast<size_t>(direction)];
  MutexLock lock(lane.mutex);
  const CudaStream stream = lane.stream.get();
  absl::Status status =
      cuda::CopyBatchAsync(direct, stream, {.device_reaches_all = kernel_reaches_pinned_});
  for (const cuda::Copy& copy : staged) {
    if (status.ok()) status = cuda::CopyAsync(copy, stream);
  }
  absl::Status waited = lane.done.Record(stream);
  if (waited.ok()) {
    waited = lane.done.Synchronize();
  } else if (!cuda::IsSticky(waited)) {
    lane.stream.Synchronize().IgnoreError();  // what was given is under way all the same
  }
  return status.ok() ? waited : status;
}

absl::StatusOr<std::unique_ptr<OwnDeviceMemory>> OwnDeviceMemory::Create(int device,
                                                                         uint64_t chunk_bytes) {
  TC_ASSIGN_OR_RETURN(auto slabs, DeviceSlabs::Create(device, chunk_bytes));
  return std::unique_ptr<OwnDeviceMemory>(new OwnDeviceMemory(std::move(slabs), chunk_bytes));
}

OwnDeviceMemory::OwnDeviceMemory(std::unique_ptr<DeviceSlabs> slabs, uint64_t chunk_bytes)
    : slabs_(std::move(slabs)), chunk_bytes_(chunk_bytes) {
  TC_CHECK(::getrandom(uuid_.data(), uuid_.size(), 0) == static_cast<ssize_t>(uuid_.size()));
}

absl::StatusOr<std::vector<uint32_t>> OwnDeviceMemory::Chunks() const {
  std::vector<uint32_t> chunks;
  for (const auto& [chunk, slab] : chunks_) chunks.push_back(chunk);
  return chunks;
}

absl::Status OwnDeviceMemory::Lend(uint32_t chunk) {
  TC_ASSIGN_OR_RETURN(cuda::Slab slab, cuda::Slab::Create(slabs_->device(), chunk_bytes_));
  TC_RETURN_IF_ERROR(slabs_->Map(chunk, slab));
  if (absl::Status status = slabs_->Clear(chunk); !status.ok()) {
    slabs_->Unmap(chunk);
    return status;
  }
  chunks_[chunk] = std::move(slab);
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> OwnDeviceMemory::Export(uint32_t chunk) const {
  const auto found = chunks_.find(chunk);
  if (found == chunks_.end()) return absl::NotFoundError("there is no such chunk");
  return found->second.Export();
}

void OwnDeviceMemory::Return(uint32_t chunk) {
  slabs_->Unmap(chunk);
  chunks_.erase(chunk);
}

}  // namespace thermocline
