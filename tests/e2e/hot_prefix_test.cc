// The engine on CUDA and the daemon's hot tier, end to end: without a GPU by emulated kernels and
// the fake runtime, and on one. A prefix that lies on the device is attended to where it
// lies, and the tokens follow that follow from memory: the golden ones.
#include <gtest/gtest.h>

#include "client/device_cuda.h"
#include "engine/cuda_transformer.h"
#include "engine/generator.h"
#include "tests/client/hot_fixture.h"
#include "tests/engine/transformer_fixture.h"

namespace thermocline {
namespace {

constexpr uint32_t kContext = 512;
constexpr uint64_t kMemoryBytes = 64 * MiB;  // the daemon's

struct GoldenRun {
  const char* name;
  std::string model, golden;  // files
  KvDtype dtype;
  size_t prompt_tokens, new_tokens;
};

class HotPrefixTest : public HotTest, public ::testing::WithParamInterface<GoldenRun> {
 protected:
  void SetUp() override {
    if (fakecuda::IsThere()) setenv("THERMOCLINE_CUBLASLT", TC_CUBLASLT_STANDIN, 1);
    TC_NEED_FILE(run_.golden);
    TC_NEED_FILE(run_.model);
    const auto file = ModelFile::Open(run_.model, {.context_length = kContext});
    ASSERT_TRUE(file.ok()) << file.status();
    auto model = LoadOnCuda(**file);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    const auto digest = (*file)->content_sha256();
    ASSERT_TRUE(digest.ok()) << digest.status();
    geometry_ = model_->kv_geometry(run_.dtype);
    spec_ = SpaceOf(model_->config(), geometry_, *digest, kCudaNumerics);
    const auto golden = ReadJson(run_.golden);
    golden_ = golden["prompt_ids"].get<std::vector<int32_t>>();
    const auto output =
        golden.contains("runs") ? golden["runs"]["dequant_kvf32"]["output_ids"] : golden["out_ids"];
    golden_.insert(golden_.end(), output.begin(), output.end());
    ASSERT_GE(golden_.size(), run_.prompt_tokens + run_.new_tokens);
    Begin();
  }

  /// One turn of an engine of its own: `tokens` behind the golden prompt. The daemon is killed at
  /// token number `kill_at`.
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
    PrivateBlocks pages(geometry_, BlocksOf(run_.prompt_tokens + tokens));
    KvSequence kv(pages, **client, *space);
    kv.ReadOnDevice({.layout = LayoutOf(geometry_),
                     .copy_off = [](std::byte* to, const std::byte* from, uint64_t bytes) {
                       return CopyOffDevice(to, from, bytes);
                     }});
    GenerateRequest request;
    request.prompt_ids = Golden(0, run_.prompt_tokens);
    request.max_tokens = tokens;
    size_t count = 0;
    request.on_token = [&](int32_t) {
      if (++count == kill_at) daemon_->Stop(SIGKILL);
      return true;
    };
    const auto result = Generate(*model_, run_.dtype, kv, request);
    EXPECT_TRUE(result.ok()) << result.status();
    in_place_ =
        static_cast<size_t>(std::count(kv.on_device().begin(), kv.on_device().end(), uint8_t{1}));
    return result.ok() ? *result : GenerateResult{};
  }

  /// Others take the prefix's place in memory.
  void FillMemory() {
    auto filler = client_->OpenSpace(TestSpace(geometry_.block_bytes(), "filler"));
    ASSERT_TRUE(filler.ok()) << filler.status();
    const uint64_t block_bytes = geometry_.block_bytes();
    const auto places = static_cast<uint32_t>(std::min<uint64_t>(128, 8 * MiB / block_bytes));
    for (uint64_t bytes = 0; bytes < kMemoryBytes; bytes += places * block_bytes) {
      const auto tokens = Prompt(++filled_, places);
      auto lease = filler->Match(tokens);
      ASSERT_TRUE(lease.ok()) << lease.status();
      const absl::Status written = Extend(*filler, *lease, tokens, places);
      ASSERT_TRUE(written.ok()) << written;
    }
  }

  std::vector<int32_t> Golden(size_t begin, size_t end) const {
    return {golden_.begin() + static_cast<ptrdiff_t>(begin),
            golden_.begin() + static_cast<ptrdiff_t>(end)};
  }

  const GoldenRun& run_ = GetParam();
  /// What a cache can have of the prompt, of which one id at least is computed.
  const size_t prefix_blocks_ = (run_.prompt_tokens - 1) / kBlockTokens;
  const size_t prefix_tokens_ = prefix_blocks_ * kBlockTokens;
  std::unique_ptr<Transformer> model_;
  KvGeometry geometry_;
  SpaceSpec spec_;
  std::vector<int32_t> golden_;
  size_t in_place_ = 0;
};

TEST_P(HotPrefixTest, APrefixOnTheDeviceIsAttendedToWhereItLies) {
  Turn(1);
  const GenerateResult by_memory = Turn(run_.new_tokens);  // it is used again
  ASSERT_EQ(by_memory.cached_by_tier.at("warm"), prefix_tokens_);
  if (run_.dtype == KvDtype::kF16 && fakecuda::IsThere()) {  // a GPU breaks ties its own way
    EXPECT_EQ(by_memory.output_ids,
              Golden(run_.prompt_tokens, run_.prompt_tokens + run_.new_tokens));
  }
  auto space = client_->OpenSpace(spec_);
  ASSERT_TRUE(space.ok()) << space.status();
  const auto is_hot = [&] {
    FillMemory();
    auto lease = space->Match(Golden(0, prefix_tokens_));
    if (!lease.ok()) return false;
    if (HotBlocks(*lease) == prefix_blocks_) return true;
    EXPECT_TRUE(lease->Load().ok());  // it is used once more
    return false;
  };
  ASSERT_TRUE(Eventually(is_hot, std::chrono::seconds(120))) << Use(BlockTier::kHot).state;

  const TierUse hot = Use(BlockTier::kHot), warm = Use(BlockTier::kWarm);
  const GenerateResult in_place = Turn(run_.new_tokens);
  EXPECT_EQ(in_place.cached_by_tier.at("hot"), prefix_tokens_);
  EXPECT_EQ(in_place_, prefix_blocks_);
  EXPECT_EQ(Use(BlockTier::kHot).demotions, hot.demotions) << "nothing was loaded";
  EXPECT_EQ(Use(BlockTier::kWarm).promotions, warm.promotions);
  EXPECT_EQ(in_place.output_ids, by_memory.output_ids);

  const GenerateResult killed = Turn(run_.new_tokens, run_.new_tokens / 2);
  EXPECT_EQ(killed.cached_by_tier.at("hot"), prefix_tokens_);
  EXPECT_EQ(killed.recoveries, 1u);
  EXPECT_EQ(in_place_, 0u) << "the blocks are copied off the device";
  EXPECT_EQ(killed.output_ids, by_memory.output_ids);
}

/// The prompt and what follows are the 257 ids of the golden run: the beginning and 256 more.
GoldenRun Stories(const char* name, KvDtype dtype, size_t new_tokens) {
  return {name, ModelData("stories260K.gguf"), ModelData("golden/p0.json"), dtype, 129, new_tokens};
}

INSTANTIATE_TEST_SUITE_P(Runs, HotPrefixTest,
                         ::testing::Values(Stories("Stories260KF16", KvDtype::kF16, 128),
                                           Stories("Stories260KInt8", KvDtype::kInt8, 32),
                                           Stories("Stories260KE4m3", KvDtype::kE4m3, 32),
                                           Stories("Stories260KInt4", KvDtype::kInt4, 32),
                                           GoldenRun{"SmolLm2F16", SmolLm2Path(),
                                                     ModelData("smollm2/c_chat_one_turn.json"),
                                                     KvDtype::kF16, 40, 8}),
                         [](const auto& run) { return std::string(run.param.name); });

}  // namespace
}  // namespace thermocline
