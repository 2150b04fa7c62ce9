// GGUF version 3, the container of llama.cpp: magic, version, counts, key-value pairs, tensor
// descriptions, then the tensors' data at aligned offsets. Parse walks the whole structure once and
// believes nothing: every count, length, dimension, product and offset is held against the bytes
// that are there before it is used, and nothing is allocated in proportion to a number that the
// file only claims. Values stay where they lie and are decoded when asked for. Source:
// ggml/docs/gguf.md of llama.cpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/weights.h"

namespace thermocline {

/// The codes of the file format.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

/// One value of the metadata, checked against the file's end. An array's `type` is that of its
/// elements; `bytes` holds a scalar, a string's bytes, or an array's elements as stored.
struct GgufValue {
  GgufType type = GgufType::kUint8;
  bool is_array = false;
  uint64_t count = 1;
  std::span<const std::byte> bytes;
};

/// A parsed GGUF file.
/// Thread: any; immutable.
/// Owner:  borrows the bytes it was parsed from.
class GgufFile {
 public:
  /// Errors: InvalidArgument; the text begins with `path`, which is used for nothing else.
  static absl::StatusOr<GgufFile> Parse(std::span<const std::byte> bytes, std::string_view path);

  [[nodiscard]] const std::vector<Tensor>& tensors() const { return tensors_; }
  [[nodiscard]] std::vector<Tensor> TakeTensors() && { return std::move(tensors_); }
  [[nodiscard]] const GgufValue* Find(std::string_view key) const;

  // Each of these: none where the file lacks the key; InvalidArgument, naming the key, where it
  // holds another type or a number out of the result's range. Any width of integer or float will
  // do.
  [[nodiscard]] absl::StatusOr<std::optional<uint32_t>> Uint(std::string_view key) const;
  [[nodiscard]] absl::StatusOr<std::optional<double>> Float(std::string_view key) const;
  [[nodiscard]] absl::StatusOr<std::optional<bool>> Bool(std::string_view key) const;
  [[nodiscard]] absl::StatusOr<std::optional<std::string>> String(std::string_view key) const;
  [[nodiscard]] absl::StatusOr<std::optional<std::vector<std::string>>> Strings(
      std::string_view key) const;
  [[nodiscard]] absl::StatusOr<std::optional<std::vector<float>>> Floats(
      std::string_view key) const;
  [[nodiscard]] absl::StatusOr<std::optional<std::vector<int32_t>>> Ints(
      std::string_view key) const;
  /// A token id; absent, -1 and 0xFFFFFFFF all are -1, none.
  [[nodiscard]] absl::StatusOr<int32_t> TokenId(std::string_view key) const;

 private:
  friend class GgufParser;
  GgufFile() = default;
  [[nodiscard]] absl::Status WrongType(std::string_view key, std::string_view wanted) const;
  [[nodiscard]] absl::StatusOr<const GgufValue*> Array(std::string_view key, GgufType element,
                                                       std::string_view wanted) const;

  std::string path_;
  std::map<std::string, GgufValue, std::less<>> values_;
  std::vector<Tensor> tensors_;
};

/// Whether the bytes begin as a GGUF file or one of its ancestors (ggml, ggjt) does; Parse tells
/// them apart.
[[nodiscard]] bool LooksLikeGguf(std::span<const std::byte> bytes);

/// A model in a GGUF file. Errors: as ModelFile::Open.
absl::StatusOr<std::unique_ptr<ModelFile>> OpenGgufModel(MappedFile file,
                                                         const ModelFile::Options& options);

}  // namespace thermocline
