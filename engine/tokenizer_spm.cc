#include "engine/tokenizer_spm.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include <cmath>
#include <queue>

#include "engine/utf8.h"

namespace thermocline {
namespace {

constexpr std::string_view kSpaceMark = "\u2581";

std::string MarkSpaces(std::string_view text, bool prefix) {
  std::string marked;
  marked.reserve(text.size() + kSpaceMark.size());
  if (prefix) marked.append(kSpaceMark);
  for (const char byte : text) {
    if (byte == ' ') {
      marked.append(kSpaceMark);
    } else {
      marked.push_back(byte);
    }
  }
  return marked;
}

/// "<0xHH>" to its byte, or -1.
int ByteOf(std::string_view token) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  const int high = digit(token[3]);
  const int low = digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/// The text as a list of symbols, joined pair by pair.
class Joiner {
 public:
  Joiner(const Vocabulary& vocabulary, std::string_view text) : vocabulary_(vocabulary) {
    for (size_t at = 0; at < text.size();) {
      const size_t length = std::min(Utf8Length(text[at]), text.size() - at);
      const auto index = static_cast<int32_t>(symbols_.size());
      symbols_.push_back({text.substr(at, length), index - 1, index + 1});
      at += length;
    }
    if (!symbols_.empty()) symbols_.back().next = kEnd;
  }

  void Run() {
    for (size_t i = 1; i < symbols_.size(); ++i) {
      Offer(static_cast<int32_t>(i) - 1, static_cast<int32_t>(i));
    }
    while (!pairs_.empty()) {
      const Pair pair = pairs_.top();
      pairs_.pop();
      Symbol& left = at(pair.left);
      Symbol& right = at(pair.right);
      const bool stale = left.text.empty() || right.text.empty() ||
                         left.text.size() + right.text.size() != pair.bytes;
      if (stale) continue;
      left.text = Union(left, right);
      right.text = {};
      left.next = right.next;
      if (left.next != kEnd) at(left.next).previous = pair.left;
      Offer(left.previous, pair.left);
      Offer(pair.left, left.next);
    }
  }

  /// Calls `take(text)` for each symbol that is left, in order.
  template <typename Take>
  void ForEach(Take take) const {
    for (int32_t i = symbols_.empty() ? kEnd : 0; i != kEnd;) {
      const Symbol& symbol = symbols_[static_cast<size_t>(i)];
      take(symbol.text);
      i = symbol.next;
    }
  }

 private:
  static constexpr int32_t kEnd = -1;
  struct Symbol {
    std::string_view text;  // empty: joined to the one before
    int32_t previous;
    int32_t next;
  };
  struct Pair {
    float score;
    int32_t left;
    int32_t right;
    size_t bytes;  // of both when offered; another sum means that one has changed since
    bool operator<(const Pair& other) const {  // the heap's top: best score, then leftmost
      return score != other.score ? score < other.score : left > other.left;
    }
  };

  Symbol& at(int32_t index) { return symbols_[static_cast<size_t>(index)]; }

  static std::string_view Union(const Symbol& left, const Symbol& right) {
    return {left.text.data(), left.text.size() + right.text.size()};
  }

  void Offer(int32_t left, int32_t right) {
    if (left == kEnd || right == kEnd) return;
    const std::string_view text = Union(at(left), at(right));
    const int32_t id = vocabulary_.Find(text);
    if (id == Vocabulary::kNone || !vocabulary_.IsPlain(id)) return;
    pairs_.push({vocabulary_.score(id), left, right, text.size()});
  }

  const Vocabulary& vocabulary_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Pair> pairs_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SubwordModel>> SpmModel::Create(const Vocabulary& vocabulary) {
  const TokenizerData& data = vocabulary.data();
  if (data.scores.empty()) {
    return absl::InvalidArgumentError(
        "tokenizer: tokenizer.ggml.model is \"llama\" (SPM), which needs tokenizer.ggml.scores, "
        "and the file has none; convert the model again");
  }
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (!std::isnan(vocabulary.score(id))) continue;
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: the score of token ", id,
                                                   " is not a number; the model file is damaged"));
  }
  std::unique_ptr<SpmModel> model(new SpmModel(vocabulary));
  for (size_t byte = 0; byte < model->byte_ids_.size(); ++byte) {
    const std::string name = absl::StrFormat("<0x%02X>", byte);
    int32_t id = vocabulary.Find(name);
    if (id == Vocabulary::kNone) id = data.unk;
    if (id == Vocabulary::kNone) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer: the SPM vocabulary has neither ", name,
                       " nor an unknown token to stand for that byte; convert the model again"));
    }
    model->byte_ids_[byte] = id;
  }
  return std::unique_ptr<SubwordModel>(std::move(model));
}

absl::Status SpmModel::Encode(std::string_view text, bool opens, std::vector<int32_t>& ids) const {
  const std::string marked = MarkSpaces(text, opens && adds_space_prefix());
  Joiner joiner(vocabulary_, marked);
  joiner.Run();
  joiner.ForEach([&](std::string_view symbol) {
    const int32_t id = vocabulary_.Find(symbol);
    if (id != Vocabulary::kNone && vocabulary_.IsPlain(id)) {
      ids.push_back(id);
      return;
    }
    for (const char byte : symbol) ids.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
  });
  return absl::OkStatus();
}

void SpmModel::AppendText(int32_t id, std::string& out) const {
  std::string_view token = vocabulary_.text(id);
  if (vocabulary_.type(id) == TokenizerData::kByte) {
    if (const int byte = ByteOf(token); byte >= 0) {
      out.push_back(static_cast<char>(byte));
      return;
    }
  }
  while (!token.empty()) {
    const size_t mark = token.find(kSpaceMark);
    out.append(token.substr(0, mark));
    if (mark == std::string_view::npos) return;
    out.push_back(' ');
    token.remove_prefix(mark + kSpaceMark.size());
  }
}

}  // namespace thermocline
