// One walk over a GGUF file, front to back, that checks everything it will ever be asked for.
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <array>

#include "engine/file_bytes.h"
#include "engine/gguf.h"
#include "engine/printable.h"

namespace thermocline {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint64_t kMaxKeyValues = 65'536;
constexpr uint64_t kMaxTensors = 65'536;
constexpr uint64_t kMaxNameBytes = 65'535;  // the format's own limit for keys
constexpr uint32_t kMaxDimensions = 4;
constexpr uint32_t kDefaultAlignment = 32;
// The least that one entry takes in the file; a count that cannot fit is refused before it is used.
constexpr uint64_t kLeastKeyValueBytes = 8 + 4 + 1;
constexpr uint64_t kLeastTensorInfoBytes = 8 + 4 + 8 + 4 + 8;

struct StoredType {
  uint32_t code;
  const char* name;
  uint32_t block_elements;
  uint32_t block_bytes;
  TensorType type;
};

// ggml.h, enum ggml_type; the gaps are types that were withdrawn.
constexpr std::array<StoredType, 32> kStoredTypes{{
    {0, "F32", 1, 4, TensorType::kF32},           {1, "F16", 1, 2, TensorType::kF16},
    {2, "Q4_0", 32, 18, TensorType::kQ4_0},       {3, "Q4_1", 32, 20, TensorType::kQ4_1},
    {6, "Q5_0", 32, 22, TensorType::kQ5_0},       {7, "Q5_1", 32, 24, TensorType::kQ5_1},
    {8, "Q8_0", 32, 34, TensorType::kQ8_0},       {9, "Q8_1", 32, 36, TensorType::kOther},
    {10, "Q2_K", 256, 84, TensorType::kOther},    {11, "Q3_K", 256, 110, TensorType::kOther},
    {12, "Q4_K", 256, 144, TensorType::kOther},   {13, "Q5_K", 256, 176, TensorType::kOther},
    {14, "Q6_K", 256, 210, TensorType::kOther},   {15, "Q8_K", 256, 292, TensorType::kOther},
    {16, "IQ2_XXS", 256, 66, TensorType::kOther}, {17, "IQ2_XS", 256, 74, TensorType::kOther},
    {18, "IQ3_XXS", 256, 98, TensorType::kOther}, {19, "IQ1_S", 256, 50, TensorType::kOther},
    {20, "IQ4_NL", 32, 18, TensorType::kOther},   {21, "IQ3_S", 256, 110, TensorType::kOther},
    {22, "IQ2_S", 256, 82, TensorType::kOther},   {23, "IQ4_XS", 256, 136, TensorType::kOther},
    {24, "I8", 1, 1, TensorType::kOther},         {25, "I16", 1, 2, TensorType::kOther},
    {26, "I32", 1, 4, TensorType::kOther},        {27, "I64", 1, 8, TensorType::kOther},
    {28, "F64", 1, 8, TensorType::kOther},        {29, "IQ1_M", 256, 56, TensorType::kOther},
    {30, "BF16", 1, 2, TensorType::kBF16},        {34, "TQ1_0", 256, 54, TensorType::kOther},
    {35, "TQ2_0", 256, 66, TensorType::kOther},   {39, "MXFP4", 32, 17, TensorType::kOther},
}};
static_assert([] {
  for (const StoredType& stored : kStoredTypes) {
    if (stored.type == TensorType::kOther) continue;
    const TensorLayout& layout = kTensorLayouts[static_cast<size_t>(stored.type)];
    if (stored.name != layout.name || stored.block_elements != layout.block_elements ||
        stored.block_bytes != layout.block_bytes) {
      return false;
    }
  }
  return true;
}());

/// Bytes of a scalar; 0 for strings, arrays and codes that do not exist.
uint32_t ScalarBytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return 0;
}

}  // namespace

/// Walks the file once, front to back.
class GgufParser {
 public:
  GgufParser(std::span<const std::byte> bytes, std::string_view path) : bytes_(bytes) {
    file_.path_ = std::string(path);
  }

  absl::StatusOr<GgufFile> Parse() {
    TC_RETURN_IF_ERROR(ParseHeader());
    for (uint64_t i = 0; i < key_values_; ++i) TC_RETURN_IF_ERROR(ParseKeyValue(i));
    TC_RETURN_IF_ERROR(RefuseSplitFiles());
    TC_RETURN_IF_ERROR(ReadAlignment());
    file_.tensors_.reserve(tensor_count_);
    for (uint64_t i = 0; i < tensor_count_; ++i) TC_RETURN_IF_ERROR(ParseTensorInfo(i));
    TC_RETURN_IF_ERROR(PlaceTensors());
    return std::move(file_);
  }

 private:
  /// A tensor's offset, and its size or 0 where its type is unknown.
  struct Extent {
    uint64_t offset = 0;
    uint64_t bytes = 0;
  };

  [[nodiscard]] uint64_t remaining() const { return bytes_.size() - position_; }

  template <typename T>
  bool Read(T& value) {
    if (remaining() < sizeof value) return false;
    value = Load<T>(bytes_.data() + position_);
    position_ += sizeof value;
    return true;
  }

  bool ReadString(std::span<const std::byte>& text) {
    uint64_t length = 0;
    return Read(length) && Skip(length, text);
  }

  bool Skip(uint64_t length, std::span<const std::byte>& skipped) {
    if (length > remaining()) return false;
    skipped = bytes_.subspan(position_, length);
    position_ += length;
    return true;
  }

  template <typename... Parts>
  [[nodiscard]] absl::Status Refuse(const Parts&... parts) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.path_, ": ", parts...));
  }

  template <typename... Parts>
  [[nodiscard]] absl::Status Damaged(const Parts&... parts) const {
    return Refuse(parts..., " (byte ", position_, " of ", bytes_.size(),
                  "); the file is truncated or damaged, fetch it anew");
  }

  absl::Status ParseHeader() {
    std::span<const std::byte> magic;
    if (!Skip(4, magic)) return Damaged("too short for a GGUF file");
    if (AsText(magic) != "GGUF") {
      return Refuse("an older ggml file (", Printable(AsText(magic)),
                    "), not GGUF version 3; convert the model again with a current llama.cpp");
    }
    uint32_t version = 0;
    if (!Read(version)) return Damaged("the header is cut off");
    if (version != kVersion) {
      if (version != 0 && __builtin_bswap32(version) <= kVersion) {
        return Refuse("a big-endian GGUF file; fetch or convert the little-endian form");
      }
      return Refuse("GGUF version ", version, ", the engine reads version ", kVersion,
                    "; convert the model again with a current llama.cpp");
    }
    if (!Read(tensor_count_) || !Read(key_values_)) return Damaged("the header is cut off");
    if (key_values_ > kMaxKeyValues || key_values_ > remaining() / kLeastKeyValueBytes) {
      return Damaged("claims ", key_values_, " key-value pairs, more than can be");
    }
    if (tensor_count_ > kMaxTensors || tensor_count_ > remaining() / kLeastTensorInfoBytes) {
      return Damaged("claims ", tensor_count_, " tensors, more than can be");
    }
    return absl::OkStatus();
  }

  absl::Status ParseKeyValue(uint64_t index) {
    std::span<const std::byte> key_bytes;
    uint32_t type = 0;
    if (!ReadString(key_bytes)) return Damaged("key ", index, " runs past the end");
    const std::string_view key = AsText(key_bytes);
    if (key.empty() || key.size() > kMaxNameBytes) {
      return Damaged("key ", index, " is of ", key.size(), " bytes");
    }
    GgufValue value;
    if (!Read(type)) return Damaged("key ", Printable(key), " has no value");
    value.type = static_cast<GgufType>(type);
    if (value.type == GgufType::kArray) {
      TC_RETURN_IF_ERROR(ParseArray(key, value));
    } else if (value.type == GgufType::kString) {
      if (!ReadString(value.bytes)) return Damaged("the value of ", Printable(key), " is cut off");
    } else {
      const uint32_t size = ScalarBytes(value.type);
      if (size == 0) return Damaged("key ", Printable(key), " is of the unknown type ", type);
      if (!Skip(size, value.bytes)) return Damaged("the value of ", Printable(key), " is cut off");
    }
    if (value.type == GgufType::kBool &&
        !std::all_of(value.bytes.begin(), value.bytes.end(),
                     [](std::byte b) { return b == std::byte{0} || b == std::byte{1}; })) {
      return Damaged("key ", Printable(key), " holds a bool that is neither 0 nor 1");
    }
    if (!file_.values_.emplace(std::string(key), value).second) {
      return Damaged("key ", Printable(key), " occurs twice");
    }
    return absl::OkStatus();
  }

  absl::Status ParseArray(std::string_view key, GgufValue& value) {
    uint32_t element = 0;
    if (!Read(element) || !Read(value.count)) {
      return Damaged("the array ", Printable(key), " is cut off");
    }
    value.is_array = true;
    value.type = static_cast<GgufType>(element);
    if (value.type == GgufType::kArray) {
      return Refuse("key ", Printable(key),
                    " holds an array of arrays, which no model needs; convert the model again");
    }
    const uint32_t size = value.type == GgufType::kString ? 8 : ScalarBytes(value.type);
    if (size == 0) {
      return Damaged("the array ", Printable(key), " is of the unknown type ", element);
    }
    if (value.count > remaining() / size) {
      return Damaged("the array ", Printable(key), " claims ", value.count,
                     " elements and runs past the end");
    }
    if (value.type != GgufType::kString) {
      Skip(value.count * size, value.bytes);
      return absl::OkStatus();
    }
    const uint64_t start = position_;
    for (uint64_t i = 0; i < value.count; ++i) {
      std::span<const std::byte> text;
      if (!ReadString(text)) {
        return Damaged("element ", i, " of ", Printable(key), " runs past the end");
      }
    }
    value.bytes = bytes_.subspan(start, position_ - start);
    return absl::OkStatus();
  }

  absl::Status RefuseSplitFiles() {
    TC_ASSIGN_OR_RETURN(const std::optional<uint32_t> parts, file_.Uint("split.count"));
    if (parts.value_or(1) <= 1) return absl::OkStatus();
    return Refuse("one of ", *parts,
                  " parts of a split model; join them with llama-gguf-split --merge");
  }

  absl::Status ReadAlignment() {
    TC_ASSIGN_OR_RETURN(const std::optional<uint32_t> given, file_.Uint("general.alignment"));
    alignment_ = given.value_or(kDefaultAlignment);
    if (std::has_single_bit(alignment_)) return absl::OkStatus();
    return Damaged("general.alignment is ", alignment_, ", not a power of two");
  }

  absl::Status ParseTensorInfo(uint64_t index) {
    std::span<const std::byte> name_bytes;
    uint32_t dimensions = 0;
    if (!ReadString(name_bytes) || !Read(dimensions)) {
      return Damaged("the description of tensor ", index, " runs past the end");
    }
    const std::string_view name = AsText(name_bytes);
    const std::string what = absl::StrCat("tensor ", Printable(name));
    if (name.empty() || name.size() > kMaxNameBytes) {
      return Damaged("the name of tensor ", index, " is of ", name.size(), " bytes");
    }
    if (dimensions < 1 || dimensions > kMaxDimensions) {
      return Damaged(what, " has ", dimensions, " dimensions, not 1 to ", kMaxDimensions);
    }
    Tensor tensor;
    tensor.name = tensor.source_name = std::string(name);
    tensor.shape.resize(dimensions);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < dimensions; ++i) {  // the file has the innermost dimension first
      uint64_t& size = tensor.shape[dimensions - 1 - i];
      if (!Read(size)) return Damaged("the shape of ", what, " is cut off");
      if (size == 0) return Damaged(what, " has a dimension of 0");
      if (__builtin_mul_overflow(elements, size, &elements)) {
        return Damaged(what, " claims more elements than can be counted");
      }
    }
    uint32_t code = 0;
    Extent extent;
    if (!Read(code) || !Read(extent.offset)) return Damaged(what, " is cut off");
    TC_RETURN_IF_ERROR(SetType(code, elements, what, tensor, extent));
    file_.tensors_.push_back(std::move(tensor));
    extents_.push_back(extent);
    return absl::OkStatus();
  }

  absl::Status SetType(uint32_t code, uint64_t elements, const std::string& what, Tensor& tensor,
                       Extent& extent) const {
    const auto* const known = std::find_if(kStoredTypes.begin(), kStoredTypes.end(),
                                           [&](const StoredType& t) { return t.code == code; });
    if (known == kStoredTypes.end()) {  // its size is not known; it can be listed, not used
      tensor.type = TensorType::kOther;
      tensor.type_name = absl::StrCat("number ", code);
      return absl::OkStatus();
    }
    tensor.type = known->type;
    tensor.type_name = known->name;
    if (tensor.columns() % known->block_elements != 0) {
      return Damaged(what, " has rows of ", tensor.columns(), " elements, not a multiple of the ",
                     known->block_elements, " of a block of ", known->name);
    }
    if (__builtin_mul_overflow(elements / known->block_elements, uint64_t{known->block_bytes},
                               &extent.bytes)) {
      return Damaged(what, " claims more bytes than can be counted");
    }
    return absl::OkStatus();
  }

  // Offsets count from the first aligned byte after the descriptions. Gaps (padding) are harmless,
  // an overlap means that some tensor's bytes are another's.
  absl::Status PlaceTensors() {
    const uint64_t start = (position_ + alignment_ - 1) / alignment_ * alignment_;
    const uint64_t available = bytes_.size() - std::min<uint64_t>(start, bytes_.size());
    std::vector<size_t> order;
    for (size_t i = 0; i < extents_.size(); ++i) {
      const Extent& extent = extents_[i];
      const std::string what = absl::StrCat("tensor ", Printable(file_.tensors_[i].name));
      if (extent.offset % alignment_ != 0) {
        return Damaged(what, " lies at offset ", extent.offset, ", not a multiple of ", alignment_);
      }
      if (extent.offset > available || extent.bytes > available - extent.offset) {
        return Damaged(what, " takes ", extent.bytes, " bytes at offset ", extent.offset, " of ",
                       available, " bytes of data");
      }
      if (extent.bytes == 0) continue;
      file_.tensors_[i].data = bytes_.subspan(start + extent.offset, extent.bytes);
      order.push_back(i);
    }
    std::sort(order.begin(), order.end(),
              [&](size_t a, size_t b) { return extents_[a].offset < extents_[b].offset; });
    for (size_t i = 1; i < order.size(); ++i) {
      const Extent& before = extents_[order[i - 1]];
      if (before.offset + before.bytes > extents_[order[i]].offset) {
        return Damaged("tensors ", Printable(file_.tensors_[order[i - 1]].name), " and ",
                       Printable(file_.tensors_[order[i]].name), " overlap");
      }
    }
    return absl::OkStatus();
  }

  std::span<const std::byte> bytes_;
  uint64_t position_ = 0;
  uint64_t key_values_ = 0;
  uint64_t tensor_count_ = 0;
  uint32_t alignment_ = kDefaultAlignment;
  GgufFile file_;
  std::vector<Extent> extents_;
};

absl::StatusOr<GgufFile> GgufFile::Parse(std::span<const std::byte> bytes, std::string_view path) {
  return GgufParser(bytes, path).Parse();
}

bool LooksLikeGguf(std::span<const std::byte> bytes) {
  if (bytes.size() < 4) return false;
  const std::string_view magic = AsText(bytes.first(4));
  // The ancestors were written as little-endian words: 'ggml', 'ggmf', 'ggjt', 'ggla' backwards.
  return magic == "GGUF" || magic == "lmgg" || magic == "fmgg" || magic == "tjgg" ||
         magic == "algg";
}

}  // namespace thermocline
