// SentencePiece's BPE as the GGUF files of llama and gemma use it (tokenizer.ggml.model "llama"):
// spaces become U+2581, then the adjacent pair whose union is the token with the highest score is
// joined, again and again, ties going to the left. What remains without a token falls back to its
// bytes, <0xHH>. Pairs wait in a heap, so that n characters cost O(n log n).
// Source: SentencePiece, EMNLP'18 (demonstrations), section 3.1; llama.cpp's llm_tokenizer_spm for
// ties and for input that is not UTF-8, whose bytes are grouped by their lead byte alone
// (so that a space behind a lead byte without its character comes back as U+2581).
#pragma once
#include <array>
#include <memory>

#include "engine/subword_model.h"
#include "engine/vocabulary.h"

namespace thermocline {

class SpmModel : public SubwordModel {
 public:
  /// Owner: borrows `vocabulary`.
  /// Errors: InvalidArgument where the file has no scores, a score is not a number, or some byte
  ///         has neither a token nor an unknown token to stand for it.
  static absl::StatusOr<std::unique_ptr<SubwordModel>> Create(const Vocabulary& vocabulary);

  absl::Status Encode(std::string_view text, bool opens, std::vector<int32_t>& ids) const override;
  void AppendText(int32_t id, std::string& out) const override;
  [[nodiscard]] bool adds_space_prefix() const override {
    return vocabulary_.data().add_space_prefix;
  }

 private:
  explicit SpmModel(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}

  const Vocabulary& vocabulary_;
  std::array<int32_t, 256> byte_ids_{};
};

}  // namespace thermocline
