// Builds small GGUF files in memory for tests: well-formed by default, and hostile where a test
// sets a field by hand.
#pragma once
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace thermocline {

template <typename T>
std::string LittleEndian(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

inline std::string GgufString(std::string_view text) {
  return LittleEndian<uint64_t>(text.size()).append(text);
}

class GgufWriter {
 public:
  struct TensorSpec {
    std::string name;
    uint32_t type = 0;
    std::vector<uint64_t> shape;  ///< outermost first
    std::string data;
    std::optional<uint64_t> offset = {};  ///< by hand; else the next aligned one
  };

  // The header's fields, for a test to set by hand.
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::optional<uint64_t> tensor_count;
  std::optional<uint64_t> key_count;
  uint32_t alignment = 32;  ///< used for placing; declared by a key of its own
  bool pad_end = true;

  GgufWriter& Raw(std::string_view key, uint32_t type, std::string_view value) {
    keys_ += GgufString(key) + LittleEndian(type).append(value);
    ++keys_written_;
    return *this;
  }
  GgufWriter& Uint(std::string_view key, uint32_t value) {
    return Raw(key, 4, LittleEndian(value));
  }
  GgufWriter& Float(std::string_view key, float value) { return Raw(key, 6, LittleEndian(value)); }
  GgufWriter& Bool(std::string_view key, bool value) {
    return Raw(key, 7, std::string(1, value ? '\1' : '\0'));
  }
  GgufWriter& Text(std::string_view key, std::string_view value) {
    return Raw(key, 8, GgufString(value));
  }
  GgufWriter& RawArray(std::string_view key, uint32_t type, uint64_t count,
                       std::string_view value) {
    return Raw(key, 9, (LittleEndian(type) + LittleEndian(count)).append(value));
  }
  GgufWriter& Texts(std::string_view key, const std::vector<std::string>& values) {
    std::string bytes;
    for (const std::string& value : values) bytes += GgufString(value);
    return RawArray(key, 8, values.size(), bytes);
  }
  GgufWriter& Add(TensorSpec tensor) {
    tensors_.push_back(std::move(tensor));
    return *this;
  }
  /// An F32 tensor whose element i is `first` + i / 64.
  GgufWriter& AddF32(std::string_view name, std::vector<uint64_t> shape, float first = 0) {
    uint64_t elements = 1;
    for (const uint64_t size : shape) elements *= size;
    std::string data;
    for (uint64_t i = 0; i < elements; ++i) {
      data += LittleEndian(first + static_cast<float>(i) / 64);
    }
    return Add({std::string(name), 0, std::move(shape), std::move(data)});
  }

  [[nodiscard]] std::string Bytes() const {
    std::string file = magic + LittleEndian(version) +
                       LittleEndian(tensor_count.value_or(tensors_.size())) +
                       LittleEndian(key_count.value_or(keys_written_)) + keys_;
    std::string data;
    for (const TensorSpec& tensor : tensors_) {
      Pad(data);
      file += GgufString(tensor.name) + LittleEndian(static_cast<uint32_t>(tensor.shape.size()));
      for (size_t i = tensor.shape.size(); i-- > 0;) file += LittleEndian(tensor.shape[i]);
      file += LittleEndian(tensor.type) + LittleEndian(tensor.offset.value_or(data.size()));
      data += tensor.data;
    }
    if (tensors_.empty()) return file;
    if (pad_end) Pad(data);
    Pad(file);
    return file + data;
  }

 private:
  void Pad(std::string& bytes) const {
    while (bytes.size() % alignment != 0) bytes += '\0';
  }

  std::string keys_;
  uint64_t keys_written_ = 0;
  std::vector<TensorSpec> tensors_;
};

/// What TinyLlamaGguf leaves to its caller.
struct TinyLlama {
  uint32_t layers = 2;
  uint32_t width = 8;
  uint32_t ff_width = 12;
  uint32_t heads = 4;
  uint32_t kv_heads = 2;
  uint32_t vocab = 6;
};

/// The keys that every llama file has, no tensor.
inline GgufWriter LlamaKeys(const TinyLlama& shape = {}) {
  GgufWriter writer;
  writer.Text("general.architecture", "llama")
      .Uint("llama.block_count", shape.layers)
      .Uint("llama.context_length", 64)
      .Uint("llama.embedding_length", shape.width)
      .Uint("llama.feed_forward_length", shape.ff_width)
      .Uint("llama.attention.head_count", shape.heads)
      .Uint("llama.attention.head_count_kv", shape.kv_heads)
      .Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  return writer;
}

/// Adds the tensors of a llama model with tied embeddings.
inline GgufWriter& AddLlamaTensors(GgufWriter& writer, const TinyLlama& shape = {}) {
  const uint64_t width = shape.width;
  const uint64_t kv_width = uint64_t{shape.kv_heads} * (shape.width / shape.heads);
  writer.AddF32("token_embd.weight", {shape.vocab, width}).AddF32("output_norm.weight", {width});
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    writer.AddF32(prefix + "attn_norm.weight", {width})
        .AddF32(prefix + "attn_q.weight", {width, width})
        .AddF32(prefix + "attn_k.weight", {kv_width, width})
        .AddF32(prefix + "attn_v.weight", {kv_width, width})
        .AddF32(prefix + "attn_output.weight", {width, width})
        .AddF32(prefix + "ffn_norm.weight", {width})
        .AddF32(prefix + "ffn_gate.weight", {shape.ff_width, width})
        .AddF32(prefix + "ffn_up.weight", {shape.ff_width, width})
        .AddF32(prefix + "ffn_down.weight", {width, shape.ff_width});
  }
  return writer;
}

}  // namespace thermocline
