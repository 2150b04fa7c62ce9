#include "engine/chat_template.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>

#include <utility>

namespace thermocline {
namespace {

constexpr std::string_view kTurnStart = "<|im_start|>";
constexpr std::string_view kTurnEnd = "<|im_end|>";

// The Jinja text of ChatML, in parts: a loop over the messages that may open with a default.
constexpr std::string_view kLoop = "{% for message in messages %}";
constexpr std::string_view kDefaultBefore =
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n";
constexpr std::string_view kDefaultAfter = "<|im_end|>\n' }}{% endif %}";
constexpr std::string_view kTurns =
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

bool Consume(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

bool IsRole(std::string_view role) {
  return role == "system" || role == "user" || role == "assistant";
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Create(std::string_view jinja) {
  if (jinja.empty()) {
    return absl::NotFoundError(
        "the model file has no chat template (tokenizer.chat_template): the model was not trained "
        "to chat; give it plain text with --prompt");
  }
  // Files differ in whether a line break inside a Jinja string is one, or a backslash and an n.
  const std::string text =
      absl::StrReplaceAll(absl::string_view(jinja.data(), jinja.size()), {{"\\n", "\n"}});
  std::string_view rest = text;
  std::optional<std::string> default_system;
  if (Consume(rest, kLoop)) {
    if (Consume(rest, kDefaultBefore)) {
      const size_t end = rest.find(kDefaultAfter);
      if (end != std::string_view::npos && rest.find('\'') > end) {
        default_system = std::string(rest.substr(0, end));
        rest.remove_prefix(end + kDefaultAfter.size());
      }
    }
    if (rest == kTurns) return ChatTemplate(std::move(default_system));
  }
  constexpr size_t kShown = 100;
  return absl::UnimplementedError(absl::StrCat(
      "the model's chat template is not known, only ChatML and SmolLM2's form of it are (it begins "
      "\"",
      absl::CHexEscape(text.substr(0, kShown)),
      "\"); format the prompt yourself and give it with --prompt"));
}

absl::StatusOr<std::vector<ChatTemplate::Piece>> ChatTemplate::Pieces(
    std::span<const ChatMessage> messages) const {
  if (messages.empty()) return absl::InvalidArgumentError("chat: there is no message");
  std::vector<Piece> pieces;
  const auto add_turn = [&](std::string_view role, std::string_view content) {
    pieces.push_back({std::string(kTurnStart), true});
    pieces.push_back({std::string(role).append("\n").append(content), false});
    pieces.push_back({std::string(kTurnEnd), true});
    pieces.push_back({"\n", false});
  };
  if (default_system_ && messages.front().role != "system") add_turn("system", *default_system_);
  for (const ChatMessage& message : messages) {
    if (!IsRole(message.role)) {
      return absl::InvalidArgumentError(
          absl::StrCat("chat: role \"", absl::CHexEscape(message.role.substr(0, 64)),
                       "\" is not known; roles are system, user and assistant"));
    }
    add_turn(message.role, message.content);
  }
  pieces.push_back({std::string(kTurnStart), true});
  pieces.push_back({"assistant\n", false});
  return pieces;
}

absl::StatusOr<std::string> ChatTemplate::Format(std::span<const ChatMessage> messages) const {
  TC_ASSIGN_OR_RETURN(const auto pieces, Pieces(messages));
  std::string text;
  for (const Piece& piece : pieces) text += piece.text;
  return text;
}

absl::StatusOr<std::vector<int32_t>> ChatTemplate::Encode(
    const Tokenizer& tokenizer, std::span<const ChatMessage> messages) const {
  TC_ASSIGN_OR_RETURN(const auto pieces, Pieces(messages));
  std::vector<int32_t> ids;
  if (tokenizer.add_bos()) ids.push_back(tokenizer.bos());
  for (const Piece& piece : pieces) {
    TC_ASSIGN_OR_RETURN(const auto part, tokenizer.Encode(piece.text, piece.control));
    ids.insert(ids.end(), part.begin(), part.end());
  }
  return ids;
}

}  // namespace thermocline
