// A GGUF file as a model: what its keys mean. Keys that the format lets a file leave out get the
// defaults of llama.cpp; features that the engine does not compute are refused, never ignored.
#include <absl/strings/str_cat.h>

#include <utility>

#include "engine/gguf.h"

namespace thermocline {
namespace {

constexpr double kDefaultRopeBase = 10'000;

class GgufModel : public ModelFile {
 public:
  static absl::StatusOr<std::unique_ptr<ModelFile>> Open(MappedFile file, const Options& options) {
    TC_ASSIGN_OR_RETURN(GgufFile gguf, GgufFile::Parse(file.bytes(), file.path()));
    std::unique_ptr<GgufModel> model(new GgufModel(file.path(), options, std::move(gguf)));
    TC_RETURN_IF_ERROR(model->AdoptTensors(std::move(model->gguf_).TakeTensors()));
    model->files_.push_back(std::move(file));
    return model;
  }

  absl::StatusOr<ModelConfig> config() const override {
    ModelConfig config;
    TC_ASSIGN_OR_RETURN(const auto architecture, gguf_.String("general.architecture"));
    if (!architecture) return Missing("general.architecture");
    config.architecture = *architecture;
    if (*architecture != "llama") return UnsupportedArchitecture(*architecture);
    TC_ASSIGN_OR_RETURN(config.layers, RequiredUint("llama.block_count"));
    TC_ASSIGN_OR_RETURN(config.embedding_width, RequiredUint("llama.embedding_length"));
    TC_ASSIGN_OR_RETURN(config.ff_width, RequiredUint("llama.feed_forward_length"));
    TC_ASSIGN_OR_RETURN(config.heads, RequiredUint("llama.attention.head_count"));
    TC_ASSIGN_OR_RETURN(config.context_length, RequiredUint("llama.context_length"));
    TC_ASSIGN_OR_RETURN(const auto kv_heads, gguf_.Uint("llama.attention.head_count_kv"));
    config.kv_heads = kv_heads.value_or(config.heads);
    TC_ASSIGN_OR_RETURN(const auto epsilon, gguf_.Float("llama.attention.layer_norm_rms_epsilon"));
    if (!epsilon) return Missing("llama.attention.layer_norm_rms_epsilon");
    config.rms_epsilon = static_cast<float>(*epsilon);
    TC_RETURN_IF_ERROR(ReadHeadsAndRope(config));
    TC_RETURN_IF_ERROR(ReadSpecialIds(config));
    config.tied_embeddings = Find("output.weight") == nullptr;
    TC_RETURN_IF_ERROR(FinishConfig(config));
    return config;
  }

  absl::StatusOr<TokenizerData> tokenizer() const override {
    TokenizerData data;
    TC_ASSIGN_OR_RETURN(auto model, gguf_.String("tokenizer.ggml.model"));
    TC_ASSIGN_OR_RETURN(auto tokens, gguf_.Strings("tokenizer.ggml.tokens"));
    if (!model || !tokens) {
      return absl::NotFoundError(path() +
                                 ": holds no tokenizer (tokenizer.ggml.model and .tokens); "
                                 "give token ids (--tokens) or a GGUF file that has one");
    }
    data.model = *std::move(model);
    data.tokens = *std::move(tokens);
    const bool sentence_piece = data.model == "llama";
    TC_ASSIGN_OR_RETURN(auto pre, gguf_.String("tokenizer.ggml.pre"));
    TC_ASSIGN_OR_RETURN(auto scores, gguf_.Floats("tokenizer.ggml.scores"));
    TC_ASSIGN_OR_RETURN(auto types, gguf_.Ints("tokenizer.ggml.token_type"));
    TC_ASSIGN_OR_RETURN(auto merges, gguf_.Strings("tokenizer.ggml.merges"));
    TC_ASSIGN_OR_RETURN(data.bos, gguf_.TokenId("tokenizer.ggml.bos_token_id"));
    TC_ASSIGN_OR_RETURN(data.eos, gguf_.TokenId("tokenizer.ggml.eos_token_id"));
    TC_ASSIGN_OR_RETURN(data.unk, gguf_.TokenId("tokenizer.ggml.unknown_token_id"));
    TC_ASSIGN_OR_RETURN(const auto add_bos, gguf_.Bool("tokenizer.ggml.add_bos_token"));
    TC_ASSIGN_OR_RETURN(const auto add_space, gguf_.Bool("tokenizer.ggml.add_space_prefix"));
    TC_ASSIGN_OR_RETURN(auto chat_template, gguf_.String("tokenizer.chat_template"));
    data.pre = std::move(pre).value_or("");
    data.scores = std::move(scores).value_or(std::vector<float>{});
    data.types = std::move(types).value_or(std::vector<int32_t>{});
    data.merges = std::move(merges).value_or(std::vector<std::string>{});
    data.add_bos = add_bos.value_or(sentence_piece);
    data.add_space_prefix = add_space.value_or(true);
    data.chat_template = std::move(chat_template).value_or("");
    return data;
  }

 private:
  GgufModel(const std::string& path, const Options& options, GgufFile gguf)
      : ModelFile(path, options), gguf_(std::move(gguf)) {}

  absl::Status Missing(std::string_view key) const {
    return absl::InvalidArgumentError(absl::StrCat(path(), ": has no key ", std::string(key),
                                                   "; convert the model again, with all its keys"));
  }

  absl::StatusOr<uint32_t> RequiredUint(std::string_view key) const {
    TC_ASSIGN_OR_RETURN(const std::optional<uint32_t> value, gguf_.Uint(key));
    if (!value) return Missing(key);
    return *value;
  }

  absl::Status Unimplemented(std::string_view what) const {
    return absl::UnimplementedError(
        absl::StrCat(path(), ": ", std::string(what),
                     ", which the engine does not compute; give another "
                     "model"));
  }

  absl::Status ReadHeadsAndRope(ModelConfig& config) const {
    TC_ASSIGN_OR_RETURN(const auto key_length, gguf_.Uint("llama.attention.key_length"));
    if (!key_length && config.heads == 0) {
      return absl::InvalidArgumentError(path() +
                                        ": llama.attention.head_count is 0; the file is "
                                        "damaged, fetch it anew");
    }
    config.head_dim = key_length ? *key_length : config.embedding_width / config.heads;
    TC_ASSIGN_OR_RETURN(const auto value_length, gguf_.Uint("llama.attention.value_length"));
    if (value_length.value_or(config.head_dim) != config.head_dim) {
      return Unimplemented("its values are not as wide as its keys");
    }
    TC_ASSIGN_OR_RETURN(const auto rotated, gguf_.Uint("llama.rope.dimension_count"));
    if (rotated.value_or(config.head_dim) != config.head_dim) {
      return Unimplemented("RoPE rotates only a part of each head");
    }
    TC_ASSIGN_OR_RETURN(const auto base, gguf_.Float("llama.rope.freq_base"));
    config.rope_base = static_cast<float>(base.value_or(kDefaultRopeBase));
    config.rope_layout = RopeLayout::kAdjacentPairs;
    TC_ASSIGN_OR_RETURN(const auto scaling, gguf_.String("llama.rope.scaling.type"));
    TC_ASSIGN_OR_RETURN(const auto linear, gguf_.Float("llama.rope.scale_linear"));
    if (scaling.value_or("none") != "none" || linear.value_or(1) != 1) {
      return Unimplemented("its RoPE is scaled (llama.rope.scaling.type)");
    }
    return absl::OkStatus();
  }

  absl::Status ReadSpecialIds(ModelConfig& config) const {
    TC_ASSIGN_OR_RETURN(config.bos_id, gguf_.TokenId("tokenizer.ggml.bos_token_id"));
    TC_ASSIGN_OR_RETURN(const int32_t eos, gguf_.TokenId("tokenizer.ggml.eos_token_id"));
    if (eos >= 0) config.eos_ids.push_back(eos);
    const GgufValue* tokens = gguf_.Find("tokenizer.ggml.tokens");
    const Tensor* embedding = Find("token_embd.weight");
    if (tokens != nullptr && embedding != nullptr && tokens->count > embedding->rows()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path(), ": has ", tokens->count, " tokens and an embedding of only ",
                       embedding->rows(), " rows; the file is inconsistent, fetch it anew"));
    }
    return absl::OkStatus();
  }

  GgufFile gguf_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ModelFile>> OpenGgufModel(MappedFile file,
                                                         const ModelFile::Options& options) {
  return GgufModel::Open(std::move(file), options);
}

}  // namespace thermocline
