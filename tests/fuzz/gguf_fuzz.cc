// Any bytes at all given to the GGUF parser: an error or a file all of whose keys and rows can be
// read. The getters are called on every key that the engine knows, of whatever type it is here.
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "engine/dequantize.h"
#include "engine/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thermocline;
  const auto file = GgufFile::Parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!file.ok()) return 0;
  for (const char* key : {"general.architecture", "tokenizer.ggml.tokens", "tokenizer.ggml.scores",
                          "tokenizer.ggml.token_type", "llama.block_count",
                          "llama.attention.layer_norm_rms_epsilon"}) {
    (void)file->Uint(key);
    (void)file->Float(key);
    (void)file->Bool(key);
    (void)file->String(key);
    (void)file->Strings(key);
    (void)file->Floats(key);
    (void)file->Ints(key);
    (void)file->TokenId(key);
  }
  for (const Tensor& tensor : file->tensors()) {
    if (tensor.type == TensorType::kOther) continue;
    std::vector<float> row(tensor.columns());
    Dequantize(tensor.type, tensor.row(tensor.rows() - 1), row);
    TC_CHECK(tensor.data.size() == tensor.rows() * tensor.row_bytes());
  }
  return 0;
}
