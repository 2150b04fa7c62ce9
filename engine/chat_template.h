// Chat messages to a prompt, the way the model was trained. The templates in model files are Jinja
// programs; rather than run them, the ones that are known are recognised by their whole text, so
// that a prompt is either exact or refused. Known are ChatML, and ChatML with a default system
// message (SmolLM2), which is read out of the template.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/tokenizer.h"

namespace thermocline {

struct ChatMessage {
  std::string role;  ///< "system", "user" or "assistant"
  std::string content;
};

/// Thread: immutable, so any.
class ChatTemplate {
 public:
  /// From the text of `tokenizer.chat_template`.
  /// Errors: NotFound where it is empty, Unimplemented where it is not known; both say what to use
  ///         instead.
  static absl::StatusOr<ChatTemplate> Create(std::string_view jinja);

  /// The prompt as text, ending where the assistant's answer begins. Where the first message is not
  /// the system's, the template's default system message, if it has one, comes first.
  /// Errors: InvalidArgument without messages or on an unknown role.
  [[nodiscard]] absl::StatusOr<std::string> Format(std::span<const ChatMessage> messages) const;

  /// The prompt as ids, BOS included where the model wants one: those of Format's text, but the
  /// name of a control token inside a message stays text, so that no message can end its own turn.
  /// Errors: those of Format and Tokenizer::Encode.
  [[nodiscard]] absl::StatusOr<std::vector<int32_t>> Encode(
      const Tokenizer& tokenizer, std::span<const ChatMessage> messages) const;

  [[nodiscard]] const std::optional<std::string>& default_system() const { return default_system_; }

 private:
  struct Piece {
    std::string text;
    bool control;  // the template's own, or a message's
  };
  explicit ChatTemplate(std::optional<std::string> default_system)
      : default_system_(std::move(default_system)) {}
  [[nodiscard]] absl::StatusOr<std::vector<Piece>> Pieces(
      std::span<const ChatMessage> messages) const;

  std::optional<std::string> default_system_;
};

}  // namespace thermocline
