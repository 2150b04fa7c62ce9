// Any bytes at all given to the GGUF parser: an error or a file all of whose keys and rows can be
// read. The getters are called on every key that the engine knows, of whatever type it is here.
// Then the same bytes as a model: its configuration, and a tokenizer over whatever vocabulary it
// brings, which must refuse that vocabulary or encode any text to ids that it can decode.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/unique_fd.h"
#include "engine/chat_template.h"
#include "engine/dequantize.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"

namespace {

using namespace thermocline;

constexpr std::string_view kText = "  Lily and\tthe abcd <|im_end|></s><tab>\n1234 \xc3\xa9\xff";

void ReadParsed(const GgufFile& file) {
  for (const char* key : {"general.architecture", "tokenizer.ggml.tokens", "tokenizer.ggml.scores",
                          "tokenizer.ggml.token_type", "llama.block_count",
                          "llama.attention.layer_norm_rms_epsilon"}) {
    (void)file.Uint(key);
    (void)file.Float(key);
    (void)file.Bool(key);
    (void)file.String(key);
    (void)file.Strings(key);
    (void)file.Floats(key);
    (void)file.Ints(key);
    (void)file.TokenId(key);
  }
  for (const Tensor& tensor : file.tensors()) {
    if (tensor.type == TensorType::kOther) continue;
    std::vector<float> row(tensor.columns());
    Dequantize(tensor.type, tensor.row(tensor.rows() - 1), row);
    TC_CHECK(tensor.data.size() == tensor.rows() * tensor.row_bytes());
  }
}

void UseTokenizer(TokenizerData data) {
  const auto tokenizer = Tokenizer::Create(std::move(data));
  if (!tokenizer.ok()) return;
  (void)ChatTemplate::Create((*tokenizer)->chat_template());
  for (const bool parse_special : {false, true}) {
    const auto ids = (*tokenizer)->Encode(kText, parse_special);
    if (!ids.ok()) continue;
    for (const int32_t id : *ids) TC_CHECK(id >= 0 && id < (*tokenizer)->vocab_size());
    TC_CHECK((*tokenizer)->Decode(*ids).ok());
  }
  for (const int32_t id : (*tokenizer)->end_of_generation()) {
    TC_CHECK(id >= 0 && id < (*tokenizer)->vocab_size());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = GgufFile::Parse(std::as_bytes(std::span(data, size)), "fuzz");
  if (!file.ok()) return 0;
  ReadParsed(*file);

  const UniqueFd memory(::memfd_create("fuzz", MFD_CLOEXEC));
  TC_CHECK(::write(memory.get(), data, size) == static_cast<ssize_t>(size));
  const auto model = ModelFile::Open("/proc/self/fd/" + std::to_string(memory.get()));
  if (!model.ok()) return 0;  // two tensors of one name
  if (const auto config = (*model)->config(); config.ok()) {
    TC_CHECK(config->heads % config->kv_heads == 0 && config->vocab > 0);
    for (const int32_t id : config->eos_ids) TC_CHECK(static_cast<uint32_t>(id) < config->vocab);
  }
  if (auto tokenizer = (*model)->tokenizer(); tokenizer.ok()) UseTokenizer(*std::move(tokenizer));
  return 0;
}
