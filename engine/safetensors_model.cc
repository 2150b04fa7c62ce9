// A directory of Hugging Face's as a model: config.json, and the weights in one file or in shards
// under an index. Features of the configuration that the engine does not compute are refused, never
// ignored.
#include <absl/strings/str_cat.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "engine/json_text.h"
#include "engine/printable.h"
#include "engine/safetensors.h"

namespace thermocline {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxConfigBytes = uint64_t{1} << 20;
constexpr double kDefaultRopeBase = 10'000;
constexpr char kWeights[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kConfig[] = "config.json";

std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Typed access to one object of a config.json. A key that is absent or null has the default.
class ConfigReader {
 public:
  ConfigReader(const json& object, std::string_view path) : object_(object), path_(path) {}

  [[nodiscard]] const json* Find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  absl::StatusOr<uint32_t> Uint(const char* key, std::optional<uint32_t> otherwise = {}) const {
    const json* value = Find(key);
    if (value == nullptr && otherwise) return *otherwise;
    if (value == nullptr) return Wrong(key, "is missing");
    if (!value->is_number_unsigned() ||
        value->get<uint64_t>() > std::numeric_limits<uint32_t>::max()) {
      return Wrong(key, "is not an unsigned integer of 32 bits");
    }
    return value->get<uint32_t>();
  }

  absl::StatusOr<float> Float(const char* key, std::optional<double> otherwise = {}) const {
    const json* value = Find(key);
    if (value == nullptr && otherwise) return static_cast<float>(*otherwise);
    if (value == nullptr) return Wrong(key, "is missing");
    if (!value->is_number()) return Wrong(key, "is not a number");
    return static_cast<float>(value->get<double>());
  }

  absl::StatusOr<bool> Bool(const char* key, bool otherwise) const {
    const json* value = Find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) return Wrong(key, "is not true or false");
    return value->get<bool>();
  }

  absl::StatusOr<std::string> String(const char* key, const char* otherwise) const {
    const json* value = Find(key);
    if (value == nullptr) return std::string(otherwise);
    if (!value->is_string()) return Wrong(key, "is not a string");
    return value->get<std::string>();
  }

  /// One token id or a list of them.
  absl::StatusOr<std::vector<int32_t>> TokenIds(const char* key) const {
    std::vector<int32_t> ids;
    const json* value = Find(key);
    if (value == nullptr) return ids;
    const auto add = [&](const json& id) {
      if (!id.is_number_unsigned() ||
          id.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int32_t>::max())) {
        return false;
      }
      ids.push_back(id.get<int32_t>());
      return true;
    };
    bool good = true;
    if (value->is_array()) {
      for (const json& id : *value) good = good && add(id);
    } else {
      good = add(*value);
    }
    if (!good) return Wrong(key, "is not a token id or a list of them");
    return ids;
  }

  [[nodiscard]] absl::Status Wrong(const char* key, std::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(std::string(path_), ": ", key, " ",
                                                   std::string(what),
                                                   "; fetch the model's own config.json anew"));
  }

  [[nodiscard]] absl::Status Unimplemented(std::string_view what) const {
    return absl::UnimplementedError(
        absl::StrCat(std::string(path_), ": ", std::string(what),
                     ", which the engine does not compute; give a plain llama model"));
  }

 private:
  const json& object_;
  std::string_view path_;
};

// transformers 4 has rope_theta and rope_scaling, version 5 one object rope_parameters.
absl::Status ReadRope(const json& root, std::string_view path, ModelConfig& config) {
  const ConfigReader reader(root, path);
  config.rope_layout = RopeLayout::kHalves;
  TC_ASSIGN_OR_RETURN(config.rope_base, reader.Float("rope_theta", kDefaultRopeBase));
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const json* object = reader.Find(key);
    if (object == nullptr) continue;
    if (!object->is_object()) return reader.Wrong(key, "is not an object");
    const ConfigReader parameters(*object, path);
    TC_ASSIGN_OR_RETURN(const std::string old_type, parameters.String("type", "default"));
    TC_ASSIGN_OR_RETURN(const std::string type, parameters.String("rope_type", old_type.c_str()));
    if (type != "default") return reader.Unimplemented("its RoPE is scaled (rope_scaling)");
    TC_ASSIGN_OR_RETURN(config.rope_base, parameters.Float("rope_theta", config.rope_base));
  }
  TC_ASSIGN_OR_RETURN(const float rotated, reader.Float("partial_rotary_factor", 1));
  if (rotated != 1) return reader.Unimplemented("RoPE rotates only a part of each head");
  return absl::OkStatus();
}

/// Which files hold the weights, in order of their names, and which tensors the index promises.
struct WeightFiles {
  std::vector<std::string> names;
  bool indexed = false;
  std::map<std::string, std::string> file_of;  ///< tensor to file, by the index
};

absl::StatusOr<WeightFiles> ReadIndex(const std::string& path) {
  TC_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  if (file.bytes().size() > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": of ", file.bytes().size(), " bytes, too large for an index"));
  }
  TC_ASSIGN_OR_RETURN(const json index, ParseJson(AsText(file.bytes()), path));
  const auto damaged = [&](const std::string& what) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", what, "; the index is damaged, fetch it anew"));
  };
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return damaged("has no weight_map");
  }
  std::set<std::string> names;
  WeightFiles files{.indexed = true};
  for (const auto& [tensor, name] : index["weight_map"].items()) {
    if (!name.is_string()) return damaged("weight_map holds something else than file names");
    const auto& text = name.get_ref<const std::string&>();
    // A plain name: the index must not lead out of its directory.
    if (text.empty() || text[0] == '.' || text.find('/') != std::string::npos ||
        text.find('\0') != std::string::npos) {
      return damaged(absl::StrCat(Printable(text), " is not a plain file name"));
    }
    names.insert(text);
    files.file_of[tensor] = text;
  }
  if (names.empty()) return damaged("names no file");
  if (names.size() > kMaxSafetensorsShards) {
    return damaged(
        absl::StrCat("names ", names.size(), " files, more than ", kMaxSafetensorsShards));
  }
  files.names.assign(names.begin(), names.end());
  return files;
}

class SafetensorsModel : public ModelFile {
 public:
  static absl::StatusOr<std::unique_ptr<ModelFile>> Open(const std::string& path,
                                                         const Options& options) {
    std::unique_ptr<SafetensorsModel> model(new SafetensorsModel(path, options));
    TC_RETURN_IF_ERROR(model->Load());
    return model;
  }

  absl::StatusOr<ModelConfig> config() const override {
    ModelConfig config = stored_config_;
    if (config.architecture != "llama") return UnsupportedArchitecture(config.architecture);
    if (!config.tied_embeddings && Find("output.weight") == nullptr) {
      return absl::NotFoundError(path() +
                                 ": has neither lm_head.weight nor tie_word_embeddings; "
                                 "give a complete model");
    }
    TC_RETURN_IF_ERROR(FinishConfig(config));
    return config;
  }

  absl::StatusOr<TokenizerData> tokenizer() const override {
    return absl::NotFoundError(
        path() +
        ": a safetensors model carries no vocabulary that the engine reads "
        "(tokenizer.json is not read); give token ids (--tokens) or a GGUF file of it");
  }

 private:
  SafetensorsModel(const std::string& path, const Options& options) : ModelFile(path, options) {}

  absl::Status Load() {
    namespace fs = std::filesystem;
    std::error_code error;
    const bool is_directory = fs::is_directory(path(), error);
    const fs::path directory = is_directory ? fs::path(path()) : fs::path(path()).parent_path();
    WeightFiles weights;
    if (!is_directory) {
      weights.names = {fs::path(path()).filename().string()};
    } else if (fs::exists(directory / kWeights, error)) {
      weights.names = {kWeights};
    } else if (fs::exists(directory / kIndex, error)) {
      TC_ASSIGN_OR_RETURN(weights, ReadIndex((directory / kIndex).string()));
    } else {
      return absl::NotFoundError(absl::StrCat(path(), ": holds neither ", kWeights, " nor ", kIndex,
                                              "; give the directory of a safetensors model"));
    }
    TC_RETURN_IF_ERROR(LoadConfig((directory / kConfig).string()));
    std::vector<Tensor> tensors;
    for (const std::string& name : weights.names) {
      const std::string file_path = (directory / name).string();
      TC_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(file_path));
      TC_ASSIGN_OR_RETURN(std::vector<Tensor> parsed, ParseSafetensors(file.bytes(), file_path));
      for (Tensor& tensor : parsed) {
        const auto promised = weights.file_of.find(tensor.source_name);
        if (weights.indexed && (promised == weights.file_of.end() || promised->second != name)) {
          return Inconsistent(file_path, tensor.source_name);
        }
        tensors.push_back(std::move(tensor));
      }
      files_.push_back(std::move(file));
    }
    return AdoptTensors(std::move(tensors));
  }

  absl::Status Inconsistent(const std::string& file, const std::string& tensor) const {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": tensor ", Printable(tensor), " is not where ", kIndex,
                     " has it; the parts are of different models, fetch them anew"));
  }

  absl::Status LoadConfig(const std::string& config_path) {
    absl::StatusOr<MappedFile> file = MappedFile::Open(config_path);
    if (absl::IsNotFound(file.status())) {
      return absl::NotFoundError(absl::StrCat(
          config_path, ": missing; a safetensors model needs its config.json beside the weights"));
    }
    TC_RETURN_IF_ERROR(file.status());
    TC_ASSIGN_OR_RETURN(stored_config_, ParseHuggingFaceConfig(AsText(file->bytes()), config_path));
    files_.push_back(*std::move(file));
    return absl::OkStatus();
  }

  ModelConfig stored_config_;
};

}  // namespace

absl::StatusOr<ModelConfig> ParseHuggingFaceConfig(std::string_view text, std::string_view path) {
  if (text.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(path), ": of ", text.size(),
                                                   " bytes, too large for a config.json"));
  }
  TC_ASSIGN_OR_RETURN(const json root, ParseJson(text, path));
  const ConfigReader reader(root, path);
  if (!root.is_object()) return reader.Wrong("the whole", "is not an object");
  ModelConfig config;
  TC_ASSIGN_OR_RETURN(config.architecture, reader.String("model_type", ""));
  if (config.architecture != "llama") return config;  // another one's keys are not ours to judge
  TC_ASSIGN_OR_RETURN(config.layers, reader.Uint("num_hidden_layers"));
  TC_ASSIGN_OR_RETURN(config.embedding_width, reader.Uint("hidden_size"));
  TC_ASSIGN_OR_RETURN(config.ff_width, reader.Uint("intermediate_size"));
  TC_ASSIGN_OR_RETURN(config.heads, reader.Uint("num_attention_heads"));
  TC_ASSIGN_OR_RETURN(config.kv_heads, reader.Uint("num_key_value_heads", config.heads));
  if (config.heads == 0) return reader.Wrong("num_attention_heads", "is 0");
  TC_ASSIGN_OR_RETURN(config.head_dim,
                      reader.Uint("head_dim", config.embedding_width / config.heads));
  TC_ASSIGN_OR_RETURN(config.context_length, reader.Uint("max_position_embeddings"));
  TC_ASSIGN_OR_RETURN(config.rms_epsilon, reader.Float("rms_norm_eps"));
  TC_RETURN_IF_ERROR(ReadRope(root, path, config));
  TC_ASSIGN_OR_RETURN(config.tied_embeddings, reader.Bool("tie_word_embeddings", false));
  TC_ASSIGN_OR_RETURN(config.eos_ids, reader.TokenIds("eos_token_id"));
  TC_ASSIGN_OR_RETURN(const std::vector<int32_t> bos, reader.TokenIds("bos_token_id"));
  config.bos_id = bos.empty() ? -1 : bos.front();
  TC_ASSIGN_OR_RETURN(const std::string activation, reader.String("hidden_act", "silu"));
  if (activation != "silu" && activation != "swish") {
    return reader.Unimplemented("its activation is not silu (hidden_act)");
  }
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    TC_ASSIGN_OR_RETURN(const bool biased, reader.Bool(key, false));
    if (biased)
      return reader.Unimplemented(absl::StrCat("its projections have biases (", key, ")"));
  }
  return config;
}

absl::StatusOr<std::unique_ptr<ModelFile>> OpenSafetensorsModel(const std::string& path,
                                                                const ModelFile::Options& options) {
  return SafetensorsModel::Open(path, options);
}

}  // namespace thermocline
