// The forward pass against independent oracles: llama2.c's run.c (stories260K), llama.cpp (a random
// tiny llama, SmolLM2). The figures and their gates: data/models/README.md.
#include "engine/transformer.h"

#include <algorithm>
#include <cmath>

#include "engine/sampler.h"
#include "tests/engine/transformer_fixture.h"

namespace thermocline {
namespace {

double MaxDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double greatest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    greatest = std::max(greatest, std::fabs(static_cast<double>(a[i]) - b[i]));
  }
  return greatest;
}

struct Story {
  const char* golden;
  const char* model;
};

class StoriesTest : public testing::TestWithParam<Story> {};

TEST_P(StoriesTest, GoldenIdsAndLogitsOf256GreedySteps) {
  const std::string golden = ModelData("golden/") + GetParam().golden;
  const std::string path = ModelData(GetParam().model);
  TC_NEED_FILE(golden + ".json");
  TC_NEED_FILE(path);
  const auto story = ReadJson(golden + ".json");
  const auto prompt = story["prompt_ids"].get<std::vector<int32_t>>();
  const auto wanted = story["out_ids"].get<std::vector<int32_t>>();
  const auto logits = ReadArray<float>(golden + ".logits.f32");
  const auto model = LoadModel(path, 2, "", 512);
  ASSERT_TRUE(model);
  const size_t vocab = model->config().vocab;

  // Row i of the logits belongs to position i: teacher-forced over the prompt, then greedy.
  TestSequence sequence(*model, KvDtype::kF32, 512);
  std::vector<int32_t> ids = prompt;
  double worst = 0;
  std::vector<int32_t> output;
  for (size_t i = 0; i * vocab < logits.size(); ++i) {
    sequence.Feed(ids, i, i + 1, 1);
    const std::vector<float> row(logits.begin() + i * vocab, logits.begin() + (i + 1) * vocab);
    worst = std::max(worst, MaxDifference(sequence.last_logits(), row));
    const int32_t next = GreedyToken(sequence.last_logits());
    if (i + 1 >= ids.size()) ids.push_back(next);
  }
  const std::vector<int32_t> all(ids.begin() + prompt.size(), ids.end());
  const size_t compared = std::min(all.size(), wanted.size());
  EXPECT_GE(compared + prompt.size(), 256u);
  EXPECT_TRUE(std::equal(all.begin(), all.begin() + compared, wanted.begin()));
  EXPECT_LT(worst, 5e-4);
  RecordProperty("max_logit_difference", std::to_string(worst));
  std::printf("%s on %s: %zu greedy ids, max |dlogit| %.2e\n", GetParam().golden, GetParam().model,
              compared, worst);
}

INSTANTIATE_TEST_SUITE_P(Golden, StoriesTest,
                         testing::Values(Story{"p0", "stories260K.gguf"},
                                         Story{"p1", "stories260K.gguf"},
                                         Story{"p0", "stories260K-hf"}));

TEST(TransformerTest, WarmsUpWhateverTheContext) {
  const std::string path = ModelData("stories260K.gguf");
  TC_NEED_FILE(path);
  for (const uint32_t context : {1u, 2u, 300u}) {
    const auto model = LoadModel(path, 2, "", context);
    ASSERT_TRUE(model);
    const absl::Status warm = model->WarmUp(KvDtype::kF32);
    EXPECT_TRUE(warm.ok()) << context << ": " << warm;
  }
}

TEST(TransformerTest, ConformsToLlamaCppOnARandomTinyLlama) {
  const std::string path = ModelData("conformance/tiny-llama-f32.gguf");
  TC_NEED_FILE(path);
  const auto wanted = ReadArray<float>(ModelData("conformance/tiny-llama.logits"));
  const auto model = LoadModel(path, 2);
  ASSERT_TRUE(model);
  std::vector<int32_t> ids = {1};
  uint32_t s = 7;
  for (int i = 0; i < 48; ++i) {
    s = s * 1664525u + 1013904223u;
    if (i > 0) ids.push_back(static_cast<int32_t>(3 + (s >> 8) % (model->config().vocab - 3)));
  }
  TestSequence sequence(*model, KvDtype::kF32, ids.size());
  EXPECT_LT(MaxDifference(sequence.AllLogits(ids), wanted), 5e-5);
  TestSequence half(*model, KvDtype::kF16, ids.size());
  EXPECT_LT(MaxDifference(half.AllLogits(ids), wanted), 2e-2);
}

class SmolLm2Test : public testing::Test {
 protected:
  void SetUp() override {
    TC_NEED_FILE(SmolLm2Path());
    TC_NEED_FILE(ModelData("smollm2/tf64.json"));
    model_ = LoadModel(SmolLm2Path(), 2);
    ASSERT_TRUE(model_);
  }
  std::unique_ptr<Transformer> model_;
};

TEST_F(SmolLm2Test, Top64LogitsOf64TeacherForcedTokens) {
  const auto ids = ReadJson(ModelData("smollm2/tf64.json"))["ids"].get<std::vector<int32_t>>();
  const auto top_ids = ReadArray<int32_t>(ModelData("smollm2/tf64_dequant_kvf32.top64.ids.i32"));
  const auto top = ReadArray<float>(ModelData("smollm2/tf64_dequant_kvf32.top64.logits.f32"));
  ASSERT_EQ(top.size(), ids.size() * 64);
  for (const KvDtype dtype : {KvDtype::kF32, KvDtype::kF16}) {
    TestSequence sequence(*model_, dtype, ids.size());
    const std::vector<float> logits = sequence.AllLogits(ids);
    double worst = 0;
    for (size_t i = 0; i < top.size(); ++i) {
      const float ours = logits[i / 64 * model_->config().vocab + top_ids[i]];
      worst = std::max(worst, std::fabs(static_cast<double>(ours) - top[i]));
    }
    EXPECT_LT(worst, dtype == KvDtype::kF32 ? 1e-3 : 0.1);
    std::printf("SmolLM2, %s KV: max |dlogit| %.2e\n", KvDtypeName(dtype), worst);
  }
}

TEST_F(SmolLm2Test, The64GreedyIdsOfEveryPrompt) {
  for (const char* name : {"a_capital", "c_chat_one_turn", "e_doc_1k5"}) {
    const auto golden = ReadJson(ModelData("smollm2/") + name + ".json");
    auto ids = golden["prompt_ids"].get<std::vector<int32_t>>();
    const auto wanted = golden["runs"]["dequant_kvf32"]["output_ids"].get<std::vector<int32_t>>();
    const size_t prompt = ids.size();
    TestSequence sequence(*model_, KvDtype::kF32, prompt + wanted.size());
    sequence.Feed(ids, 0, prompt, 256);
    while (ids.size() < prompt + wanted.size()) {
      ids.push_back(GreedyToken(sequence.last_logits()));
      sequence.Feed(ids, ids.size() - 1, ids.size(), 1);
    }
    EXPECT_EQ(std::vector<int32_t>(ids.begin() + prompt, ids.end()), wanted) << name;
  }
}

class RefusalTest : public testing::Test {
 protected:
  void SetUp() override {
    TC_NEED_FILE(ModelData("stories260K.gguf"));
    model_ = LoadModel(ModelData("stories260K.gguf"), 1, "", 64);
    ASSERT_TRUE(model_);
    sequence_ = std::make_unique<TestSequence>(*model_, KvDtype::kF32, 64);
  }
  std::string Refusal(const Transformer::Step& step, absl::StatusCode code) {
    const std::string before = sequence_->Kv(64);
    const absl::Status status = model_->Forward(step);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_EQ(sequence_->Kv(64), before);
    return std::string(status.message());
  }
  std::unique_ptr<Transformer> model_;
  std::unique_ptr<TestSequence> sequence_;
};

TEST_F(RefusalTest, WhatExceedsTheContextIsRefusedWithItsSize) {
  const std::vector<int32_t> ids(65, 5);
  auto& blocks = sequence_->blocks();
  EXPECT_NE(Refusal({.tokens = ids, .blocks = blocks}, absl::StatusCode::kOutOfRange).find("64"),
            std::string::npos);
  const std::span<const int32_t> one(ids.data(), 1);
  Refusal({.tokens = one, .position = 64, .blocks = blocks}, absl::StatusCode::kOutOfRange);
  Refusal({.tokens = one, .position = INT32_MAX, .blocks = blocks}, absl::StatusCode::kOutOfRange);
  Refusal({.tokens = one, .position = -1, .blocks = blocks}, absl::StatusCode::kOutOfRange);
}

TEST_F(RefusalTest, BadIdsBlocksAndSizesAreRefused) {
  auto& blocks = sequence_->blocks();
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const std::vector<int32_t> good(20, 5), negative = {5, -1}, beyond = {5, 512};
  std::vector<float> logits(513);
  Refusal({.tokens = {}, .blocks = blocks}, kInvalid);
  Refusal({.tokens = negative, .blocks = blocks}, kInvalid);
  EXPECT_NE(Refusal({.tokens = beyond, .blocks = blocks}, kInvalid).find("512"), std::string::npos);
  Refusal({.tokens = good, .blocks = std::span(blocks.data(), 1)}, kInvalid);
  Refusal({.tokens = good, .blocks = blocks, .logits = logits}, kInvalid);
  for (const KvDtype code : {KvDtype::kInt8, KvDtype::kE4m3, KvDtype::kInt4}) {
    EXPECT_NE(Refusal({.tokens = good, .blocks = blocks, .kv_dtype = code}, kInvalid)
                  .find(KvDtypeName(code)),
              std::string::npos);
  }
  Transformer::Choice choice;
  Refusal({.tokens = good, .blocks = blocks, .choice = &choice}, kInvalid);
  auto sampler = Sampler::Make({});
  choice.sampler = &*sampler;
  logits.resize(512);
  Refusal({.tokens = good, .blocks = blocks, .logits = logits, .choice = &choice}, kInvalid);
  Refusal({.tokens = good, .blocks = blocks, .chunk_tokens = 0}, kInvalid);
  Refusal({.tokens = good, .blocks = blocks, .chunk_tokens = 1 << 20}, kInvalid);
  std::vector<std::byte*> odd = blocks;
  odd[1] += 4;
  Refusal({.tokens = good, .blocks = odd}, kInvalid);
  odd[1] = nullptr;
  Refusal({.tokens = good, .blocks = odd}, kInvalid);
}

TEST_F(RefusalTest, ProgressIsToldAfterEveryChunk) {
  const std::vector<int32_t> ids(50, 5);
  std::vector<size_t> told;
  ASSERT_TRUE(model_
                  ->Forward({.tokens = ids,
                             .blocks = sequence_->blocks(),
                             .progress = [&](size_t done) { told.push_back(done); },
                             .chunk_tokens = 20})
                  .ok());
  EXPECT_EQ(told, (std::vector<size_t>{17, 34, 50}));
}

TEST(TransformerTest, AnUnknownInstructionSetIsRefused) {
  TC_NEED_FILE(ModelData("stories260K.gguf"));
  const auto file = ModelFile::Open(ModelData("stories260K.gguf"));
  ASSERT_TRUE(file.ok());
  setenv("THERMOCLINE_CPU", "mmx", 1);
  const auto model = Transformer::Load(**file, {});
  unsetenv("THERMOCLINE_CPU");
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace thermocline
