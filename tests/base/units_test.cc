#include "base/units.h"

#include <gtest/gtest.h>

namespace thermocline {
namespace {

TEST(UnitsTest, BytesAreReadInBinaryAndDecimalUnits) {
  EXPECT_EQ(*ParseBytes("4096"), 4096u);
  EXPECT_EQ(*ParseBytes("64MiB"), 64 * MiB);
  EXPECT_EQ(*ParseBytes("1.5 GiB"), 3 * GiB / 2);
  EXPECT_EQ(*ParseBytes("2KB"), 2000u);
}

TEST(UnitsTest, WhatIsNotASizeIsRefusedWithAnExample) {
  for (const char* text : {"", "MiB", "-1", "1 parsec", "1e300", "nan", "inf", "1MiBB"}) {
    const auto parsed = ParseBytes(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_NE(std::string(parsed.status().message()).find("512MiB"), std::string::npos);
  }
}

TEST(UnitsTest, BytesAreWrittenShort) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatBytes(64 * MiB), "64 MiB");
}

TEST(UnitsTest, DurationsAreRead) {
  EXPECT_EQ(ParseDuration("250ms")->count(), 250'000);
  EXPECT_EQ(ParseDuration("10")->count(), 10'000'000);
  EXPECT_EQ(ParseDuration("2h")->count(), int64_t{7200} * 1'000'000);
  EXPECT_FALSE(ParseDuration("soon").ok());
}

}  // namespace
}  // namespace thermocline
