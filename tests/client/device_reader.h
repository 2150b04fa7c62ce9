// A client that reads hot blocks where they lie, and fills slots there, over CUDA or the fake of
// it: every byte comes and goes by a stream of the device.
#pragma once
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/check.h"
#include "client/device_cuda.h"
#include "kernels/cuda/copies.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"
#include "tests/client/blocks.h"

namespace thermocline {

inline BlockLayout LayoutOf(const SpaceSpec& spec) {
  BlockLayout layout{
      .kv_dtype = spec.kv_dtype, .layout = spec.layout, .block_tokens = spec.block_tokens};
  for (const PartSpec& part : spec.parts) layout.block_bytes.push_back(part.block_bytes);
  return layout;
}

/// Holds a stream up until it is opened.
class Gate {
 public:
  explicit Gate(const cuda::Stream& stream) {
    EXPECT_TRUE(cuda::CallAfter(stream.get(), [opened = opened_.get_future().share()] {
                  opened.wait();
                }).ok());
  }
  ~Gate() { Open(); }
  void Open() {
    if (!std::exchange(open_, true)) opened_.set_value();
  }

 private:
  std::promise<void> opened_;
  bool open_ = false;
};

class DeviceReader {
 public:
  /// `device`: in place of CUDA's.
  DeviceReader(const std::string& socket, const SpaceSpec& spec,
               std::shared_ptr<DeviceAccess> device = nullptr) {
    if (device == nullptr) {
      auto cuda = OpenCudaAccess(0);
      TC_CHECK(cuda.ok());
      device = *cuda;
    }
    auto client = Client::Connect({.socket_path = socket,
                                   .client_name = "device",
                                   .timeout = std::chrono::seconds(20),
                                   .device = std::move(device)});
    TC_CHECK(client.ok());
    client_ = *std::move(client);
    auto space = client_->OpenSpace(spec);
    TC_CHECK(space.ok());
    space_ = std::make_unique<Space>(*std::move(space));
    TC_CHECK(cuda::UseDevice(0).ok());
    auto stream = cuda::Stream::Create();
    TC_CHECK(stream.ok());
    stream_ = std::make_unique<cuda::Stream>(*std::move(stream));
  }

  Client& client() { return *client_; }
  const Space& space() const { return *space_; }
  cuda::Stream& stream() { return *stream_; }

  /// A path made readable, hot blocks where they lie.
  absl::StatusOr<Lease> Match(const std::vector<int32_t>& tokens) {
    TC_ASSIGN_OR_RETURN(Lease lease, space_->MatchOnDevice(tokens, LayoutOf(space_->spec())));
    TC_RETURN_IF_ERROR(lease.Load().status());
    return lease;
  }

  /// Gives the stream what copies a block off the device: at once, where `to` is pinned.
  void StartCopy(Lease& lease, uint32_t depth, std::byte* to) {
    const std::span<const std::byte> view = lease.DeviceView(depth);
    const absl::Status started =
        cuda::CopyAsync({.to = to, .from = view.data(), .bytes = view.size()}, stream_->get());
    EXPECT_TRUE(started.ok()) << started;
  }

  /// Slots of the device for the places [first, places) of a prompt, and, given to the stream, what
  /// fills them. `gate`: holds the stream up before; not earlier, as the driver waits for streams
  /// when it maps memory.
  absl::StatusOr<std::vector<Reservation>> StartFilling(const std::vector<int32_t>& tokens,
                                                        uint32_t first, uint32_t places,
                                                        std::optional<Gate>* gate = nullptr) {
    TC_ASSIGN_OR_RETURN(auto slots,
                        space_->ReserveOnDevice(places - first, LayoutOf(space_->spec()), 0,
                                                std::chrono::seconds(30)));
    if (slots.size() != places - first) return absl::ResourceExhaustedError("too few slots");
    std::vector<cuda::Copy> copies;
    for (uint32_t i = 0; i < slots.size(); ++i) {
      const std::span<std::byte> to = slots[i].device_bytes();
      const auto content = Content(tokens, first + i, 0, to.size());
      TC_ASSIGN_OR_RETURN(cuda::PinnedBuffer from, cuda::PinnedBuffer::Allocate(to.size()));
      std::memcpy(from.data(), content.data(), content.size());
      copies.push_back({.to = to.data(), .from = from.data(), .bytes = to.size()});
      sources_.push_back(std::move(from));
    }
    if (gate != nullptr) gate->emplace(*stream_);
    for (const cuda::Copy& copy : copies) {
      TC_RETURN_IF_ERROR(cuda::CopyAsync(copy, stream_->get()));
    }
    return slots;
  }
  /// Fills the places [lease.depth(), places) and has them committed once the stream has come by.
  absl::Status ExtendAfter(Lease& lease, const std::vector<int32_t>& tokens, uint32_t places,
                           std::optional<Gate>* gate = nullptr) {
    const uint32_t first = lease.depth();
    TC_ASSIGN_OR_RETURN(auto slots, StartFilling(tokens, first, places, gate));
    return lease.CommitAfter(NamesOf(tokens, first, places), std::move(slots), stream_->get());
  }
  static std::vector<int32_t> NamesOf(const std::vector<int32_t>& tokens, uint32_t first,
                                      uint32_t places) {
    return {tokens.begin() + first * kPlaceTokens, tokens.begin() + places * kPlaceTokens};
  }

  /// The depths whose blocks are read in place.
  static std::vector<uint32_t> InPlace(Lease& lease) {
    std::vector<uint32_t> depths;
    for (uint32_t depth = 0; depth < lease.depth(); ++depth) {
      if (!lease.DeviceView(depth).empty()) depths.push_back(depth);
    }
    return depths;
  }

  /// How many places, from the root, have all their legal content, in memory or on the device.
  uint32_t RightPlaces(Lease& lease, const std::vector<int32_t>& tokens) {
    for (uint32_t depth = 0; depth < lease.depth(); ++depth) {
      const uint64_t bytes = space_->spec().parts[0].block_bytes;
      std::vector<std::byte> copy(bytes);
      std::span<const std::byte> view = lease.View(depth);
      if (view.empty()) {
        StartCopy(lease, depth, copy.data());
        EXPECT_TRUE(stream_->Synchronize().ok());
        view = copy;
      }
      if (!Holds(view, Content(tokens, depth, 0, bytes))) return depth;
    }
    return lease.depth();
  }

 private:
  std::unique_ptr<Client> client_;
  std::unique_ptr<Space> space_;
  std::vector<cuda::PinnedBuffer> sources_;  // of what the stream fills slots with
  std::unique_ptr<cuda::Stream> stream_;
};

}  // namespace thermocline
