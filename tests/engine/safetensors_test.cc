// safetensors: the container's strictness, config.json, shards, and that the two forms of one model
// hold the same numbers.
#include "engine/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/json_text.h"
#include "tests/engine/gguf_writer.h"
#include "tests/engine/temporary_directory.h"

namespace thermocline {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::span<const std::byte> AsBytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string WithHeader(std::string_view header, size_t data_bytes) {
  return LittleEndian<uint64_t>(header.size()).append(header) + std::string(data_bytes, '\0');
}

std::string ErrorOf(const std::string& bytes) {
  const auto tensors = ParseSafetensors(AsBytes(bytes), "m.safetensors");
  EXPECT_FALSE(tensors.ok());
  EXPECT_THAT(std::string(tensors.status().message()), StartsWith("m.safetensors: "));
  return std::string(tensors.status().message());
}

std::string Entry(std::string_view name, std::string_view shape, uint64_t begin, uint64_t end,
                  std::string_view dtype = "F32") {
  return nlohmann::json(std::string(name)).dump() + R"(:{"dtype":")" + std::string(dtype) +
         R"(","shape":)" + std::string(shape) + R"(,"data_offsets":[)" + std::to_string(begin) +
         "," + std::to_string(end) + "]}";
}

TEST(SafetensorsTest, ReadsTensorsInOrderOfTheirData) {
  const std::string bytes =
      WithHeader("{\"__metadata__\":{\"format\":\"pt\"}," + Entry("b", "[2,4]", 4, 20, "BF16") +
                     "," + Entry("a", "[]", 0, 4) + "," + Entry("z", "[0,3]", 20, 20) + "}  ",
                 20);
  const auto tensors = ParseSafetensors(AsBytes(bytes), "m");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 3u);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_EQ((*tensors)[0].rows(), 1u);
  EXPECT_EQ((*tensors)[0].row_bytes(), 4u);
  EXPECT_EQ((*tensors)[1].type, TensorType::kBF16);
  EXPECT_THAT((*tensors)[1].shape, ElementsAre(2, 4));
  EXPECT_EQ((*tensors)[1].row_bytes(), 8u);
  EXPECT_EQ((*tensors)[2].elements(), 0u);
}

TEST(SafetensorsTest, EveryTruncationIsAnError) {
  const std::string whole = WithHeader("{" + Entry("a", "[2]", 0, 8) + "}", 8);
  for (size_t size = 0; size < whole.size(); ++size) ErrorOf(whole.substr(0, size));
}

TEST(SafetensorsTest, OverlapsHolesAndRestsAreRefused) {
  const auto two = [](uint64_t begin, size_t data_bytes) {
    return ErrorOf(
        WithHeader("{" + Entry("a", "[2]", 0, 8) + "," + Entry("b", "[2]", begin, begin + 8) + "}",
                   data_bytes));
  };
  EXPECT_THAT(two(4, 12), AllOf(HasSubstr("'b'"), HasSubstr("overlaps")));
  EXPECT_THAT(two(0, 8), HasSubstr("overlaps"));
  EXPECT_THAT(two(12, 20), HasSubstr("4 bytes before tensor 'b'"));
  EXPECT_THAT(two(8, 17), HasSubstr("1 bytes at the end"));
  EXPECT_THAT(ErrorOf(WithHeader("{}", 3)), HasSubstr("3 bytes at the end"));
}

TEST(SafetensorsTest, OffsetsAndShapesAreHeldAgainstTheFile) {
  const auto one = [](std::string_view shape, uint64_t begin, uint64_t end) {
    return ErrorOf(WithHeader("{" + Entry("a", shape, begin, end) + "}", 8));
  };
  EXPECT_THAT(one("[2]", 0, 12), HasSubstr("claims bytes 0 to 12 of 8"));
  EXPECT_THAT(one("[2]", 8, 0), HasSubstr("claims bytes 8 to 0"));
  EXPECT_THAT(one("[2]", 0, ~uint64_t{0}), HasSubstr("claims bytes"));
  EXPECT_THAT(one("[3]", 0, 8), HasSubstr("ask for 12"));
  EXPECT_THAT(one("[4294967296,4294967296]", 0, 8), HasSubstr("more bytes than can be counted"));
  EXPECT_THAT(one("[-2]", 0, 8), HasSubstr("wrong kind"));
  EXPECT_THAT(one("[2.0]", 0, 8), HasSubstr("wrong kind"));
  EXPECT_THAT(one("[18446744073709551616]", 0, 8), HasSubstr("wrong kind"));
  EXPECT_THAT(one("2", 0, 8), HasSubstr("wrong kind"));
  EXPECT_THAT(one("[1,1,1,1,1,1,1,1,2]", 0, 8), HasSubstr("wrong kind"));
}

TEST(SafetensorsTest, MalformedHeadersAreRefused) {
  const std::string a = Entry("a", "[2]", 0, 8);
  EXPECT_THAT(ErrorOf(WithHeader("{" + a + "," + a + "}", 8)), HasSubstr("'a' occurs twice"));
  EXPECT_THAT(ErrorOf(WithHeader(R"({"a":{"dtype":"F32","dtype":"F32"}})", 0)),
              HasSubstr("'dtype' occurs twice"));
  EXPECT_THAT(ErrorOf(WithHeader(R"({"a":{"dtype":"F32","shape":[2]}})", 8)), HasSubstr("exactly"));
  EXPECT_THAT(ErrorOf(WithHeader(R"({"a":7})", 8)), HasSubstr("exactly"));
  EXPECT_THAT(ErrorOf(WithHeader(R"({"__metadata__":{"x":1}})", 0)), HasSubstr("not a string"));
  EXPECT_THAT(ErrorOf(WithHeader(R"({"__metadata__":[]})", 0)), HasSubstr("not an object"));
  EXPECT_THAT(ErrorOf(WithHeader("{", 8)), HasSubstr("malformed"));
  EXPECT_THAT(ErrorOf(WithHeader("{\"\xff\":1}", 8)), HasSubstr("malformed"));
  EXPECT_THAT(ErrorOf(WithHeader("[]", 8)), HasSubstr("not JSON"));
  EXPECT_THAT(ErrorOf(WithHeader("", 8)), HasSubstr("not JSON"));
  EXPECT_THAT(ErrorOf(LittleEndian(~uint64_t{0}) + "{}"), HasSubstr("the header claims"));
  EXPECT_THAT(ErrorOf(WithHeader("{\"a\":" + std::string(100'000, '['), 8)), HasSubstr("nested"));
}

TEST(SafetensorsTest, OversizedHeadersAreRefusedUnread) {
  std::string bytes = WithHeader("{}", 0);
  const uint64_t length = kMaxSafetensorsHeaderBytes + 1;
  std::memcpy(bytes.data(), &length, sizeof length);
  bytes.resize(sizeof length + length, ' ');
  EXPECT_THAT(ErrorOf(bytes), HasSubstr("more than 16777216"));
}

TEST(SafetensorsTest, NamesAreMappedToTheCanonicalOnes) {
  EXPECT_EQ(CanonicalName("model.embed_tokens.weight"), "token_embd.weight");
  EXPECT_EQ(CanonicalName("model.norm.weight"), "output_norm.weight");
  EXPECT_EQ(CanonicalName("lm_head.weight"), "output.weight");
  EXPECT_EQ(CanonicalName("model.layers.12.self_attn.o_proj.weight"), "blk.12.attn_output.weight");
  EXPECT_EQ(CanonicalName("model.layers.0.post_attention_layernorm.weight"),
            "blk.0.ffn_norm.weight");
  EXPECT_EQ(CanonicalName("model.layers.0.self_attn.q_proj.bias"), "blk.0.attn_q.bias");
  EXPECT_EQ(CanonicalName("model.layers.0.mlp.experts.0.w1"), "model.layers.0.mlp.experts.0.w1");
  EXPECT_EQ(CanonicalName("model.layers."), "model.layers.");
}

constexpr char kConfig[] = R"({"model_type":"llama","hidden_size":4,"intermediate_size":6,
  "num_hidden_layers":1,"num_attention_heads":2,"max_position_embeddings":32,"rms_norm_eps":1e-6,
  "tie_word_embeddings":true,"eos_token_id":[1,2])";

absl::StatusOr<ModelConfig> ConfigWith(std::string_view more) {
  return ParseHuggingFaceConfig(std::string(kConfig).append(more) + "}", "config.json");
}

TEST(HuggingFaceConfigTest, ReadsBothGenerationsOfKeys) {
  const auto config = ConfigWith(R"(,"rope_theta":5e5,"rope_scaling":null,"bos_token_id":0)");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->kv_heads, 2u);
  EXPECT_EQ(config->head_dim, 2u);
  EXPECT_EQ(config->rope_base, 5e5f);
  EXPECT_EQ(config->rope_layout, RopeLayout::kHalves);
  EXPECT_EQ(config->bos_id, 0);
  EXPECT_THAT(config->eos_ids, ElementsAre(1, 2));
  const auto newer = ConfigWith(R"(,"rope_parameters":{"rope_theta":1e6,"rope_type":"default"})");
  ASSERT_TRUE(newer.ok()) << newer.status();
  EXPECT_EQ(newer->rope_base, 1e6f);
  EXPECT_EQ(ConfigWith("")->rope_base, 1e4f);
}

TEST(HuggingFaceConfigTest, RefusesWhatWouldBeIgnored) {
  const auto error = [](std::string_view more) { return ConfigWith(more).status().ToString(); };
  EXPECT_THAT(error(R"(,"rope_scaling":{"rope_type":"llama3","factor":8})"), HasSubstr("scaled"));
  EXPECT_THAT(error(R"(,"rope_scaling":{"type":"linear","factor":2})"), HasSubstr("scaled"));
  EXPECT_THAT(error(R"(,"hidden_act":"gelu")"), HasSubstr("hidden_act"));
  EXPECT_THAT(error(R"(,"attention_bias":true)"), HasSubstr("attention_bias"));
  EXPECT_THAT(error(R"(,"partial_rotary_factor":0.5)"), HasSubstr("part of each head"));
  EXPECT_THAT(error(R"(,"bos_token_id":-7)"), HasSubstr("bos_token_id"));
  EXPECT_THAT(error(R"(,"head_dim":"8")"), HasSubstr("head_dim"));
  EXPECT_THAT(error(R"(,"hidden_size":4)"), HasSubstr("occurs twice"));
  EXPECT_THAT(ParseHuggingFaceConfig(R"({"model_type":"llama"})", "c").status().ToString(),
              HasSubstr("num_hidden_layers is missing"));
  EXPECT_THAT(ParseHuggingFaceConfig("[]", "c").status().ToString(), HasSubstr("not an object"));
  EXPECT_THAT(ParseHuggingFaceConfig("", "c").status().ToString(), HasSubstr("malformed"));
}

TEST(JsonTextTest, DepthIsBounded) {
  const auto nested = [](int depth) {
    return ParseJson(std::string(depth, '[') + std::string(depth, ']'), "x").ok();
  };
  EXPECT_TRUE(nested(kMaxJsonDepth));
  EXPECT_FALSE(nested(kMaxJsonDepth + 1));
  EXPECT_FALSE(nested(1'000'000));
}

/// A model of one tensor in each of two shards, and its index.
class ShardedModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_.Write("config.json", std::string(kConfig) + "}");
    directory_.Write("1.safetensors", WithHeader("{" + Entry(kFirst, "[3,4]", 0, 48) + "}", 48));
    directory_.Write("2.safetensors", WithHeader("{" + Entry(kSecond, "[4]", 0, 16) + "}", 16));
  }
  absl::StatusOr<std::unique_ptr<ModelFile>> OpenWith(const std::string& weight_map) {
    directory_.Write("model.safetensors.index.json", R"({"weight_map":{)" + weight_map + "}}");
    return ModelFile::Open(directory_.path().string());
  }
  static std::string Line(const std::string& tensor, const std::string& file) {
    return nlohmann::json(tensor).dump() + ":" + nlohmann::json(file).dump();
  }

  const std::string kFirst = "model.embed_tokens.weight";
  const std::string kSecond = "model.norm.weight";
  TemporaryDirectory directory_;
};

TEST_F(ShardedModelTest, ShardsAreOneModel) {
  const auto model = OpenWith(Line(kFirst, "1.safetensors") + "," + Line(kSecond, "2.safetensors"));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->Require("token_embd.weight", {3, 4}).ok());
  EXPECT_TRUE((*model)->Require("output_norm.weight", {4}).ok());
  const auto config = (*model)->config();
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vocab, 3u);
  EXPECT_TRUE((*model)->content_sha256().ok());
  const auto tokenizer = (*model)->tokenizer();
  EXPECT_THAT(tokenizer.status().ToString(), AllOf(HasSubstr("vocabulary"), HasSubstr("GGUF")));
}

TEST_F(ShardedModelTest, AnIndexThatDoesNotFitIsRefused) {
  EXPECT_THAT(OpenWith(Line(kFirst, "1.safetensors") + "," + Line("x", "2.safetensors"))
                  .status()
                  .ToString(),
              AllOf(HasSubstr("2.safetensors"), HasSubstr(kSecond)));
  EXPECT_THAT(OpenWith(Line(kFirst, "../1.safetensors")).status().ToString(),
              HasSubstr("not a plain file name"));
  EXPECT_THAT(OpenWith(Line(kFirst, "/etc/passwd")).status().ToString(), HasSubstr("plain"));
  EXPECT_THAT(OpenWith(Line(kFirst, "3.safetensors")).status().ToString(),
              HasSubstr("3.safetensors"));
  EXPECT_THAT(OpenWith("").status().ToString(), HasSubstr("names no file"));
  EXPECT_THAT(OpenWith(Line(kFirst, "1.safetensors") + "," + Line(kFirst, "2.safetensors"))
                  .status()
                  .ToString(),
              HasSubstr("occurs twice"));
}

TEST_F(ShardedModelTest, MissingPartsAreNamed) {
  TemporaryDirectory empty;
  EXPECT_THAT(ModelFile::Open(empty.path().string()).status().ToString(),
              HasSubstr("model.safetensors"));
  const std::string alone = empty.Write("alone.safetensors", WithHeader("{}", 0));
  EXPECT_THAT(ModelFile::Open(alone).status().ToString(),
              AllOf(HasSubstr("config.json"), HasSubstr("beside")));
  // Untied, but without an output matrix.
  directory_.Write("config.json",
                   R"({"model_type":"llama","hidden_size":4,"intermediate_size":6,
      "num_hidden_layers":1,"num_attention_heads":2,"max_position_embeddings":32,
      "rms_norm_eps":1e-6})");
  const auto model = ModelFile::Open((directory_.path() / "1.safetensors").string());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT((*model)->config().status().ToString(), HasSubstr("lm_head.weight"));
}

/// Rows of Q and K, from the order in which halves rotate together to that of adjacent pairs.
std::vector<float> AsAdjacentPairs(const std::vector<float>& rows, uint64_t columns,
                                   uint32_t head_dim) {
  std::vector<float> out(rows.size());
  const uint64_t count = rows.size() / columns;
  for (uint64_t row = 0; row < count; ++row) {
    const uint64_t head = row / head_dim;
    const uint64_t within = row % head_dim;
    const uint64_t half = within / (head_dim / 2);
    const uint64_t pair = within % (head_dim / 2);
    const uint64_t to = head * head_dim + 2 * pair + half;
    std::copy_n(rows.begin() + static_cast<ptrdiff_t>(row * columns), columns,
                out.begin() + static_cast<ptrdiff_t>(to * columns));
  }
  return out;
}

std::vector<float> Floats(const Tensor& tensor) {
  std::vector<float> floats(tensor.elements());
  std::memcpy(floats.data(), tensor.data.data(), tensor.data.size());
  return floats;
}

TEST(Stories260KTest, BothFormsHoldTheSameNumbersUpToTheRopeOrder) {
  const std::string directory = std::string(TC_SHARED_DATA) + "/models/";
  if (!std::ifstream(directory + "stories260K.gguf")) GTEST_SKIP() << directory << " is absent";
  const auto gguf = ModelFile::Open(directory + "stories260K.gguf");
  const auto hf = ModelFile::Open(directory + "stories260K-hf");
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  ASSERT_TRUE(hf.ok()) << hf.status();
  const auto config = (*hf)->config();
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope_layout, RopeLayout::kHalves);
  EXPECT_TRUE(config->tied_embeddings);
  EXPECT_EQ(config->context_length, 512u);
  EXPECT_EQ((*gguf)->config()->rms_epsilon, config->rms_epsilon);
  size_t compared = 0;
  for (const Tensor& tensor : (*hf)->tensors()) {
    SCOPED_TRACE(tensor.source_name);
    const Tensor* twin = (*gguf)->Find(tensor.name);
    ASSERT_NE(twin, nullptr);
    ASSERT_EQ(twin->shape, tensor.shape);
    std::vector<float> mine = Floats(tensor);
    if (tensor.name.find("attn_q.") != std::string::npos ||
        tensor.name.find("attn_k.") != std::string::npos) {
      EXPECT_NE(mine, Floats(*twin));
      mine = AsAdjacentPairs(mine, tensor.columns(), config->head_dim);
    }
    EXPECT_EQ(mine, Floats(*twin));
    ++compared;
  }
  EXPECT_EQ(compared, 47u);  // all but the GGUF's repeated output.weight
  EXPECT_EQ((*gguf)->tensors().size(), 48u);
  EXPECT_EQ(Floats(*(*gguf)->Find("output.weight")), Floats(*(*gguf)->Find("token_embd.weight")));
}

}  // namespace
}  // namespace thermocline
