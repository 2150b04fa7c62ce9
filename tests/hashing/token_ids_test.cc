// What a list of token ids may look like, and that everything else is an error that says where.
#include "hashing/token_ids.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace thermocline {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(TokenIdsTest, ListsAreReadAsTheyAreWritten) {
  const auto parsed = [](std::string_view text) {
    const auto ids = ParseTokenIds(text, "--tokens");
    EXPECT_TRUE(ids.ok()) << ids.status();
    return ids.value_or(std::vector<int32_t>{-1});
  };
  EXPECT_THAT(parsed("1,2,3"), ElementsAre(1, 2, 3));
  EXPECT_THAT(parsed("0"), ElementsAre(0));
  EXPECT_THAT(parsed("010,2147483647"), ElementsAre(10, 2147483647)) << "decimal, never octal";
  EXPECT_THAT(parsed("1, 2 ,3 4\n5\r\n"), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(parsed(" \t7"), ElementsAre(7));
  EXPECT_THAT(parsed(""), IsEmpty());
  EXPECT_THAT(parsed(" \n"), IsEmpty());
}

TEST(TokenIdsTest, NothingIsGuessed) {
  const struct {
    const char* text;
    const char* says;
  } kWrong[] = {
      {"1,,2", "id 2 of --tokens is ''"},
      {"1,2,", "id 3 of --tokens is ''"},
      {",1", "id 1 of --tokens is ''"},
      {",", "id 1 of --tokens is ''"},
      {"1, ,2", "id 2 of --tokens is ''"},
      {"1,-3", "id 2 of --tokens is '-3'"},
      {"+5", "'+5'"},
      {"2147483648", "'2147483648'"},
      {"99999999999999999999", "'9999"},
      {"0x5", "'0x5'"},
      {"1.5", "'1.5'"},
      {"1e3", "'1e3'"},
      {"1;2", "'1;2'"},
      {"1,x", "id 2 of --tokens is 'x'"},
      {"[1,2]", "'[1'"},
  };
  for (const auto& [text, says] : kWrong) {
    const auto ids = ParseTokenIds(text, "--tokens");
    ASSERT_FALSE(ids.ok()) << text;
    EXPECT_TRUE(absl::IsInvalidArgument(ids.status()));
    const std::string message(ids.status().message());
    EXPECT_THAT(message, HasSubstr(std::string(says))) << text;
    EXPECT_THAT(message, HasSubstr("like 1,2,3")) << text;
  }
  const std::string message(ParseTokenIds(std::string(5000, 'x'), "f").status().message());
  EXPECT_LT(message.size(), 200u) << "a message stays readable";
}

}  // namespace
}  // namespace thermocline
