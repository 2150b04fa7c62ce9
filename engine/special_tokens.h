// Finds special tokens in text by their names, in llama.cpp's order: the longest name first, all of
// its places from left to right, then the next in what text is left. A vocabulary can have
// thousands of them (Gemma: 6,400), so that one pass over the text first tells which occur at all.
#pragma once
#include <array>
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <string_view>
#include <vector>

#include "engine/vocabulary.h"

namespace thermocline {

/// Thread: immutable, so any. Owner: borrows the vocabulary.
class SpecialTokens {
 public:
  /// A stretch of text: a special token, or plain text where `id` is kNone.
  struct Fragment {
    std::string_view text;
    int32_t id;
  };

  explicit SpecialTokens(const Vocabulary& vocabulary);

  /// Cuts `text` at its special tokens: the user-defined ones always, control and unknown tokens
  /// with `parse_special`. No fragment is empty.
  /// Cost: the text's bytes times the lengths that names have, plus the text once for each special
  ///       token that occurs.
  [[nodiscard]] std::vector<Fragment> Split(std::string_view text, bool parse_special) const;

 private:
  struct Name {
    std::string_view text;
    int32_t id;
    bool user_defined;
  };
  [[nodiscard]] std::vector<bool> Occurring(std::string_view text) const;

  std::vector<Name> names_;                                    // longest first, then by id
  std::vector<size_t> lengths_;                                // of names_, each once
  boost::unordered_flat_map<std::string_view, size_t> index_;  // into names_
  std::array<bool, 256> leads_{};                              // first bytes of names_
};

}  // namespace thermocline
