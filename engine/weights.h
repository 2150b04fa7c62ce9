// A language model's file, opened: its tensors, its configuration and its tokenizer under one set
// of names, whatever the format. GGUF v3 files and safetensors (a file, or a directory with
// config.json) are mapped read-only and never copied; tensors carry the GGUF names
// (token_embd.weight, blk.N.attn_q.weight ...), into which those of Hugging Face are mapped. The
// file is hostile until shown otherwise: Open checks its structure whole, config() and tokenizer()
// what they interpret, Require the one tensor that is asked for, so that a file can be inspected
// even where its architecture or its quantisation cannot be run.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/content_digest.h"
#include "engine/mapped_file.h"
#include "engine/tokenizer_data.h"
#include "kernels/weight_type.h"

namespace thermocline {

/// How a tensor's elements are stored; the layout of the quantised blocks is told in dequantize.h.
/// kOther: a type that the engine recognises well enough to know its size, but does not compute
/// with.
enum class TensorType : uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kOther };

struct TensorLayout {
  std::string_view name;
  uint32_t block_elements;  ///< 1 for the plain types
  uint32_t block_bytes;
};
/// Indexed by TensorType, without kOther.
inline constexpr std::array<TensorLayout, 8> kTensorLayouts{{{"F32", 1, 4},
                                                             {"F16", 1, 2},
                                                             {"BF16", 1, 2},
                                                             {"Q8_0", 32, 34},
                                                             {"Q4_0", 32, 18},
                                                             {"Q4_1", 32, 20},
                                                             {"Q5_0", 32, 22},
                                                             {"Q5_1", 32, 24}}};

/// Elements in one block of `type`, 1 for the plain types. Requires: not kOther.
[[nodiscard]] uint32_t BlockElements(TensorType type);
/// Bytes of one block of `type`. Requires: not kOther.
[[nodiscard]] uint32_t BlockBytes(TensorType type);
/// As the kernels call it. Requires: not kOther.
[[nodiscard]] WeightType WeightTypeOf(TensorType type);

/// One weight, as it lies in the mapped file.
/// Shape:  `shape` outermost first; a matrix is [rows, columns], rows one after the other, each
///         row_bytes() long. A scalar has an empty shape, one row and one column.
/// Owner:  `data` borrows from the ModelFile; it may lie at any address, aligned to nothing.
struct Tensor {
  std::string name;         ///< canonical (GGUF) name
  std::string source_name;  ///< the name in the file, for messages
  TensorType type = TensorType::kF32;
  std::string type_name;  ///< as the file calls it; tells kOther apart ("Q4_K")
  std::vector<uint64_t> shape;
  std::span<const std::byte> data;

  [[nodiscard]] uint64_t columns() const { return shape.empty() ? 1 : shape.back(); }
  /// The product of all dimensions but the last; the loaders have checked that it does not
  /// overflow.
  [[nodiscard]] uint64_t rows() const;
  [[nodiscard]] uint64_t elements() const { return rows() * columns(); }
  /// Requires: type is not kOther.
  [[nodiscard]] uint64_t row_bytes() const;
  /// Row `index` of rows(). Requires: type is not kOther, index < rows().
  [[nodiscard]] std::span<const std::byte> row(uint64_t index) const;
};

/// Which elements of a head RoPE rotates together. The same model has its Q and K rows in another
/// order in the two formats, so that the layout belongs to the identity of its KV.
enum class RopeLayout : uint8_t {
  kAdjacentPairs,  ///< (0,1), (2,3) ...: GGUF files of llama
  kHalves,         ///< (0,n/2), (1,n/2+1) ...: safetensors
};

/// What the forward pass must know beside the weights.
struct ModelConfig {
  std::string architecture;  ///< "llama"
  uint32_t layers = 0;
  uint32_t embedding_width = 0;
  uint32_t ff_width = 0;
  uint32_t heads = 0;
  uint32_t kv_heads = 0;        ///< divides heads
  uint32_t head_dim = 0;        ///< even; need not be embedding_width / heads
  uint32_t vocab = 0;           ///< rows of the embedding, at least the tokenizer's tokens
  uint32_t context_length = 0;  ///< tokens; the file's, or the one that Open was told
  float rms_epsilon = 0;
  float rope_base = 0;
  RopeLayout rope_layout = RopeLayout::kAdjacentPairs;
  bool tied_embeddings = false;  ///< output.weight is token_embd.weight (and Find may lack it)
  int32_t bos_id = -1;           ///< -1: none
  std::vector<int32_t> eos_ids;
};

/// An open model file.
/// Thread: all methods are const and may be called from any thread at once.
/// Owner:  owns the mappings; every Tensor and span borrows from it. A file that another process
///         truncates while it is mapped kills this one (SIGBUS), as with every mapped file: replace
///         a model by renaming over it.
class ModelFile {
 public:
  struct Options {
    uint32_t context_length = 0;  ///< overrides the file's; 0: what the file says
  };

  /// Opens a GGUF v3 file, a .safetensors file beside its config.json, or a directory that holds
  /// config.json and model.safetensors or model.safetensors.index.json; which, the content tells.
  /// Errors: NotFound and the other codes of open(2); InvalidArgument for a file that is damaged,
  ///         hostile or of another format, with the file, the thing in it, and what to do.
  /// Cost:   reads the headers only.
  static absl::StatusOr<std::unique_ptr<ModelFile>> Open(const std::string& path,
                                                         const Options& options);
  static absl::StatusOr<std::unique_ptr<ModelFile>> Open(const std::string& path);

  virtual ~ModelFile() = default;
  ModelFile(const ModelFile&) = delete;
  ModelFile& operator=(const ModelFile&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::span<const Tensor> tensors() const { return tensors_; }

  /// The tensor of that canonical name; null where the file has none.
  [[nodiscard]] const Tensor* Find(std::string_view name) const;

  /// The tensor of that canonical name, of exactly that shape and of a type that can be computed
  /// with. Errors: NotFound, InvalidArgument (shape), Unimplemented (type; names it and those
  /// supported).
  absl::StatusOr<const Tensor*> Require(std::string_view name,
                                        std::initializer_list<uint64_t> shape) const;

  /// The configuration, checked for sense and for features that the engine would ignore silently
  /// (an unknown tensor, scaled RoPE, another activation). Errors: Unimplemented for another
  /// architecture or such a feature; InvalidArgument otherwise.
  [[nodiscard]] virtual absl::StatusOr<ModelConfig> config() const = 0;

  /// A copy of the tokenizer's data, read from the file at each call (tens of milliseconds).
  /// Errors: NotFound where the file has none: safetensors never do, a GGUF may not.
  [[nodiscard]] virtual absl::StatusOr<TokenizerData> tokenizer() const = 0;

  /// SHA-256 of the weights' content: of the whole file for one GGUF (what sha256sum prints); for
  /// safetensors, over the SHA-256s of config.json and then of each weight file in order of its
  /// name. Computed once and remembered (content_digest.h), so that only the first call reads
  /// everything. Errors: those of reading the files.
  [[nodiscard]] absl::StatusOr<Sha256> content_sha256() const;

 protected:
  ModelFile(std::string path, const Options& options) : path_(std::move(path)), options_(options) {}

  /// Takes the tensors over. Errors: InvalidArgument if two bear one name.
  absl::Status AdoptTensors(std::vector<Tensor> tensors);
  /// Completes a llama configuration from the tensors and the options, and checks the whole.
  absl::Status FinishConfig(ModelConfig& config) const;
  [[nodiscard]] absl::Status UnsupportedArchitecture(std::string_view architecture) const;

  std::string path_;
  Options options_;
  std::vector<MappedFile> files_;  ///< in the order that content_sha256 covers them

 private:
  std::vector<Tensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
};

}  // namespace thermocline
