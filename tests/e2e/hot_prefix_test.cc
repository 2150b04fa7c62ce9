// The engine on CUDA, end to end, on a machine without a GPU: emulated kernels, the fake runtime
// and the daemon's hot tier over the same. A prefix that lies on the device is attended to where it
// lies, and the tokens follow that follow from memory: the golden ones.
#include <gtest/gtest.h>

#include "client/device_cuda.h"
#include "engine/cuda_transformer.h"
#include "engine/generator.h"
#include "tests/client/hot_fixture.h"
#include "tests/engine/transformer_fixture.h"

namespace thermocline {
namespace {

constexpr size_t kPrefixTokens = 128;
constexpr size_t kPrefixBlocks = kPrefixTokens / kBlockTokens;
constexpr size_t kNewTokens = 32;
constexpr uint32_t kFillerPlaces = 128;

class HotPrefixTest : public HotTest, public ::testing::WithParamInterface<KvDtype> {
 protected:
  void SetUp() override {
    setenv("THERMOCLINE_CUBLASLT", TC_CUBLASLT_STANDIN, 1);
    TC_NEED_FILE(ModelData("golden/p0.json"));
    TC_NEED_FILE(ModelData("stories260K.gguf"));
    const auto file = ModelFile::Open(ModelData("stories260K.gguf"), {.context_length = 512});
    ASSERT_TRUE(file.ok()) << file.status();
    auto model = LoadOnCuda(**file);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    const auto digest = (*file)->content_sha256();
    ASSERT_TRUE(digest.ok()) << digest.status();
    geometry_ = model_->kv_geometry(GetParam());
    spec_ = SpaceOf(model_->config(), geometry_, *digest, kCudaNumerics);
    golden_ = ReadJson(ModelData("golden/p0.json"))["out_ids"].get<std::vector<int32_t>>();
    golden_.insert(golden_.begin(), 1);
    ASSERT_GT(golden_.size(), kPrefixTokens + 1 + kNewTokens);
    Begin();
  }

  /// One turn of an engine of its own: `tokens` behind the golden prefix and one id more. The
  /// daemon is killed at token number `kill_at`.
  GenerateResult Turn(size_t tokens, size_t kill_at = 0) {
    auto device = OpenCudaAccess(0);
    TC_CHECK(device.ok());
    auto client = Client::Connect({.socket_path = daemon_->socket(),
                                   .client_name = "engine",
                                   .timeout = DaemonProcess::kCallTimeout,
                                   .device = *device});
    TC_CHECK(client.ok());
    auto space = (*client)->OpenSpace(spec_);
    TC_CHECK(space.ok());
    PrivateBlocks pages(geometry_, BlocksOf(kPrefixTokens + 1 + tokens));
    KvSequence kv(pages, **client, *space);
    kv.ReadOnDevice({.layout = LayoutOf(geometry_),
                     .copy_off = [](std::byte* to, const std::byte* from, uint64_t bytes) {
                       return CopyOffDevice(to, from, bytes);
                     }});
    GenerateRequest request;
    request.prompt_ids.assign(golden_.begin(), golden_.begin() + kPrefixTokens + 1);
    request.max_tokens = tokens;
    size_t count = 0;
    request.on_token = [&](int32_t) {
      if (++count == kill_at) daemon_->Stop(SIGKILL);
      return true;
    };
    const auto result = Generate(*model_, GetParam(), kv, request);
    EXPECT_TRUE(result.ok()) << result.status();
    in_place_ =
        static_cast<size_t>(std::count(kv.on_device().begin(), kv.on_device().end(), uint8_t{1}));
    return result.ok() ? *result : GenerateResult{};
  }

  /// Others take the prefix's place in memory.
  void FillMemory() {
    auto filler = client_->OpenSpace(TestSpace(geometry_.block_bytes(), "filler"));
    ASSERT_TRUE(filler.ok()) << filler.status();
    for (int i = 0; i < 50; ++i) {
      const auto tokens = Prompt(++filled_, kFillerPlaces);
      auto lease = filler->Match(tokens);
      ASSERT_TRUE(lease.ok()) << lease.status();
      const absl::Status written = Extend(*filler, *lease, tokens, kFillerPlaces);
      ASSERT_TRUE(written.ok()) << written;
    }
  }

  std::unique_ptr<Transformer> model_;
  KvGeometry geometry_;
  SpaceSpec spec_;
  std::vector<int32_t> golden_;
  size_t in_place_ = 0;
};

TEST_P(HotPrefixTest, APrefixOnTheDeviceIsAttendedToWhereItLies) {
  Turn(1);
  const GenerateResult by_memory = Turn(kNewTokens);  // it is used again
  ASSERT_EQ(by_memory.cached_by_tier.at("warm"), kPrefixTokens);
  if (GetParam() == KvDtype::kF16) {
    const auto first = golden_.begin() + kPrefixTokens + 1;
    EXPECT_EQ(by_memory.output_ids, std::vector<int32_t>(first, first + kNewTokens));
  }
  const auto is_hot = [&] {
    FillMemory();
    if (Use(BlockTier::kHot).promotions >= kPrefixBlocks) return true;
    Turn(1);
    return false;
  };
  ASSERT_TRUE(Eventually(is_hot, std::chrono::seconds(120))) << Use(BlockTier::kHot).state;

  const TierUse hot = Use(BlockTier::kHot), warm = Use(BlockTier::kWarm);
  const GenerateResult in_place = Turn(kNewTokens);
  EXPECT_EQ(in_place.cached_by_tier.at("hot"), kPrefixTokens);
  EXPECT_EQ(in_place_, kPrefixBlocks);
  EXPECT_EQ(Use(BlockTier::kHot).demotions, hot.demotions) << "nothing was loaded";
  EXPECT_EQ(Use(BlockTier::kWarm).promotions, warm.promotions);
  EXPECT_EQ(in_place.output_ids, by_memory.output_ids);

  const GenerateResult killed = Turn(kNewTokens, kNewTokens / 2);
  EXPECT_EQ(killed.cached_by_tier.at("hot"), kPrefixTokens);
  EXPECT_EQ(killed.recoveries, 1u);
  EXPECT_EQ(in_place_, 0u) << "the blocks are copied off the device";
  EXPECT_EQ(killed.output_ids, by_memory.output_ids);
}

INSTANTIATE_TEST_SUITE_P(Types, HotPrefixTest,
                         ::testing::Values(KvDtype::kF16, KvDtype::kInt8, KvDtype::kE4m3,
                                           KvDtype::kInt4),
                         [](const auto& type) { return std::string(KvDtypeName(type.param)); });

}  // namespace
}  // namespace thermocline
