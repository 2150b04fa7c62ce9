// Text to token ids and back, with the ids that llama.cpp gives. A tokenizer is a checked
// vocabulary (vocabulary.h), a splitter that finds special tokens by name (special_tokens.h) and,
// for the text between them, a subword model: SPM or byte-level BPE. Note that the ids of a text's
// prefix need not be a prefix of the text's ids (a trailing newline may join what follows): caches
// match on ids, never on text.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/special_tokens.h"
#include "engine/subword_model.h"
#include "engine/tokenizer_data.h"
#include "engine/vocabulary.h"

namespace thermocline {

/// Thread: immutable, so any.
class Tokenizer {
 public:
  static constexpr int32_t kNone = Vocabulary::kNone;
  static constexpr size_t kMaxTextBytes = size_t{8} << 20;  ///< of one Encode

  /// Errors: Unimplemented for a `model` or `pre` that is not supported, with those that are;
  ///         InvalidArgument for a vocabulary that contradicts itself.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerData data);
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// The ids of `text`, any bytes, without BOS. With `parse_special` the names of control tokens
  /// ("<|im_end|>") become those tokens: right for a formatted prompt, wrong for a stranger's text.
  /// User-defined tokens are found either way.
  /// Errors: InvalidArgument above kMaxTextBytes; ResourceExhausted, Internal of the regex engine.
  /// Cost:   O(n log n) in the bytes; prose at about 6 MB/s (BPE) or 1 MB/s (SPM) a core.
  [[nodiscard]] absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                                            bool parse_special) const;

  /// As Encode, behind BOS where the model wants one.
  [[nodiscard]] absl::StatusOr<std::vector<int32_t>> EncodePrompt(std::string_view text,
                                                                  bool parse_special) const;

  /// The text of `ids` from its start, control tokens by their names: the inverse of Encode with
  /// `parse_special` for every valid UTF-8 that the vocabulary can spell (SPM has no U+2581). It
  /// may be any bytes: tokens may end within a character.
  /// Errors: InvalidArgument on an id that is no token.
  [[nodiscard]] absl::StatusOr<std::string> Decode(std::span<const int32_t> ids) const;

  /// Whether `id` ends an answer: eos, or a token known by its name to end one.
  [[nodiscard]] bool IsEndOfGeneration(int32_t id) const;
  [[nodiscard]] const std::vector<int32_t>& end_of_generation() const {
    return vocabulary_->end_of_generation();
  }

  /// Tokens with a text; the model's rows may be more.
  [[nodiscard]] int32_t vocab_size() const { return vocabulary_->size(); }
  [[nodiscard]] int32_t bos() const { return vocabulary_->data().bos; }
  [[nodiscard]] int32_t eos() const { return vocabulary_->data().eos; }
  [[nodiscard]] bool add_bos() const { return vocabulary_->data().add_bos; }
  /// The file's template, for ChatTemplate::Create; may be empty.
  [[nodiscard]] const std::string& chat_template() const {
    return vocabulary_->data().chat_template;
  }

 private:
  friend class StreamDecoder;
  Tokenizer(std::unique_ptr<const Vocabulary> vocabulary, std::unique_ptr<SubwordModel> subwords);

  std::unique_ptr<const Vocabulary> vocabulary_;
  std::unique_ptr<SubwordModel> subwords_;
  SpecialTokens special_;
};

/// Text from ids as they come, cut only between characters.
/// Thread: one. Owner: borrows the tokenizer.
class StreamDecoder {
 public:
  /// `text_start`: whether the ids begin a text (a space that Encode put before it is taken away)
  /// or go on from a prompt.
  StreamDecoder(const Tokenizer& tokenizer, bool text_start);

  /// The text that `id` completes: its own and what was held back, less the start of a character
  /// that it may leave unfinished (at most 3 bytes, held back). An id that is no token has no text.
  /// Bytes that are no UTF-8 at all pass as they are.
  [[nodiscard]] std::string Push(int32_t id);

  /// What is held back, unfinished as it is; the decoder is then empty.
  [[nodiscard]] std::string Finish();

 private:
  const Tokenizer& tokenizer_;
  bool opens_;  // Encode would have put a space here
  std::string held_;
};

}  // namespace thermocline
