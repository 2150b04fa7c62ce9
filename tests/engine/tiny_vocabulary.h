// Two small vocabularies, complete enough to spell any text: one SPM, one byte-level BPE, with
// control and user-defined tokens. For tests and the fuzzer; the merges are learned nowhere, they
// are just enough to make long chains, ties and dead ends.
#pragma once
#include <absl/strings/str_format.h>

#include <string>
#include <utility>
#include <vector>

#include "engine/tokenizer_data.h"
#include "engine/utf8.h"

namespace thermocline {

inline void AddToken(TokenizerData& data, std::string text, TokenizerData::Type type,
                     float score = 0) {
  data.tokens.push_back(std::move(text));
  data.types.push_back(type);
  data.scores.push_back(score);
}

/// Ids: 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes, 259 "<tab>" (user-defined), then plain tokens.
inline TokenizerData TinySpm() {
  TokenizerData data;
  data.model = "llama";
  AddToken(data, "<unk>", TokenizerData::kUnknown);
  AddToken(data, "<s>", TokenizerData::kControl);
  AddToken(data, "</s>", TokenizerData::kControl);
  for (int byte = 0; byte < 256; ++byte) {
    AddToken(data, absl::StrFormat("<0x%02X>", byte), TokenizerData::kByte);
  }
  AddToken(data, "<tab>", TokenizerData::kUserDefined);
  // The best pair of "abcd" is not its first, "aa" makes ties, "\u2581\u2581" chains of spaces.
  const std::pair<const char*, float> pieces[] = {
      {"bc", -1},           {"abc", -2},        {"ab", -3},      {"cd", -4},
      {"abcd", -5},         {"aa", -6},         {"aaaa", -7},    {"th", -8},
      {"the", -9},          {"\u2581the", -10}, {"\u2581", -20}, {"\u2581\u2581", -11},
      {"a", -20},           {"b", -20},         {"c", -20},      {"d", -20},
      {"e", -20},           {"h", -20},         {"t", -20},      {"\u00e9", -20},
      {"\u00e9\u00e9", -12}};
  for (const auto& [text, score] : pieces) AddToken(data, text, TokenizerData::kNormal, score);
  data.bos = 1;
  data.eos = 2;
  data.unk = 0;
  data.add_bos = true;
  data.add_space_prefix = true;
  return data;
}

/// Ids: 0 <|endoftext|>, 1 <|im_start|>, 2 <|im_end|> (control), 3 "<tab>" (user-defined), 4 to 259
/// the bytes, then the results of the merges.
inline TokenizerData TinyBpe(const char* pre = "smollm") {
  TokenizerData data;
  data.model = "gpt2";
  data.pre = pre;
  AddToken(data, "<|endoftext|>", TokenizerData::kControl);
  AddToken(data, "<|im_start|>", TokenizerData::kControl);
  AddToken(data, "<|im_end|>", TokenizerData::kControl);
  AddToken(data, "<tab>", TokenizerData::kUserDefined);
  char32_t unprintable = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
    std::string name;
    AppendUtf8(printable ? static_cast<char32_t>(byte) : unprintable++, name);
    AddToken(data, std::move(name), TokenizerData::kNormal);
  }
  data.merges = {"b c",   "a bc", "a b",  "c d",        "abc d",         "a a",
                 "aa aa", "t h",  "th e", "\u0120 the", "\u0120 \u0120", "\u00c3 \u00a9"};
  for (const std::string& merge : data.merges) {
    const size_t space = merge.find(' ');
    AddToken(data, merge.substr(0, space) + merge.substr(space + 1), TokenizerData::kNormal);
  }
  data.scores.clear();
  data.bos = 1;
  data.eos = 2;
  data.add_space_prefix = false;
  return data;
}

}  // namespace thermocline
