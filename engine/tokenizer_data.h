// What a model file says of its tokenizer, free of the file's format: the GGUF loader fills it, the
// tokenizers check and consume it. Nothing here is trusted; Tokenizer::Create validates every
// field.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace thermocline {

/// The vocabulary and settings of a tokenizer, as the keys `tokenizer.*` of a GGUF file give them.
/// Ids are indices into `tokens`; a special id that the file lacks (or gives as 0xFFFFFFFF) is -1.
/// The loader puts in the default beside a flag that the file lacks.
struct TokenizerData {
  /// The values of `tokenizer.ggml.token_type`.
  enum Type : int32_t {
    kUndefined = 0,
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6,
  };

  std::string model;                ///< `tokenizer.ggml.model`: "llama" (SPM), "gpt2" (BPE).
  std::string pre;                  ///< `tokenizer.ggml.pre`: the BPE pre-tokenizer; may be empty.
  std::vector<std::string> tokens;  ///< `tokenizer.ggml.tokens`: any bytes, also not UTF-8.
  std::vector<float> scores;        ///< `tokenizer.ggml.scores`: one a token (SPM), or empty.
  std::vector<int32_t> types;       ///< `tokenizer.ggml.token_type`: one a token, or empty.
  std::vector<std::string> merges;  ///< `tokenizer.ggml.merges`: "left right", best first (BPE).
  int32_t bos = -1;                 ///< `tokenizer.ggml.bos_token_id`
  int32_t eos = -1;                 ///< `tokenizer.ggml.eos_token_id`
  int32_t unk = -1;                 ///< `tokenizer.ggml.unknown_token_id`
  bool add_bos = false;             ///< `add_bos_token`; the file's default: true for "llama".
  bool add_space_prefix = true;     ///< `add_space_prefix`; the file's default: true.
  std::string chat_template;        ///< `tokenizer.chat_template` (Jinja), or empty.
};

}  // namespace thermocline
