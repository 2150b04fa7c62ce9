// A GGUF file as a model: configuration, tokenizer's data, what is refused rather than ignored.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "engine/weights.h"
#include "tests/engine/gguf_writer.h"
#include "tests/engine/temporary_directory.h"

namespace thermocline {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GgufModelTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<ModelFile>> Open(const GgufWriter& writer,
                                                  const ModelFile::Options& options = {}) {
    return ModelFile::Open(directory_.Write("m.gguf", writer.Bytes()), options);
  }
  std::string ConfigError(const GgufWriter& writer) {
    const auto model = Open(writer);
    if (!model.ok()) return "not opened: " + model.status().ToString();
    const auto config = (*model)->config();
    EXPECT_THAT(config.status().ToString(), AnyOf("OK", HasSubstr("m.gguf")));
    return config.status().ToString();
  }

  TemporaryDirectory directory_;
};

TEST_F(GgufModelTest, DefaultsAreLlamaCppsOwn) {
  GgufWriter writer = LlamaKeys();
  writer.Uint("tokenizer.ggml.bos_token_id", 1).Uint("tokenizer.ggml.eos_token_id", 0xFFFFFFFF);
  const auto model = Open(AddLlamaTensors(writer));
  ASSERT_TRUE(model.ok()) << model.status();
  const auto config = (*model)->config();
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "llama");
  EXPECT_EQ(config->layers, 2u);
  EXPECT_EQ(config->embedding_width, 8u);
  EXPECT_EQ(config->ff_width, 12u);
  EXPECT_EQ(config->heads, 4u);
  EXPECT_EQ(config->kv_heads, 2u);
  EXPECT_EQ(config->head_dim, 2u);  // no key_length: width / heads
  EXPECT_EQ(config->vocab, 6u);
  EXPECT_EQ(config->context_length, 64u);
  EXPECT_EQ(config->rope_base, 10'000.f);  // no rope.freq_base
  EXPECT_EQ(config->rope_layout, RopeLayout::kAdjacentPairs);
  EXPECT_TRUE(config->tied_embeddings);
  EXPECT_EQ(config->bos_id, 1);
  EXPECT_TRUE(config->eos_ids.empty());
}

TEST_F(GgufModelTest, ContextCanBeOverridden) {
  GgufWriter writer = LlamaKeys();
  const auto model = Open(AddLlamaTensors(writer), {.context_length = 512});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->config()->context_length, 512u);
}

TEST_F(GgufModelTest, OutputOfItsOwnIsNotTied) {
  GgufWriter writer = LlamaKeys();
  AddLlamaTensors(writer).AddF32("output.weight", {6, 8});
  EXPECT_FALSE((*Open(writer))->config()->tied_embeddings);
}

TEST_F(GgufModelTest, RequireNamesWhatIsWrong) {
  GgufWriter writer = LlamaKeys();
  writer.Add({"k", 12, {1, 256}, std::string(144, '\0')});
  const auto model = Open(AddLlamaTensors(writer));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->Require("blk.1.attn_k.weight", {4, 8}).ok());
  const auto absent = (*model)->Require("blk.7.attn_k.weight", {4, 8});
  EXPECT_EQ(absent.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(absent.status().ToString(), HasSubstr("blk.7.attn_k.weight"));
  const auto shape = (*model)->Require("blk.1.attn_k.weight", {8, 8});
  EXPECT_THAT(shape.status().ToString(), AllOf(HasSubstr("[4, 8]"), HasSubstr("[8, 8]")));
  const auto type = (*model)->Require("k", {1, 256});
  EXPECT_EQ(type.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(type.status().ToString(), AllOf(HasSubstr("Q4_K"), HasSubstr("Q4_1")));
}

TEST_F(GgufModelTest, DuplicateTensorNamesAreRefused) {
  const auto model = Open(GgufWriter().AddF32("t", {4}).AddF32("t", {4}));
  EXPECT_THAT(model.status().ToString(), HasSubstr("two tensors bear the name 't'"));
}

TEST_F(GgufModelTest, OtherArchitecturesOpenButAreNotRun) {
  const auto error = ConfigError(GgufWriter().Text("general.architecture", "mamba"));
  EXPECT_THAT(error, AllOf(HasSubstr("UNIMPLEMENTED"), HasSubstr("mamba"), HasSubstr("llama")));
  EXPECT_THAT(ConfigError(GgufWriter()), HasSubstr("general.architecture"));
}

TEST_F(GgufModelTest, FeaturesThatWouldBeIgnoredAreRefused) {
  const auto with = [&](auto&& change) {
    GgufWriter writer = LlamaKeys();
    AddLlamaTensors(writer);
    change(writer);
    return ConfigError(writer);
  };
  EXPECT_THAT(with([](GgufWriter& w) { w.AddF32("rope_freqs.weight", {1}); }),
              AllOf(HasSubstr("UNIMPLEMENTED"), HasSubstr("rope_freqs.weight")));
  EXPECT_THAT(with([](GgufWriter& w) { w.AddF32("blk.0.attn_q.bias", {8}); }),
              HasSubstr("blk.0.attn_q.bias"));
  EXPECT_THAT(with([](GgufWriter& w) { w.AddF32("blk.2.attn_norm.weight", {8}); }),
              HasSubstr("of 2 layers"));
  EXPECT_THAT(with([](GgufWriter& w) { w.AddF32("blk.00.attn_norm.weight", {8}); }),
              HasSubstr("blk.00"));
  EXPECT_THAT(with([](GgufWriter& w) { w.Text("llama.rope.scaling.type", "yarn"); }),
              HasSubstr("scaled"));
  EXPECT_THAT(with([](GgufWriter& w) { w.Float("llama.rope.scale_linear", 2); }),
              HasSubstr("scaled"));
  EXPECT_THAT(with([](GgufWriter& w) { w.Uint("llama.rope.dimension_count", 1); }),
              HasSubstr("part of each head"));
  EXPECT_THAT(with([](GgufWriter& w) { w.Uint("llama.attention.value_length", 4); }),
              HasSubstr("not as wide"));
  EXPECT_EQ(with([](GgufWriter& w) { w.Text("llama.rope.scaling.type", "none"); }), "OK");
}

TEST_F(GgufModelTest, SenselessConfigurationsAreRefused) {
  const auto with = [&](TinyLlama shape) {
    GgufWriter writer = LlamaKeys(shape);
    return ConfigError(AddLlamaTensors(writer));
  };
  GgufWriter no_heads = LlamaKeys({.heads = 0});
  EXPECT_THAT(ConfigError(AddLlamaTensors(no_heads)), HasSubstr("head_count is 0"));
  GgufWriter uneven = LlamaKeys({.kv_heads = 3});
  EXPECT_THAT(ConfigError(AddLlamaTensors(uneven)), HasSubstr("4 heads cannot share 3"));
  GgufWriter no_kv = LlamaKeys({.kv_heads = 0});
  EXPECT_THAT(ConfigError(AddLlamaTensors(no_kv)), HasSubstr("KV heads = 0"));
  GgufWriter many = LlamaKeys({.layers = 0xFFFFFFFF});
  EXPECT_THAT(ConfigError(AddLlamaTensors(many)), HasSubstr("layers = 4294967295"));
  EXPECT_THAT(with({.layers = 0}), HasSubstr("layers = 0"));
  EXPECT_THAT(with({.width = 12, .ff_width = 0}), HasSubstr("damaged"));
  GgufWriter vocabulary_only = LlamaKeys();
  EXPECT_THAT(ConfigError(vocabulary_only), AllOf(HasSubstr("NOT_FOUND"), HasSubstr("embedding")));
  GgufWriter bad_id = LlamaKeys();
  AddLlamaTensors(bad_id).Uint("tokenizer.ggml.eos_token_id", 6);
  EXPECT_THAT(ConfigError(bad_id), HasSubstr("special token id"));
  GgufWriter tokens = LlamaKeys();
  AddLlamaTensors(tokens).Texts("tokenizer.ggml.tokens", {"a", "b", "c", "d", "e", "f", "g"});
  EXPECT_THAT(ConfigError(tokens), AllOf(HasSubstr("7 tokens"), HasSubstr("6 rows")));
  GgufWriter no_base = LlamaKeys();
  AddLlamaTensors(no_base).Float("llama.rope.freq_base", 0);
  EXPECT_THAT(ConfigError(no_base), HasSubstr("RoPE base"));
  GgufWriter per_layer = LlamaKeys();
  AddLlamaTensors(per_layer);
  per_layer.RawArray("llama.attention.key_length", 4, 1, LittleEndian<uint32_t>(2));
  EXPECT_THAT(ConfigError(per_layer), HasSubstr("llama.attention.key_length"));
}

TEST_F(GgufModelTest, TokenizerDataIsCopiedWithDefaults) {
  GgufWriter writer;
  writer.Text("tokenizer.ggml.model", "llama")
      .Texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "\xff"})
      .RawArray("tokenizer.ggml.scores", 6, 3, std::string(12, '\0'))
      .Uint("tokenizer.ggml.unknown_token_id", 0)
      .Uint("tokenizer.ggml.eos_token_id", 0xFFFFFFFF);
  const auto data = (*Open(writer))->tokenizer();
  ASSERT_TRUE(data.ok()) << data.status();
  EXPECT_EQ(data->model, "llama");
  EXPECT_THAT(data->tokens, ElementsAre("<unk>", "<s>", "\xff"));
  EXPECT_EQ(data->scores.size(), 3u);
  EXPECT_EQ(data->bos, -1);
  EXPECT_EQ(data->eos, -1);
  EXPECT_EQ(data->unk, 0);
  EXPECT_TRUE(data->add_bos);  // SPM without the key
  EXPECT_TRUE(data->add_space_prefix);
  EXPECT_EQ(data->chat_template, "");

  GgufWriter bpe;
  bpe.Text("tokenizer.ggml.model", "gpt2").Texts("tokenizer.ggml.tokens", {"a", "b"});
  bpe.Texts("tokenizer.ggml.merges", {"a b"}).Text("tokenizer.ggml.pre", "smollm");
  const auto bpe_data = (*Open(bpe))->tokenizer();
  EXPECT_FALSE(bpe_data->add_bos);
  EXPECT_THAT(bpe_data->merges, ElementsAre("a b"));

  const auto none = (*Open(GgufWriter()))->tokenizer();
  EXPECT_EQ(none.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(none.status().ToString(), AllOf(HasSubstr("no tokenizer"), HasSubstr("--tokens")));
  const auto wrong = (*Open(GgufWriter()
                                .Text("tokenizer.ggml.model", "llama")
                                .RawArray("tokenizer.ggml.tokens", 4, 1, "1234")))
                         ->tokenizer();
  EXPECT_THAT(wrong.status().ToString(), HasSubstr("'tokenizer.ggml.tokens'"));
}

TEST_F(GgufModelTest, WhatIsNoModelIsToldApart) {
  const auto error = [&](std::string_view content) {
    return ModelFile::Open(directory_.Write("x", content)).status().ToString();
  };
  EXPECT_THAT(error("version https://git-lfs.github.com/spec/v1\n"), HasSubstr("git lfs pull"));
  EXPECT_THAT(error("<!DOCTYPE html><html>"), HasSubstr("neither a GGUF nor a safetensors"));
  EXPECT_THAT(error(""), HasSubstr("neither a GGUF nor a safetensors"));
  const auto absent = ModelFile::Open((directory_.path() / "absent.gguf").string());
  EXPECT_EQ(absent.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(absent.status().ToString(), HasSubstr("absent.gguf"));
  EXPECT_THAT(ModelFile::Open("/dev/null").status().ToString(), HasSubstr("not a regular file"));
}

TEST_F(GgufModelTest, Stories260KLoads) {
  const std::string path = std::string(TC_SHARED_DATA) + "/models/stories260K.gguf";
  if (!std::ifstream(path)) GTEST_SKIP() << path << " is not there";
  const auto model = ModelFile::Open(path);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto config = (*model)->config();
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->layers, 5u);
  EXPECT_EQ(config->head_dim, 8u);
  EXPECT_EQ(config->vocab, 512u);
  EXPECT_EQ(config->context_length, 128u);  // what it says; it takes 512
  EXPECT_EQ(config->rope_base, 10'000.f);
  EXPECT_FALSE(config->tied_embeddings);  // it repeats the embedding as output.weight
  EXPECT_THAT(config->eos_ids, ElementsAre(2));
  const auto tokenizer = (*model)->tokenizer();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->tokens.size(), 512u);
  EXPECT_EQ(tokenizer->types.size(), 512u);
}

TEST_F(GgufModelTest, ConformanceModelsOpen) {
  const std::string directory = std::string(TC_SHARED_DATA) + "/models/conformance/";
  if (!std::ifstream(directory + "tiny-llama-f32.gguf")) GTEST_SKIP() << directory << " is absent";
  const auto llama = ModelFile::Open(directory + "tiny-llama-f32.gguf");
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_TRUE((*llama)->config().ok()) << (*llama)->config().status();
  for (const char* name : {"gemma3", "qwen2"}) {
    const auto other = ModelFile::Open(directory + "tiny-" + name + "-f32.gguf");
    ASSERT_TRUE(other.ok()) << other.status();
    EXPECT_THAT((*other)->config().status().ToString(), HasSubstr(name));
    EXPECT_TRUE((*other)->tokenizer().ok());
  }
}

TEST_F(GgufModelTest, SmolLM2Loads) {
  const std::string path = TC_SOURCE_DIR "/build/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::ifstream(path)) GTEST_SKIP() << path << " is absent; deploy/setup.sh fetches it";
  const auto model = ModelFile::Open(path);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto config = (*model)->config();
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->layers, 30u);
  EXPECT_EQ(config->heads, 9u);
  EXPECT_EQ(config->kv_heads, 3u);
  EXPECT_EQ(config->head_dim, 64u);
  EXPECT_EQ(config->context_length, 8192u);
  EXPECT_EQ(config->rope_base, 100'000.f);
  EXPECT_TRUE(config->tied_embeddings);
  std::map<TensorType, int> types;
  for (const Tensor& tensor : (*model)->tensors()) ++types[tensor.type];
  EXPECT_THAT(types, ElementsAre(std::pair(TensorType::kF32, 61), std::pair(TensorType::kQ8_0, 1),
                                 std::pair(TensorType::kQ4_1, 210)));
  const auto tokenizer = (*model)->tokenizer();
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->pre, "smollm");
  EXPECT_EQ(tokenizer->tokens.size(), 49'152u);
  EXPECT_EQ(tokenizer->merges.size(), 48'900u);
  EXPECT_FALSE(tokenizer->add_bos);
  EXPECT_THAT(tokenizer->chat_template, HasSubstr("SmolLM"));
}

}  // namespace
}  // namespace thermocline
