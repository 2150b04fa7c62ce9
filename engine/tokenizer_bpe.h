// Byte-level BPE (tokenizer.ggml.model "gpt2"): text is cut into words by regular expressions
// (pre_tokenizer.h), each byte of a word becomes the token of the character that stands for it, and
// the adjacent pair that comes first in the list of merges is joined, again and again, ties going
// to the left. Pairs are looked up by ids and wait in a heap, so that a word of n bytes costs
// O(n log n), however long it is. A byte that the vocabulary lacks is left out, as in llama.cpp:
// SmolLM2's lacks 8 that UTF-8 can contain, six control characters and the leads of the
// unassigned planes 4 to 11.
// Source: Language Models are Unsupervised Multitask Learners (2019), section 2.2; Neural Machine
// Translation of Rare Words with Subword Units, ACL'16, section 3.2.
#pragma once
#include <array>
#include <boost/unordered/unordered_flat_map.hpp>
#include <memory>

#include "engine/pre_tokenizer.h"
#include "engine/subword_model.h"
#include "engine/vocabulary.h"

namespace thermocline {

class BpeModel : public SubwordModel {
 public:
  /// Owner: borrows `vocabulary`.
  /// Errors: InvalidArgument on a merge that is malformed or whose parts or result are no tokens;
  ///         Unimplemented for an unknown pre-tokenizer.
  static absl::StatusOr<std::unique_ptr<SubwordModel>> Create(const Vocabulary& vocabulary);

  absl::Status Encode(std::string_view text, bool opens, std::vector<int32_t>& ids) const override;
  void AppendText(int32_t id, std::string& out) const override;
  [[nodiscard]] bool adds_space_prefix() const override { return false; }

 private:
  class Joiner;
  struct Merge {
    int32_t rank;
    int32_t id;
  };

  explicit BpeModel(const Vocabulary& vocabulary) : vocabulary_(vocabulary) {}
  absl::Status AddMerge(int32_t rank, std::string_view line);
  /// The merge of two adjacent tokens; null if there is none.
  [[nodiscard]] const Merge* Find(int32_t left, int32_t right) const;
  static uint64_t Pair(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }

  const Vocabulary& vocabulary_;
  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::array<int32_t, 256> byte_ids_{};
  boost::unordered_flat_map<uint64_t, Merge> merges_;
};

}  // namespace thermocline
