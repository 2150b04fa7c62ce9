#include "engine/vocabulary.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace thermocline {
namespace {

// Names that end an answer whatever model they come from; the files do not say which of their
// tokens do, beyond one `eos`. The list is llama.cpp's (src/llama-vocab.cpp, special_eog_ids), the
// fill-in-the-middle padding, repository and file marks included.
constexpr std::array<std::string_view, 28> kEndOfGenerationNames = {
    "</s>",
    "<eos>",
    "[EOS]",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<reponame>",
    "<|file_sep|>",
};

// Bounds what a hostile vocabulary can make the search for special tokens cost.
constexpr size_t kMaxSpecialTokenBytes = 512;

absl::Status Invalid(std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer: ", absl::string_view(what.data(), what.size()),
                   "; the model file is damaged or was converted wrongly, take another copy"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Vocabulary>> Vocabulary::Create(TokenizerData data) {
  std::unique_ptr<Vocabulary> vocabulary(new Vocabulary(std::move(data)));
  TC_RETURN_IF_ERROR(vocabulary->Check());
  std::vector<int32_t>& types = vocabulary->data_.types;
  if (types.empty()) types.assign(vocabulary->data_.tokens.size(), TokenizerData::kNormal);
  TC_RETURN_IF_ERROR(vocabulary->IndexTokens());
  vocabulary->MarkEndOfGeneration();
  return std::unique_ptr<const Vocabulary>(std::move(vocabulary));
}

Vocabulary::Vocabulary(TokenizerData data) : data_(std::move(data)) {}

absl::Status Vocabulary::Check() const {
  const size_t count = data_.tokens.size();
  if (count == 0) return Invalid("the vocabulary is empty");
  if (count > std::numeric_limits<int32_t>::max()) return Invalid("too many tokens for 31-bit ids");
  if (!data_.scores.empty() && data_.scores.size() != count) {
    return Invalid(absl::StrCat(count, " tokens, but ", data_.scores.size(), " scores"));
  }
  if (!data_.types.empty() && data_.types.size() != count) {
    return Invalid(absl::StrCat(count, " tokens, but ", data_.types.size(), " token types"));
  }
  const std::pair<const char*, int32_t> special_ids[] = {
      {"bos", data_.bos}, {"eos", data_.eos}, {"unknown", data_.unk}};
  for (const auto& [name, id] : special_ids) {
    if (id == kNone || Has(id)) continue;
    return Invalid(absl::StrCat("the ", name, " id ", id, " is not one of ", count, " tokens"));
  }
  if (data_.add_bos && data_.bos == kNone) {
    return Invalid("a BOS token is to be added, but none is named");
  }
  return absl::OkStatus();
}

absl::Status Vocabulary::IndexTokens() {
  ids_.reserve(data_.tokens.size());
  for (int32_t id = 0; id < size(); ++id) {
    const std::string& token = data_.tokens[Index(id)];
    if (token.empty()) continue;  // has an id, but no text leads to it
    if (IsSpecial(id) && token.size() > kMaxSpecialTokenBytes) {
      return Invalid(absl::StrCat("special token ", id, " has ", token.size(), " bytes, at most ",
                                  kMaxSpecialTokenBytes, " are sensible"));
    }
    const auto [at, fresh] = ids_.emplace(token, id);
    if (!fresh) {
      return Invalid(absl::StrCat("tokens ", at->second, " and ", id, " are both \"",
                                  absl::CHexEscape(token.substr(0, 64)), "\""));
    }
  }
  return absl::OkStatus();
}

void Vocabulary::MarkEndOfGeneration() {
  for (const std::string_view name : kEndOfGenerationNames) {
    const int32_t id = Find(name);
    if (id == kNone) continue;
    end_ids_.push_back(id);
    data_.types[Index(id)] = TokenizerData::kControl;
  }
  if (data_.eos != kNone) end_ids_.push_back(data_.eos);
  std::sort(end_ids_.begin(), end_ids_.end());
  end_ids_.erase(std::unique(end_ids_.begin(), end_ids_.end()), end_ids_.end());
}

int32_t Vocabulary::Find(std::string_view text) const {
  const auto found = ids_.find(text);
  return found == ids_.end() ? kNone : found->second;
}

TokenizerData::Type Vocabulary::type(int32_t id) const {
  const int32_t type = data_.types[Index(id)];
  const bool known = type > TokenizerData::kUndefined && type <= TokenizerData::kByte;
  return known ? static_cast<TokenizerData::Type>(type) : TokenizerData::kUndefined;
}

float Vocabulary::score(int32_t id) const {
  return data_.scores.empty() ? 0.0f : data_.scores[Index(id)];
}

bool Vocabulary::IsSpecial(int32_t id) const {
  const TokenizerData::Type kind = type(id);
  return kind == TokenizerData::kControl || kind == TokenizerData::kUnknown ||
         kind == TokenizerData::kUserDefined;
}

bool Vocabulary::IsPlain(int32_t id) const {
  const TokenizerData::Type kind = type(id);
  return kind != TokenizerData::kControl && kind != TokenizerData::kUnknown &&
         kind != TokenizerData::kByte;
}

}  // namespace thermocline
