// What SPM and BPE have in common for the Tokenizer above them: plain text to ids, and an id's
// text. Special tokens, BOS and streaming are the Tokenizer's business.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace thermocline {

/// Thread: immutable, so any.
class SubwordModel {
 public:
  virtual ~SubwordModel() = default;

  /// Appends the ids of `text`, which no special token interrupts; `opens` where it stands at the
  /// start or behind a special token.
  /// Errors: Internal, ResourceExhausted from the regex engine; nothing is lost but `ids`.
  virtual absl::Status Encode(std::string_view text, bool opens,
                              std::vector<int32_t>& ids) const = 0;

  /// Appends the bytes that the plain or byte token `id` stands for. Requires: `id` is in range.
  virtual void AppendText(int32_t id, std::string& out) const = 0;

  /// Whether Encode puts a space before text that `opens`, for the decoder to take away again.
  [[nodiscard]] virtual bool adds_space_prefix() const = 0;
};

}  // namespace thermocline
