#include "base/log.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "base/file_util.h"

namespace thermocline {
namespace {

TEST(LogTest, TextIsOneReadableLine) {
  const std::string line =
      FormatEvent(false, "2026-01-31T12:00:00.123Z", LogLevel::kInfo, "space_opened",
                  {{"space", 3},
                   {"model", "smollm2 Q4_1"},
                   {"kind", "tokens"},
                   {"empty", ""},
                   {"ok", true},
                   {"share", .25},
                   {"bytes", uint64_t{1} << 63},
                   {"note", "a\nb=\"c\""}});
  EXPECT_EQ(line,
            "2026-01-31T12:00:00.123Z INFO space_opened space=3 model=\"smollm2 Q4_1\" kind=tokens "
            "empty=\"\" ok=true share=0.25 bytes=9223372036854775808 note=\"a\\nb=\\\"c\\\"\"");
}

TEST(LogTest, JsonHoldsWhateverIsLogged) {
  std::string nasty = "quote\" back\\slash\ttab\nline\x01 \x7f gr\xc3\xbc\xc3\x9f";
  const std::string broken = "\xff\xc3(\xed\xa0\x80\xf4\x90\x80\x80\xe2\x82";  // not UTF-8
  const std::string line = FormatEvent(true, "T", LogLevel::kError, "e",
                                       {{"nasty", nasty},
                                        {"broken", broken},
                                        {"nan", std::numeric_limits<double>::quiet_NaN()},
                                        {"n", -5}});
  const auto json = nlohmann::json::parse(line);  // throws on anything malformed
  EXPECT_EQ(json["level"], "error");
  EXPECT_EQ(json["nasty"], nasty);
  EXPECT_EQ(json["n"], -5);
  EXPECT_TRUE(json["nan"].is_null());
  EXPECT_EQ(line.find('\n'), std::string::npos);
}

TEST(LogTest, EventsGoToTheFileByLevelAndWhole) {
  const std::string path =
      ::testing::TempDir() + "/thermocline_log_test." + std::to_string(::getpid()) + ".log";
  ASSERT_TRUE(SetUpLog({.level = LogLevel::kWarning, .json = true, .file = path}).ok());
  LogEvent(LogLevel::kInfo, "quiet");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 250; ++i) LogEvent(LogLevel::kWarning, "loud", {{"t", t}, {"i", i}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(SetUpLog({}).ok());
  const auto content = ReadFile(path, 1 << 20);
  ASSERT_TRUE(content.ok()) << content.status();
  ::unlink(path.c_str());
  size_t lines = 0;
  size_t begin = 0;
  for (size_t end; (end = content->find('\n', begin)) != std::string::npos; begin = end + 1) {
    const auto json = nlohmann::json::parse(content->substr(begin, end - begin));
    EXPECT_EQ(json["event"], "loud");
    ++lines;
  }
  EXPECT_EQ(lines, 1000u);
}

TEST(LogTest, AFileThatCannotBeOpenedIsAnError) {
  const absl::Status status = SetUpLog({.file = "/proc/no/such/dir/log"});
  ASSERT_FALSE(status.ok());
  EXPECT_NE(std::string(status.message()).find("/proc/no/such/dir/log"), std::string::npos);
}

}  // namespace
}  // namespace thermocline
