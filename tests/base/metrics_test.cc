#include "base/metrics.h"

#include <gtest/gtest.h>

#include <cctype>
#include <set>
#include <string>

#include "base/metric_table.h"

namespace thermocline {
namespace {

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

bool IsName(std::string_view name) {
  for (const char c : name) {
    if (!(std::islower(static_cast<unsigned char>(c)) ||
          std::isdigit(static_cast<unsigned char>(c)) || c == '_'))
      return false;
  }
  return !name.empty();
}

TEST(MetricTableTest, NamesFollowPrometheusConventions) {
  std::set<std::string_view> names;
  for (const MetricDef* def : kMetricTable) {
    const std::string name(def->name);
    EXPECT_TRUE(names.insert(def->name).second) << name;
    EXPECT_TRUE(IsName(name)) << name;
    EXPECT_EQ(name.rfind("thermocline_", 0), 0u) << name;
    EXPECT_EQ(name.size() >= 6 && name.substr(name.size() - 6) == "_total",
              def->type == MetricType::kCounter)
        << name;
    EXPECT_EQ(def->buckets.empty(), def->type != MetricType::kHistogram) << name;
    for (size_t i = 1; i < def->buckets.size(); ++i) {
      EXPECT_LT(def->buckets[i - 1], def->buckets[i]) << name;
    }
    EXPECT_FALSE(def->help.empty()) << name;
    EXPECT_FALSE(def->unit.empty()) << name;
    if (def->unit == "bytes" || def->unit == "seconds") {
      EXPECT_TRUE(Contains(name, "_" + std::string(def->unit))) << name;
    }
    for (const std::string_view label : {def->labels.first, def->labels.second}) {
      EXPECT_TRUE(label.empty() || IsName(label)) << name;
      EXPECT_FALSE(Contains(std::string(label), "tenant")) << name;
    }
  }
}

TEST(MetricRegistryTest, WhatIsCountedIsExposed) {
  MetricRegistry registry(kMetricTable);
  registry.Get(kBuildInfo, {"1.2.3"}).Set(1);
  Counter hits = registry.Get(kHitBlocks, {"warm"});
  hits.Increment();
  registry.Get(kHitBlocks, {"warm"}).Increment(2);  // the same series
  registry.Get(kHitBlocks, {"cold"}).Increment(5);
  Gauge sessions = registry.Get(kSessions);
  sessions.Set(3);
  sessions.Add(-1);
  Histogram latency = registry.Get(kOperationSeconds, {"match"});
  latency.Observe(30e-6);
  latency.Observe(100);
  const std::string text = registry.Expose();
  for (const char* line :
       {"# TYPE thermocline_hit_blocks_total counter\n",
        "thermocline_hit_blocks_total{tier=\"warm\"} 3\n",
        "thermocline_hit_blocks_total{tier=\"cold\"} 5\n", "thermocline_sessions 2\n",
        "thermocline_build_info{version=\"1.2.3\"} 1\n",
        "thermocline_operation_seconds_bucket{operation=\"match\",le=\"5e-05\"} 1\n",
        "thermocline_operation_seconds_bucket{operation=\"match\",le=\"+Inf\"} 2\n"}) {
    EXPECT_TRUE(Contains(text, line)) << line << text;
  }
}

TEST(MetricRegistryTest, TotalsKeptElsewhereAreFollowedAtTheScrape) {
  MetricRegistry registry(kMetricTable);
  Counter lookups = registry.Get(kLookups);
  double total = 0;
  registry.OnScrape([&] { lookups.AdvanceTo(total); });
  total = 7;
  EXPECT_TRUE(Contains(registry.Expose(), "thermocline_lookups_total 7\n"));
  total = 4;  // a counter never falls
  EXPECT_TRUE(Contains(registry.Expose(), "thermocline_lookups_total 7\n"));
}

TEST(MetricRegistryTest, ADefaultHandleCountsNothing) {
  Counter().Increment();
  Gauge().Set(1);
  Histogram().Observe(1);
}

TEST(MetricRegistryDeathTest, AMetricOutsideTheTableIsAProgrammersError) {
  static constexpr CounterDef kOther{"thermocline_other_total", "things", {}, "Not in the table."};
  MetricRegistry registry(kMetricTable);
  EXPECT_DEATH(registry.Get(kOther), "check failed");
  EXPECT_DEATH(registry.Get(kHitBlocks), "label_values|values.size");
}

TEST(MetricTableTest, EveryMetricIsInTheDocument) {
  const std::string text = MetricTableMarkdown(kMetricTable);
  for (const MetricDef* def : kMetricTable) {
    EXPECT_TRUE(Contains(text, "| `" + std::string(def->name) + "` |")) << def->name;
  }
}

}  // namespace
}  // namespace thermocline
