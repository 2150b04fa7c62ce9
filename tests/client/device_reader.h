// A client that reads hot blocks where they lie, over the fake CUDA runtime: every byte comes by a
// stream of the device.
#pragma once
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "client/device_cuda.h"
#include "kernels/cuda/copies.h"
#include "kernels/cuda/device.h"
#include "tests/client/blocks.h"

namespace thermocline {

inline BlockLayout LayoutOf(const SpaceSpec& spec) {
  BlockLayout layout{
      .kv_dtype = spec.kv_dtype, .layout = spec.layout, .block_tokens = spec.block_tokens};
  for (const PartSpec& part : spec.parts) layout.block_bytes.push_back(part.block_bytes);
  return layout;
}

class DeviceReader {
 public:
  DeviceReader(const std::string& socket, const SpaceSpec& spec) {
    auto device = OpenCudaAccess(0);
    TC_CHECK(device.ok());
    auto client = Client::Connect({.socket_path = socket,
                                   .client_name = "device",
                                   .timeout = std::chrono::seconds(20),
                                   .device = *device});
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
  std::unique_ptr<cuda::Stream> stream_;
};

}  // namespace thermocline
