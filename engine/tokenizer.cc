#include "engine/tokenizer.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>

#include "engine/tokenizer_bpe.h"
#include "engine/tokenizer_spm.h"
#include "engine/utf8.h"

namespace thermocline {

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerData data) {
  TC_ASSIGN_OR_RETURN(auto vocabulary, Vocabulary::Create(std::move(data)));
  const std::string& model = vocabulary->data().model;
  std::unique_ptr<SubwordModel> subwords;
  if (model == "llama") {
    TC_ASSIGN_OR_RETURN(subwords, SpmModel::Create(*vocabulary));
  } else if (model == "gpt2") {
    TC_ASSIGN_OR_RETURN(subwords, BpeModel::Create(*vocabulary));
  } else {
    return absl::UnimplementedError(absl::StrCat(
        "tokenizer: model \"", absl::CHexEscape(model.substr(0, 64)),
        "\" (tokenizer.ggml.model) is not supported; supported are llama (SPM) and gpt2 "
        "(byte-level BPE)"));
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(vocabulary), std::move(subwords)));
}

Tokenizer::Tokenizer(std::unique_ptr<const Vocabulary> vocabulary,
                     std::unique_ptr<SubwordModel> subwords)
    : vocabulary_(std::move(vocabulary)), subwords_(std::move(subwords)), special_(*vocabulary_) {}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       bool parse_special) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer: a text of ", text.size(), " bytes; at most ", kMaxTextBytes,
                     " can be encoded at once, and no model's context takes as much"));
  }
  std::vector<int32_t> ids;
  bool opens = true;
  for (const SpecialTokens::Fragment& fragment : special_.Split(text, parse_special)) {
    opens = opens || fragment.id != kNone;
    if (fragment.id != kNone) {
      ids.push_back(fragment.id);
    } else {
      TC_RETURN_IF_ERROR(subwords_->Encode(fragment.text, opens, ids));
      opens = false;
    }
  }
  return ids;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodePrompt(std::string_view text,
                                                             bool parse_special) const {
  TC_ASSIGN_OR_RETURN(auto ids, Encode(text, parse_special));
  if (add_bos()) ids.insert(ids.begin(), bos());
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids) const {
  StreamDecoder decoder(*this, /*text_start=*/true);
  std::string text;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!vocabulary_->Has(ids[i])) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer: id ", ids[i], " at position ", i,
                                                     " is no token; ids go from 0 to ",
                                                     vocab_size() - 1));
    }
    text += decoder.Push(ids[i]);
  }
  return text + decoder.Finish();
}

bool Tokenizer::IsEndOfGeneration(int32_t id) const {
  const std::vector<int32_t>& ends = end_of_generation();
  return std::binary_search(ends.begin(), ends.end(), id);
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool text_start)
    : tokenizer_(tokenizer), opens_(text_start) {}

std::string StreamDecoder::Push(int32_t id) {
  const Vocabulary& vocabulary = *tokenizer_.vocabulary_;
  if (!vocabulary.Has(id)) return {};
  const bool special = vocabulary.IsSpecial(id);
  if (special) {
    held_.append(vocabulary.text(id));
  } else {
    const size_t before = held_.size();
    tokenizer_.subwords_->AppendText(id, held_);
    const bool prefixed = opens_ && tokenizer_.subwords_->adds_space_prefix();
    if (prefixed && held_.size() > before && held_[before] == ' ') held_.erase(before, 1);
  }
  opens_ = special;
  const size_t complete = held_.size() - IncompleteUtf8Suffix(held_);
  std::string text = held_.substr(0, complete);
  held_.erase(0, complete);
  return text;
}

std::string StreamDecoder::Finish() { return std::exchange(held_, {}); }

}  // namespace thermocline
