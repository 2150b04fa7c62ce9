// The forward pass on a GPU, against the golden tokens and against the CPU's with f16 KV. Without a
// GPU it is the same host code and the same kernels: the fake runtime, emulated kernels, a stand-in
// for cuBLASLt. Where CUDA cannot be used the tests skip, visibly.
#include "engine/cuda_transformer.h"

#include <cmath>
#include <cstdio>

#include "engine/sampler.h"
#include "kernels/cuda/device.h"
#include "kernels/simt/numbers.h"
#include "tests/engine/temporary_directory.h"
#include "tests/engine/transformer_fixture.h"

namespace thermocline {
namespace {

/// What f16 weights and activations may cost a logit of the tiny models.
constexpr double kLogitTolerance = 0.05;

absl::StatusOr<std::unique_ptr<Transformer>> LoadCuda(const std::string& path,
                                                      uint32_t context = 0) {
  TC_ASSIGN_OR_RETURN(const auto file, ModelFile::Open(path, {.context_length = context}));
  return LoadOnCuda(*file);
}

class CudaTransformerTest : public testing::Test {
 protected:
  void SetUp() override {
#ifdef TC_CUBLASLT_STANDIN
    setenv("THERMOCLINE_CUBLASLT", TC_CUBLASLT_STANDIN, 1);
#endif
  }

  /// Null, and the test skipped, where there is no file, no GPU or no cuBLASLt.
  std::unique_ptr<Transformer> LoadOrSkip(const std::string& path, uint32_t context = 0) {
    if (!Exists(path)) {
      Skip("needs " + path);
      return nullptr;
    }
    auto model = LoadCuda(path, context);
    if (!model.ok() &&
        (absl::IsUnavailable(model.status()) || absl::IsUnimplemented(model.status()))) {
      Skip(std::string(model.status().message()));
      return nullptr;
    }
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }
  static void Skip(const std::string& why) { GTEST_SKIP() << why; }
};

/// Feeds ids[from, to) in chunks, as steps of which each goes on from the last.
std::vector<float> Feed(Transformer& model, TestSequence& sequence, const std::vector<int32_t>& ids,
                        size_t from, size_t to, int chunk, bool continues,
                        KvDtype dtype = KvDtype::kF16) {
  std::vector<float> logits(model.config().vocab);
  for (size_t i = from; i < to; i += static_cast<size_t>(chunk)) {
    const size_t count = std::min<size_t>(static_cast<size_t>(chunk), to - i);
    const absl::Status status = model.Forward({.tokens = {ids.data() + i, count},
                                               .position = static_cast<int>(i),
                                               .blocks = sequence.blocks(),
                                               .kv_dtype = dtype,
                                               .continues = continues || i > from,
                                               .logits = logits,
                                               .chunk_tokens = chunk});
    EXPECT_TRUE(status.ok()) << status;
  }
  return logits;
}

double MaxDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(std::isfinite(a[i])) << i;
    worst = std::max(worst, std::fabs(double{a[i]} - double{b[i]}));
  }
  return worst;
}

#ifdef TC_CUBLASLT_STANDIN
constexpr int kMostTies = 0;
#else
constexpr int kMostTies = 2;  // a GPU sums in another order
#endif

TEST_F(CudaTransformerTest, GeneratesTheGoldenTokensOfStories260K) {
  TC_NEED_FILE(ModelData("golden/p0.json"));
  const auto model = LoadOrSkip(ModelData("stories260K.gguf"), 512);
  if (model == nullptr) return;
  const auto wanted = ReadJson(ModelData("golden/p0.json"))["out_ids"].get<std::vector<int32_t>>();
  TestSequence sequence(*model, KvDtype::kF16, 257);
  // The golden ids are of float32: where two logits are nearly the same, halves may choose the
  // other.
  int ties = 0;
  std::vector<int32_t> ids = {1};
  for (size_t i = 0; i < wanted.size() && ids.size() <= 256; ++i) {
    const std::vector<float> logits = Feed(*model, sequence, ids, i, i + 1, 1, i > 0);
    const int32_t chosen = GreedyToken(logits);
    if (chosen != wanted[i]) {
      ++ties;
      EXPECT_LT(logits[chosen] - logits[wanted[i]], 0.02) << "token " << i;
    }
    ids.push_back(wanted[i]);
  }
  EXPECT_GE(ids.size(), 256u);
  EXPECT_LE(ties, kMostTies);
  std::printf("%zu golden tokens, %d ties, on %s\n", ids.size() - 1, ties, model->kernels());
}

class AgainstTheCpuTest : public CudaTransformerTest {
 protected:
  void SetUp() override {
    CudaTransformerTest::SetUp();
    gpu_ = LoadOrSkip(ModelData("stories260K.gguf"), 512);
    if (gpu_ == nullptr) return;
    cpu_ = LoadModel(ModelData("stories260K.gguf"), 1, "", 512);
    ASSERT_TRUE(cpu_);
    for (size_t i = 0; i < 150; ++i) ids_.push_back(static_cast<int32_t>(3 + i * 37 % 500));
  }
  std::unique_ptr<Transformer> gpu_, cpu_;
  std::vector<int32_t> ids_;
};

TEST_F(AgainstTheCpuTest, ChunksAndCachedPrefixesGiveItsLogits) {
  TestSequence expected(*cpu_, KvDtype::kF16, ids_.size());
  const std::vector<float> wanted = Feed(*cpu_, expected, ids_, 0, ids_.size(), 256, false);
  TestSequence whole(*gpu_, KvDtype::kF16, ids_.size());
  EXPECT_LT(MaxDifference(Feed(*gpu_, whole, ids_, 0, ids_.size(), 256, false), wanted),
            kLogitTolerance);
  TestSequence cut(*gpu_, KvDtype::kF16, ids_.size(), true);
  EXPECT_LT(MaxDifference(Feed(*gpu_, cut, ids_, 0, ids_.size(), 67, false), wanted),
            kLogitTolerance);
  // A prefix that somebody else computed, fetched from his blocks; and the CPU's.
  for (TestSequence* const source : {&whole, &expected}) {
    TestSequence rest(*gpu_, KvDtype::kF16, ids_.size());
    for (size_t i = 0; i < 6; ++i) rest.blocks()[i] = source->blocks()[i];
    EXPECT_LT(MaxDifference(Feed(*gpu_, rest, ids_, 96, ids_.size(), 256, false), wanted),
              kLogitTolerance);
  }
}

TEST_F(AgainstTheCpuTest, KvComesBackAndNothingElseIsTouched) {
  const size_t count = 41;
  TestSequence expected(*cpu_, KvDtype::kF16, 64), actual(*gpu_, KvDtype::kF16, 64);
  Feed(*cpu_, expected, ids_, 0, count, 256, false);
  Feed(*gpu_, actual, ids_, 0, 20, 20, false);
  Feed(*gpu_, actual, ids_, 20, count, 256, true);
  const std::string a = actual.Kv(64), b = expected.Kv(64);
  const size_t written = a.size() / 64 * count;
  EXPECT_EQ(a.substr(written), std::string(a.size() - written, '\xff'));
  double worst = 0;
  for (size_t i = 0; i < written; i += 2) {
    uint16_t x, y;
    std::memcpy(&x, a.data() + i, 2);
    std::memcpy(&y, b.data() + i, 2);
    worst = std::max(worst, std::fabs(double{ToFloat(Half{x})} - double{ToFloat(Half{y})}));
  }
  EXPECT_LT(worst, 0.05);
}

TEST_F(AgainstTheCpuTest, AStepThatContinuesFetchesNothing) {
  TestSequence sequence(*gpu_, KvDtype::kF16, ids_.size());
  Feed(*gpu_, sequence, ids_, 0, 100, 256, false);
  const std::vector<float> fetched = Feed(*gpu_, sequence, ids_, 100, 101, 1, false);
  for (size_t i = 0; i < 6; ++i) {
    std::memset(sequence.blocks()[i], 0xff, sequence.geometry().block_bytes());
  }
  EXPECT_EQ(Feed(*gpu_, sequence, ids_, 100, 101, 1, true), fetched);
  EXPECT_NE(Feed(*gpu_, sequence, ids_, 100, 101, 1, false), fetched);
}

TEST_F(AgainstTheCpuTest, LogitsOfEveryToken) {
  const std::vector<int32_t> ids(ids_.begin(), ids_.begin() + 30);
  TestSequence expected(*cpu_, KvDtype::kF16, 30), actual(*gpu_, KvDtype::kF16, 30);
  std::vector<float> wanted(30 * cpu_->config().vocab), logits(wanted.size());
  ASSERT_TRUE(cpu_->Forward({.tokens = ids,
                             .blocks = expected.blocks(),
                             .kv_dtype = KvDtype::kF16,
                             .logits = wanted})
                  .ok());
  const absl::Status status = gpu_->Forward({.tokens = ids,
                                             .blocks = actual.blocks(),
                                             .kv_dtype = KvDtype::kF16,
                                             .logits = logits,
                                             .chunk_tokens = 17});
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_LT(MaxDifference(logits, wanted), kLogitTolerance);
}

TEST_F(AgainstTheCpuTest, ATokenIsChosenAsByItsLogits) {
  TestSequence sequence(*gpu_, KvDtype::kF16, 64);
  Feed(*gpu_, sequence, ids_, 0, 40, 256, false);
  for (const Sampler::Options& options :
       {Sampler::Options{}, Sampler::Options{.temperature = 1, .seed = 1},
        Sampler::Options{.temperature = 0.8f, .top_p = 0.9f, .seed = 2},
        Sampler::Options{.temperature = 3, .top_k = 9, .seed = 3},
        Sampler::Options{.temperature = 2, .top_p = 0.7f, .top_k = 50, .seed = 4}}) {
    auto sampler = Sampler::Make(options);
    ASSERT_TRUE(sampler.ok());
    for (uint64_t draw = 0; draw < 3; ++draw) {
      const size_t at = 40 + draw;
      const std::vector<float> logits = Feed(*gpu_, sequence, ids_, at, at + 1, 1, true);
      Transformer::Choice choice = {.sampler = &*sampler, .draw = draw};
      const absl::Status status = gpu_->Forward({.tokens = {ids_.data() + at, 1},
                                                 .position = static_cast<int>(at),
                                                 .blocks = sequence.blocks(),
                                                 .kv_dtype = KvDtype::kF16,
                                                 .continues = true,
                                                 .choice = &choice});
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_EQ(choice.id, sampler->Sample(logits, draw)) << draw;
    }
  }
}

TEST_F(AgainstTheCpuTest, AWeightBeyondF16IsRefusedByName) {
  std::string bytes = ReadText(ModelData("stories260K.gguf"));
  const auto file = ModelFile::Open(ModelData("stories260K.gguf"));
  ASSERT_TRUE(file.ok()) << file.status();
  const Tensor* const down = (*file)->Find("blk.2.ffn_down.weight");
  ASSERT_TRUE(down != nullptr && down->type == TensorType::kF32);
  const std::string_view last(reinterpret_cast<const char*>(down->row(down->rows() - 1).data()),
                              down->row_bytes());
  const size_t at = bytes.find(last);
  ASSERT_NE(at, std::string::npos);
  const float large = 65536;
  std::memcpy(bytes.data() + at + last.size() - sizeof(large), &large, sizeof(large));
  const TemporaryDirectory directory;
  const auto model = LoadCuda(directory.Write("large.gguf", bytes), 512);
  ASSERT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument) << model.status();
  EXPECT_NE(model.status().message().find("blk.2.ffn_down.weight"), std::string::npos)
      << model.status();
}

TEST_F(AgainstTheCpuTest, OtherKvIsRefused) {
  TestSequence sequence(*gpu_, KvDtype::kF32, 16);
  const absl::Status status = gpu_->Forward(
      {.tokens = {ids_.data(), 5}, .blocks = sequence.blocks(), .kv_dtype = KvDtype::kF32});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
}

/// KV as codes.
class CodedKvTest : public AgainstTheCpuTest, public testing::WithParamInterface<KvDtype> {
 protected:
  std::vector<float> Compute(TestSequence& sequence, size_t from, size_t to, int chunk,
                             bool continues) {
    return Feed(*gpu_, sequence, ids_, from, to, chunk, continues, GetParam());
  }
  static std::string Bytes(TestSequence& sequence, size_t block) {
    return {reinterpret_cast<const char*>(sequence.blocks()[block]),
            sequence.geometry().block_bytes()};
  }
};

INSTANTIATE_TEST_SUITE_P(Codes, CodedKvTest,
                         testing::Values(KvDtype::kInt8, KvDtype::kE4m3, KvDtype::kInt4),
                         [](const auto& info) { return std::string(KvDtypeName(info.param)); });

TEST_P(CodedKvTest, LogitsAreCloseToThoseOfF16) {
  if (gpu_ == nullptr) return;
  const double tolerance = GetParam() == KvDtype::kInt8   ? 0.3
                           : GetParam() == KvDtype::kE4m3 ? 1
                                                          : 4;
  TestSequence plain(*gpu_, KvDtype::kF16, ids_.size());
  const std::vector<float> wanted = Feed(*gpu_, plain, ids_, 0, ids_.size(), 256, false);
  for (const int chunk : {256, 67}) {
    TestSequence coded(*gpu_, GetParam(), ids_.size());
    const double difference = MaxDifference(Compute(coded, 0, ids_.size(), chunk, false), wanted);
    EXPECT_LT(difference, tolerance);
    std::printf("%s: logits within %.3f of those of f16\n", KvDtypeName(GetParam()), difference);
  }
}

TEST_P(CodedKvTest, ACachedPrefixGivesTheSameBits) {
  if (gpu_ == nullptr) return;
  const size_t prefix = 96;
  TestSequence whole(*gpu_, GetParam(), ids_.size());
  Compute(whole, 0, prefix, 256, false);
  std::vector<std::vector<float>> wanted = {Compute(whole, prefix, 140, 256, true)};
  for (size_t i = 140; i < 146; ++i) wanted.push_back(Compute(whole, i, i + 1, 1, true));

  TestSequence other(*gpu_, KvDtype::kF16, 32);  // what the device holds is of another kind
  Feed(*gpu_, other, ids_, 0, 32, 256, false);
  TestSequence rest(*gpu_, GetParam(), ids_.size());
  for (size_t i = 0; i < prefix / kBlockTokens; ++i) rest.blocks()[i] = whole.blocks()[i];
  std::vector<std::vector<float>> actual = {Compute(rest, prefix, 140, 256, false)};
  for (size_t i = 140; i < 146; ++i) actual.push_back(Compute(rest, i, i + 1, 1, true));
  EXPECT_EQ(actual, wanted);
  for (size_t i = prefix / kBlockTokens; i < BlocksOf(146); ++i) {
    EXPECT_EQ(Bytes(rest, i), Bytes(whole, i)) << i;
  }
}

TEST_P(CodedKvTest, OtherTokensCodesAndScalesStay) {
  if (gpu_ == nullptr) return;
  TestSequence sequence(*gpu_, GetParam(), 32);
  Compute(sequence, 0, 5, 256, false);
  const KvGeometry& geometry = sequence.geometry();
  for (int layer = 0; layer < geometry.layers; ++layer) {
    for (const KvHalf half : {KvHalf::kKeys, KvHalf::kValues}) {
      for (int head = 0; head < geometry.kv_heads; ++head) {
        const std::string bytes =
            Bytes(sequence, 0)
                .substr(geometry.head_offset(layer, half, head), geometry.head_bytes());
        const std::string rows = bytes.substr(0, geometry.scales_offset());
        const std::string scales = bytes.substr(geometry.scales_offset());
        const size_t written = 5 * geometry.row_bytes();
        EXPECT_EQ(rows.substr(written), std::string(rows.size() - written, '\xff'));
        EXPECT_EQ(scales.substr(10), std::string(22, '\xff'));
        EXPECT_EQ(scales.substr(0, 10).find("\xff\xff"), std::string::npos);
      }
    }
  }
  EXPECT_EQ(Bytes(sequence, 1), std::string(geometry.block_bytes(), '\xff'));
}

TEST_F(CudaTransformerTest, PairsRotatedInHalves) {
  const auto gpu = LoadOrSkip(ModelData("stories260K-hf"), 512);
  if (gpu == nullptr) return;
  const auto cpu = LoadModel(ModelData("stories260K-hf"), 1, "", 512);
  ASSERT_TRUE(cpu);
  std::vector<int32_t> ids(40);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(3 + i * 41 % 500);
  TestSequence a(*gpu, KvDtype::kF16, 40), b(*cpu, KvDtype::kF16, 40);
  EXPECT_LT(
      MaxDifference(Feed(*gpu, a, ids, 0, 40, 256, false), Feed(*cpu, b, ids, 0, 40, 256, false)),
      kLogitTolerance);
}

TEST_F(CudaTransformerTest, EightTokensOfSmolLm2) {
  TC_NEED_FILE(ModelData("smollm2/a_capital.json"));
  const auto model = LoadOrSkip(SmolLm2Path(), 256);
  if (model == nullptr) return;
  const auto golden = ReadJson(ModelData("smollm2/a_capital.json"));
  auto ids = golden["prompt_ids"].get<std::vector<int32_t>>();
  const auto wanted = golden["runs"]["dequant_kvf32"]["output_ids"].get<std::vector<int32_t>>();
  const size_t prompt = ids.size(), count = 8;
  TestSequence sequence(*model, KvDtype::kF16, prompt + count);
  std::vector<float> logits = Feed(*model, sequence, ids, 0, prompt, 256, false);
  while (ids.size() < prompt + count) {
    ids.push_back(GreedyToken(logits));
    logits = Feed(*model, sequence, ids, ids.size() - 1, ids.size(), 1, true);
  }
  EXPECT_EQ(std::vector<int32_t>(ids.begin() + static_cast<ptrdiff_t>(prompt), ids.end()),
            std::vector<int32_t>(wanted.begin(), wanted.begin() + count));
}

TEST_F(CudaTransformerTest, AMissingCublasLtIsToldByName) {
  TC_NEED_FILE(ModelData("stories260K.gguf"));
  setenv("THERMOCLINE_CUBLASLT", "/nowhere/libcublasLt.so", 1);
  const auto model = LoadCuda(ModelData("stories260K.gguf"), 512);
  unsetenv("THERMOCLINE_CUBLASLT");
  ASSERT_EQ(model.status().code(), absl::StatusCode::kUnavailable) << model.status();
  if (cuda::DeviceCount().ok()) {
    EXPECT_NE(model.status().message().find("/nowhere"), std::string::npos) << model.status();
  }
}

}  // namespace
}  // namespace thermocline
