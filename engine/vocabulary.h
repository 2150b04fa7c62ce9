// A checked vocabulary: the tokens of a model file, found by text and by id. Everything that the
// tokenizers later index by has been range-checked here once.
#pragma once
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/tokenizer_data.h"

namespace thermocline {

/// Thread: immutable, so any. Owner: everything that it returns borrows from it.
class Vocabulary {
 public:
  static constexpr int32_t kNone = -1;

  /// Takes `data` over. Tokens that end a generation, by their names, become control tokens
  /// whatever the file calls them, as in llama.cpp.
  /// Errors: InvalidArgument on an empty vocabulary, duplicate tokens, arrays of unequal length or
  ///         special ids that are out of range.
  static absl::StatusOr<std::unique_ptr<const Vocabulary>> Create(TokenizerData data);
  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;

  [[nodiscard]] int32_t size() const { return static_cast<int32_t>(data_.tokens.size()); }
  [[nodiscard]] bool Has(int32_t id) const { return id >= 0 && id < size(); }
  /// The id of exactly that text, or kNone.
  [[nodiscard]] int32_t Find(std::string_view text) const;
  /// Requires: Has(id).
  [[nodiscard]] std::string_view text(int32_t id) const { return data_.tokens[Index(id)]; }
  /// Requires: Has(id).
  [[nodiscard]] TokenizerData::Type type(int32_t id) const;
  /// 0 where the file has no scores. Requires: Has(id).
  [[nodiscard]] float score(int32_t id) const;
  /// Whether text is searched for the token by its name, before the subword model sees it.
  /// Requires: Has(id).
  [[nodiscard]] bool IsSpecial(int32_t id) const;
  /// Whether plain text may come out as this token; the others are reached by their names alone.
  /// Requires: Has(id).
  [[nodiscard]] bool IsPlain(int32_t id) const;
  /// Ascending.
  [[nodiscard]] const std::vector<int32_t>& end_of_generation() const { return end_ids_; }
  [[nodiscard]] const TokenizerData& data() const { return data_; }

 private:
  explicit Vocabulary(TokenizerData data);
  absl::Status Check() const;
  absl::Status IndexTokens();
  void MarkEndOfGeneration();
  static size_t Index(int32_t id) { return static_cast<size_t>(id); }

  TokenizerData data_;
  boost::unordered_flat_map<std::string_view, int32_t> ids_;  // views into data_.tokens
  std::vector<int32_t> end_ids_;
};

}  // namespace thermocline
