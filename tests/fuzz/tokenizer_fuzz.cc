// Any bytes through every tokenizer: nothing may crash, hang or fail, and what comes back must be
// the text as the tokenizer reads it.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "engine/tokenizer.h"
#include "engine/utf8.h"
#include "tests/engine/tiny_vocabulary.h"

namespace {

using namespace thermocline;

std::vector<std::unique_ptr<Tokenizer>> MakeTokenizers() {
  std::vector<std::unique_ptr<Tokenizer>> made;
  for (TokenizerData data : {TinySpm(), TinyBpe("smollm"), TinyBpe("gpt2"), TinyBpe("default")}) {
    auto tokenizer = Tokenizer::Create(std::move(data));
    TC_CHECK(tokenizer.ok());
    made.push_back(*std::move(tokenizer));
  }
  return made;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto tokenizers = MakeTokenizers();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (size_t i = 0; i < tokenizers.size(); ++i) {
    for (const bool parse_special : {false, true}) {
      const auto ids = tokenizers[i]->Encode(text, parse_special);
      TC_CHECK(ids.ok());
      const auto back = tokenizers[i]->Decode(*ids);
      TC_CHECK(back.ok());
      // BPE repairs the stretches between special tokens, whose names are ASCII, so that the whole
      // is repaired alike. SPM keeps valid text, but reads U+2581 as a space.
      const std::string repaired = RepairUtf8(text);
      const bool spm = i == 0;
      if (!spm) TC_CHECK(*back == repaired);
      if (spm && repaired == text && text.find("\u2581") == std::string_view::npos) {
        TC_CHECK(*back == text);
      }
    }
  }
  return 0;
}
