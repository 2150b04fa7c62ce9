// The regular expressions that cut text into words before byte-level BPE joins bytes within each.
// A pre-tokenizer is a row of expressions: each cuts the pieces that the ones before it left, and
// what it matches and what lies between its matches both go on as pieces. The expressions are ours
// (only their name comes from the model file) and are built so that matching is linear; PCRE2's
// limits stand behind that, so that a mistake ends in an error and never in a hang.
#pragma once
#include <absl/functional/function_ref.h>

#include <memory>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace thermocline {

/// Thread: immutable once created, so any.
class PreTokenizer {
 public:
  /// By the name that a GGUF file gives as `tokenizer.ggml.pre`; empty means "default".
  /// Errors: Unimplemented for an unknown name, with the names that are known.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Create(std::string_view name);
  ~PreTokenizer();

  /// Hands the words of `text` to `take`, in order; together they are the text.
  /// Requires: `text` is valid UTF-8. Errors: Internal, ResourceExhausted from the regex engine.
  absl::Status Split(std::string_view text, absl::FunctionRef<void(std::string_view)> take) const;

 private:
  class Expression;
  class Scratch;
  PreTokenizer() = default;
  absl::Status SplitFrom(size_t first, std::string_view piece, Scratch& scratch,
                         absl::FunctionRef<void(std::string_view)> take) const;

  std::vector<std::unique_ptr<Expression>> expressions_;
};

}  // namespace thermocline
