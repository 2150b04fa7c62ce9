// Metrics: declared once, in a table (base/metric_table.h is the daemon's), and everything else
// follows from it: the exposition, docs/metrics.md, the checks of dashboards and alerts. A program
// asks a registry for typed handles; one for a metric that is not in the table does not exist.
// prometheus-cpp inside.
#pragma once
#include <absl/functional/any_invocable.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
}  // namespace prometheus

namespace thermocline {

enum class MetricType : uint8_t { kCounter, kGauge, kHistogram };

/// At most two labels; an empty name is none.
struct LabelNames {
  std::string_view first;
  std::string_view second;
};

struct MetricDef {
  MetricType type;
  std::string_view name;  // thermocline_*; base units; counters end in _total
  std::string_view unit;  // "blocks", "bytes", "seconds", ...
  LabelNames labels;
  std::string_view help;
  std::span<const double> buckets;  // upper bounds, ascending; of histograms only
};

struct CounterDef : MetricDef {
  constexpr CounterDef(std::string_view name, std::string_view unit, LabelNames labels,
                       std::string_view help)
      : MetricDef{MetricType::kCounter, name, unit, labels, help, {}} {}
};
struct GaugeDef : MetricDef {
  constexpr GaugeDef(std::string_view name, std::string_view unit, LabelNames labels,
                     std::string_view help)
      : MetricDef{MetricType::kGauge, name, unit, labels, help, {}} {}
};
struct HistogramDef : MetricDef {
  constexpr HistogramDef(std::string_view name, std::string_view unit, LabelNames labels,
                         std::string_view help, std::span<const double> buckets)
      : MetricDef{MetricType::kHistogram, name, unit, labels, help, buckets} {}
};

/// Handles. Copyable, as cheap as a pointer, valid as long as the registry; the default one drops
/// what it is told. Thread: any, without locks, except where said.
class Counter {
 public:
  Counter() = default;
  void Increment(double by = 1);
  /// Raises the counter to a total that is kept elsewhere, e.g. in a client's control area; a total
  /// below the counter changes nothing. Thread: one at a time.
  void AdvanceTo(double total);

 private:
  friend class MetricRegistry;
  prometheus::Counter* counter_ = nullptr;
};

class Gauge {
 public:
  Gauge() = default;
  void Set(double value);
  void Add(double by);

 private:
  friend class MetricRegistry;
  prometheus::Gauge* gauge_ = nullptr;
};

class Histogram {
 public:
  Histogram() = default;
  void Observe(double value);

 private:
  friend class MetricRegistry;
  prometheus::Histogram* histogram_ = nullptr;
};

using MetricTable = std::span<const MetricDef* const>;
using LabelValues = std::initializer_list<std::string_view>;

/// Thread: any.
class MetricRegistry {
 public:
  /// REQUIRES: names are unique and well formed. The table outlives the registry.
  explicit MetricRegistry(MetricTable table);
  ~MetricRegistry();
  MetricRegistry(const MetricRegistry&) = delete;
  MetricRegistry& operator=(const MetricRegistry&) = delete;

  /// The time series with these label values; made at the first call, the same one afterwards. Ask
  /// once and keep the handle: the look-up takes a lock.
  /// REQUIRES: the metric is in the table, and every label has a value.
  Counter Get(const CounterDef& def, LabelValues label_values = {});
  Gauge Get(const GaugeDef& def, LabelValues label_values = {});
  Histogram Get(const HistogramDef& def, LabelValues label_values = {});

  /// Called, one scrape at a time, before every exposition: to set what is cheaper to ask for than
  /// to keep.
  void OnScrape(absl::AnyInvocable<void()> update);

  /// The text format of Prometheus, version 0.0.4. Metrics without a time series yet are left out.
  std::string Expose();
  static constexpr std::string_view kContentType = "text/plain; version=0.0.4; charset=utf-8";

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// docs/metrics.md.
std::string MetricTableMarkdown(MetricTable table);

}  // namespace thermocline
