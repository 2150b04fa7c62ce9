#include "engine/tokenizer_bpe.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include <limits>
#include <queue>

#include "engine/utf8.h"

namespace thermocline {
namespace {

/// GPT-2's names for bytes: printable Latin-1 characters stand for themselves, the others, in
/// order, for U+0100 and up.
struct ByteNames {
  ByteNames() {
    char32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
      const char32_t name = printable ? byte : next++;
      names[byte] = name;
      bytes[name] = static_cast<int16_t>(byte);
    }
  }
  static constexpr size_t kNames = 0x144;  // 68 bytes are not printable
  std::array<char32_t, 256> names{};
  std::array<int16_t, kNames> bytes = Unnamed();  // -1: stands for no byte

 private:
  static std::array<int16_t, kNames> Unnamed() {
    std::array<int16_t, kNames> none;
    none.fill(-1);
    return none;
  }
};

const ByteNames& Names() {
  static const ByteNames names;
  return names;
}

}  // namespace

/// Joins the bytes of one word; made once for many words so that its buffers are.
class BpeModel::Joiner {
 public:
  explicit Joiner(const BpeModel& model) : model_(model) {}

  void Run(std::string_view word, std::vector<int32_t>& ids) {
    symbols_.clear();
    for (const char byte : word) {
      const int32_t id = model_.byte_ids_[static_cast<uint8_t>(byte)];
      const auto index = static_cast<int32_t>(symbols_.size());
      symbols_.push_back({id, index - 1, index + 1});
    }
    if (symbols_.empty()) return;
    symbols_.back().next = kEnd;
    for (size_t i = 1; i < symbols_.size(); ++i) {
      Offer(static_cast<int32_t>(i) - 1, static_cast<int32_t>(i));
    }
    while (!pairs_.empty()) JoinBest();
    for (int32_t i = 0; i != kEnd; i = at(i).next) {
      if (at(i).id != Vocabulary::kNone) ids.push_back(at(i).id);
    }
  }

 private:
  static constexpr int32_t kEnd = -1;
  static constexpr int32_t kJoined = -2;  // the id of a symbol that went into the one before
  struct Symbol {
    int32_t id;
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    int32_t rank;
    int32_t left;
    int32_t right;
    int32_t left_id;  // when offered; another id now means that the symbol has changed since
    int32_t right_id;
    int32_t id;
    bool operator<(const Candidate& other) const {  // the heap's top: least rank, then leftmost
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };

  Symbol& at(int32_t index) { return symbols_[static_cast<size_t>(index)]; }

  void Offer(int32_t left, int32_t right) {
    if (left == kEnd || right == kEnd) return;
    const Merge* merge = model_.Find(at(left).id, at(right).id);
    if (merge == nullptr) return;
    pairs_.push({merge->rank, left, right, at(left).id, at(right).id, merge->id});
  }

  void JoinBest() {
    const Candidate best = pairs_.top();
    pairs_.pop();
    Symbol& left = at(best.left);
    Symbol& right = at(best.right);
    if (left.id != best.left_id || right.id != best.right_id) return;
    left.id = best.id;
    right.id = kJoined;
    left.next = right.next;
    if (left.next != kEnd) at(left.next).previous = best.left;
    Offer(left.previous, best.left);
    Offer(best.left, left.next);
  }

  const BpeModel& model_;
  std::vector<Symbol> symbols_;
  std::priority_queue<Candidate> pairs_;  // empty between words
};

absl::StatusOr<std::unique_ptr<SubwordModel>> BpeModel::Create(const Vocabulary& vocabulary) {
  const TokenizerData& data = vocabulary.data();
  std::unique_ptr<BpeModel> model(new BpeModel(vocabulary));
  TC_ASSIGN_OR_RETURN(model->pre_tokenizer_, PreTokenizer::Create(data.pre));
  for (size_t byte = 0; byte < model->byte_ids_.size(); ++byte) {
    std::string name;
    AppendUtf8(Names().names[byte], name);
    model->byte_ids_[byte] = vocabulary.Find(name);
  }
  if (data.merges.empty()) {
    return absl::InvalidArgumentError(
        "tokenizer: tokenizer.ggml.model is \"gpt2\" (BPE), which needs tokenizer.ggml.merges, and "
        "the file has none; convert the model again");
  }
  if (data.merges.size() > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError("tokenizer: too many merges for 31-bit ranks");
  }
  model->merges_.reserve(data.merges.size());
  for (size_t rank = 0; rank < data.merges.size(); ++rank) {
    TC_RETURN_IF_ERROR(model->AddMerge(static_cast<int32_t>(rank), data.merges[rank]));
  }
  return std::unique_ptr<SubwordModel>(std::move(model));
}

absl::Status BpeModel::AddMerge(int32_t rank, std::string_view line) {
  const auto bad = [&](const char* why) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tokenizer: merge ", rank, " \"", absl::CHexEscape(std::string(line.substr(0, 64))), "\" ",
        why, "; the model file is damaged or was converted wrongly, take another copy"));
  };
  const size_t space = line.find(' ', 1);
  if (space == std::string_view::npos) return bad("is not two tokens");
  const std::string_view left = line.substr(0, space);
  const std::string_view right = line.substr(space + 1);
  std::string both(left);
  both.append(right);
  const int32_t left_id = vocabulary_.Find(left);
  const int32_t right_id = vocabulary_.Find(right);
  const int32_t id = vocabulary_.Find(both);
  if (left_id == Vocabulary::kNone || right_id == Vocabulary::kNone || id == Vocabulary::kNone) {
    return bad("has a part or a result that is not a token");
  }
  // Plain text must not spell a control token; the first of equal merges counts.
  if (vocabulary_.IsPlain(id)) merges_.emplace(Pair(left_id, right_id), Merge{rank, id});
  return absl::OkStatus();
}

const BpeModel::Merge* BpeModel::Find(int32_t left, int32_t right) const {
  const auto found = merges_.find(Pair(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

absl::Status BpeModel::Encode(std::string_view text, bool /*opens*/,
                              std::vector<int32_t>& ids) const {
  const std::string valid = RepairUtf8(text);
  Joiner joiner(*this);
  return pre_tokenizer_->Split(valid, [&](std::string_view word) { joiner.Run(word, ids); });
}

void BpeModel::AppendText(int32_t id, std::string& out) const {
  std::string_view token = vocabulary_.text(id);
  while (!token.empty()) {
    const std::string_view before = token;
    const char32_t name = TakeCodePoint(token);
    const int16_t byte = name < ByteNames::kNames ? Names().bytes[name] : int16_t{-1};
    if (byte >= 0) {
      out.push_back(static_cast<char>(byte));
    } else {
      out.append(before.substr(0, before.size() - token.size()));
    }
  }
}

}  // namespace thermocline
