#include "daemon/data_load.h"

#include "daemon/data_stream.h"

namespace thermocline {
namespace {

constexpr size_t kMaxBlocksPerResponse = 4096;

class BlocksReady final : public LoadStream<v1::LoadResponse, BlockView> {
 public:
  explicit BlocksReady(DaemonMetrics& metrics) : LoadStream(metrics, Operation::kLoad) {}

 private:
  std::vector<BlockView> ItemsOf(const TierStack&,
                                 const std::vector<BlockView>& blocks) const override {
    return blocks;
  }
  std::vector<BlockView> Take(std::deque<BlockView>& queue) const override {
    const auto end =
        queue.begin() + static_cast<ptrdiff_t>(std::min(queue.size(), kMaxBlocksPerResponse));
    std::vector<BlockView> taken(queue.begin(), end);
    queue.erase(queue.begin(), end);
    return taken;
  }
  void Send(std::vector<BlockView> blocks) override {
    response_.clear_blocks();
    for (const BlockView& block : blocks) ToWire(block, *response_.add_blocks());
    StartWrite(&response_);
  }

  v1::LoadResponse response_;  // of the write under way
};

}  // namespace

grpc::ServerWriteReactor<v1::LoadResponse>* StartLoad(ServiceContext& services,
                                                      grpc::CallbackServerContext& context,
                                                      const v1::LoadRequest& request) {
  auto stream = std::make_shared<BlocksReady>(services.metrics);
  stream->Hold(stream);
  const auto identity = Authenticate(context, services, Right::kRead);
  if (identity.ok()) {
    stream->Load(*identity->tenant, identity->session, request.lease(), request.hot_stays());
  } else {
    stream->End(identity.status());
  }
  return stream.get();
}

}  // namespace thermocline
