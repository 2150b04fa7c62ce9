// The words that each pre-tokenizer makes, and the UTF-8 rules under them.
#include "engine/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <string>

#include "engine/utf8.h"

namespace thermocline {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Words(std::string_view name, std::string_view text) {
  const auto made = PreTokenizer::Create(name);
  EXPECT_TRUE(made.ok()) << made.status();
  std::vector<std::string> words;
  const absl::Status status =
      (*made)->Split(text, [&](std::string_view word) { words.emplace_back(word); });
  EXPECT_TRUE(status.ok()) << status;
  return words;
}

TEST(PreTokenizerTest, Gpt2) {
  EXPECT_THAT(Words("gpt-2", "I'll don't, ok?"),
              ElementsAre("I", "'ll", " don", "'t", ",", " ok", "?"));
  EXPECT_THAT(Words("gpt2", "a  b\n\n c 1234"), ElementsAre("a", " ", " b", "\n\n", " c", " 1234"));
  EXPECT_THAT(Words("gpt2", "x \n "), ElementsAre("x", " \n "));
  EXPECT_THAT(Words("gpt2", "\u65e5\u672c, \u00e9\u0301!"),
              ElementsAre("\u65e5\u672c", ",", " \u00e9", "\u0301!"));
}

TEST(PreTokenizerTest, SmollmTakesNumbersOneByOne) {
  EXPECT_THAT(Words("smollm", "in 1984."), ElementsAre("in", " ", "1", "9", "8", "4", "."));
  EXPECT_THAT(Words("smollm", "x\u00b2 \u0663"), ElementsAre("x", "\u00b2", " ", "\u0663"));
}

TEST(PreTokenizerTest, DefaultSplitsPunctuationAndThreeDigits) {
  EXPECT_THAT(Words("default", "a+b, 12345"), ElementsAre("a", "+", "b", ",", " ", "123", "45"));
  EXPECT_THAT(Words("", "a+b"), ElementsAre("a", "+", "b"));
}

TEST(PreTokenizerTest, WhiteSpaceIsUnicodes) {
  EXPECT_THAT(Words("gpt2", "a\u3000\u3000b"), ElementsAre("a", "\u3000", "\u3000", "b"));
  EXPECT_THAT(Words("gpt2", "a\u0085b\u00a0c"), ElementsAre("a", "\u0085", "b", "\u00a0", "c"));
  // U+180E has not been white space since Unicode 6.3, zero-width spaces never were.
  EXPECT_THAT(Words("gpt2", "!\u180e\u200b!"), ElementsAre("!\u180e\u200b!"));
}

TEST(PreTokenizerTest, UnknownNameIsRefusedWithTheKnownOnes) {
  const absl::Status status = PreTokenizer::Create("llama-bpe").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("\"llama-bpe\""));
  EXPECT_THAT(status.message(), ::testing::HasSubstr("smollm, gpt-2, gpt2, default"));
}

TEST(PreTokenizerTest, WordsTogetherAreTheText) {
  const char* given = std::getenv("TC_SEED");
  const uint64_t seed = given ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  std::printf("TC_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  for (const char* name : {"smollm", "gpt2", "default"}) {
    for (int round = 0; round < 500; ++round) {
      std::string bytes(random() % 200, 0);
      for (char& c : bytes) c = static_cast<char>(random());
      const std::string text = RepairUtf8(bytes);
      std::string joined;
      for (const std::string& word : Words(name, text)) {
        ASSERT_FALSE(word.empty());
        joined += word;
      }
      ASSERT_EQ(joined, text);
    }
  }
}

TEST(Utf8Test, IncompleteSuffixes) {
  EXPECT_EQ(IncompleteUtf8Suffix(""), 0u);
  EXPECT_EQ(IncompleteUtf8Suffix("a"), 0u);
  EXPECT_EQ(IncompleteUtf8Suffix("\u00e9"), 0u);
  EXPECT_EQ(IncompleteUtf8Suffix("a\xc3"), 1u);
  EXPECT_EQ(IncompleteUtf8Suffix("a\xe6\x97"), 2u);
  EXPECT_EQ(IncompleteUtf8Suffix("a\xf0\x9f\x91"), 3u);
  EXPECT_EQ(IncompleteUtf8Suffix("\U0001f44d"), 0u);
  EXPECT_EQ(IncompleteUtf8Suffix("\x80\x80\x80\x80"), 0u);
  EXPECT_EQ(IncompleteUtf8Suffix("\xff"), 0u);
}

TEST(Utf8Test, EveryCodePointIsWrittenAndReadBack) {
  for (char32_t code_point = 0; code_point <= 0x10ffff; ++code_point) {
    if (code_point >= 0xd800 && code_point < 0xe000) continue;
    std::string text;
    AppendUtf8(code_point, text);
    ASSERT_EQ(Utf8Length(text[0]), text.size());
    std::string_view rest = text;
    ASSERT_EQ(TakeCodePoint(rest), code_point);
    ASSERT_TRUE(rest.empty());
  }
}

}  // namespace
}  // namespace thermocline
