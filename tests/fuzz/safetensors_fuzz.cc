// Any bytes at all given to the safetensors parser and to the reader of config.json: an error, or
// tensors that lie within the bytes one after the other.
#include <cstdint>

#include "base/check.h"
#include "engine/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thermocline;
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto tensors = ParseSafetensors(bytes, "fuzz");
  if (tensors.ok()) {
    for (const Tensor& tensor : *tensors) {
      TC_CHECK(tensor.data.data() >= bytes.data());
      TC_CHECK(tensor.data.data() + tensor.data.size() <= bytes.data() + size);
      if (tensor.type == TensorType::kOther) continue;
      TC_CHECK(tensor.data.size() == tensor.rows() * tensor.row_bytes());
    }
  }
  (void)ParseHuggingFaceConfig({reinterpret_cast<const char*>(data), size}, "fuzz");
  return 0;
}
