// What the tests of the forward pass share: golden files, models, and a sequence with private KV.
#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/paged_kv.h"
#include "engine/transformer.h"

namespace thermocline {

inline std::string ModelData(const std::string& name) {
  return std::string(TC_SHARED_DATA) + "/models/" + name;
}
inline std::string SmolLm2Path() {
  return std::string(TC_SOURCE_DIR) + "/build/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}
inline bool Exists(const std::string& path) { return access(path.c_str(), R_OK) == 0; }

/// Skips the test, visibly, where a file is absent.
#define TC_NEED_FILE(path) \
  if (!Exists(path)) GTEST_SKIP() << "needs " << (path)

inline std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << path;
  return {std::istreambuf_iterator<char>(in), {}};
}
inline nlohmann::json ReadJson(const std::string& path) {
  return nlohmann::json::parse(ReadText(path));
}
template <class T>
std::vector<T> ReadArray(const std::string& path) {
  const std::string bytes = ReadText(path);
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

/// Loads with a form of the kernels ("" = the best).
inline std::unique_ptr<Transformer> LoadModel(const std::string& path, int threads,
                                              const char* form = "", uint32_t context = 0) {
  const auto file = ModelFile::Open(path, {.context_length = context});
  if (!file.ok()) {
    ADD_FAILURE() << file.status();
    return nullptr;
  }
  setenv("THERMOCLINE_CPU", form, 1);
  auto model = Transformer::Load(**file, {.threads = threads});
  unsetenv("THERMOCLINE_CPU");
  if (!model.ok()) {
    ADD_FAILURE() << model.status();
    return nullptr;
  }
  return *std::move(model);
}

/// A sequence's KV, every byte 0xff at first: NaN in both types, so that a read of an unwritten
/// row shows in the results.
class TestSequence {
 public:
  TestSequence(Transformer& model, KvDtype dtype, size_t tokens, bool reversed = false)
      : model_(model),
        dtype_(dtype),
        geometry_(model.kv_geometry(dtype)),
        pool_(geometry_, BlocksOf(tokens)) {
    for (size_t i = 0; i < BlocksOf(tokens); ++i) {
      blocks_.push_back(*pool_.Allocate());
      std::memset(blocks_.back(), 0xff, geometry_.block_bytes());
    }
    if (reversed) std::reverse(blocks_.begin(), blocks_.end());
    last_logits_.resize(model.config().vocab);
  }

  /// Computes ids[from, to) in chunks, each a call of its own.
  void Feed(const std::vector<int32_t>& ids, size_t from, size_t to, int chunk) {
    for (size_t i = from; i < to; i += chunk) {
      const size_t count = std::min<size_t>(chunk, to - i);
      const absl::Status status = model_.Forward(
          {.tokens = {ids.data() + i, count},
           .position = static_cast<int>(i),
           .blocks = blocks_,
           .kv_dtype = dtype_,
           .logits = i + count == to ? std::span<float>(last_logits_) : std::span<float>(),
           .chunk_tokens = chunk});
      ASSERT_TRUE(status.ok()) << status;
    }
  }
  /// The logits of all ids, computed at once.
  std::vector<float> AllLogits(const std::vector<int32_t>& ids) {
    std::vector<float> logits(ids.size() * model_.config().vocab);
    const absl::Status status =
        model_.Forward({.tokens = ids, .blocks = blocks_, .kv_dtype = dtype_, .logits = logits});
    EXPECT_TRUE(status.ok()) << status;
    return logits;
  }

  /// The rows of K and V of the first `tokens` tokens, in order.
  std::string Kv(size_t tokens) const {
    std::string bytes;
    for (size_t t = 0; t < tokens; ++t) {
      for (int layer = 0; layer < geometry_.layers; ++layer) {
        for (const KvHalf half : {KvHalf::kKeys, KvHalf::kValues}) {
          for (int head = 0; head < geometry_.kv_heads; ++head) {
            const std::byte* row = blocks_[t / kBlockTokens] +
                                   geometry_.head_offset(layer, half, head) +
                                   t % kBlockTokens * geometry_.row_bytes();
            bytes.append(reinterpret_cast<const char*>(row), geometry_.row_bytes());
          }
        }
      }
    }
    return bytes;
  }

  std::vector<std::byte*>& blocks() { return blocks_; }
  const KvGeometry& geometry() const { return geometry_; }
  const std::vector<float>& last_logits() const { return last_logits_; }

 private:
  Transformer& model_;
  KvDtype dtype_;
  KvGeometry geometry_;
  PrivateBlocks pool_;
  std::vector<std::byte*> blocks_;
  std::vector<float> last_logits_;
};

}  // namespace thermocline
