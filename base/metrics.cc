#include "base/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"

namespace thermocline {
namespace {

size_t LabelCount(const MetricDef& def) {
  return def.labels.second.empty() ? (def.labels.first.empty() ? 0 : 1) : 2;
}

const char* TypeName(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return "counter";
    case MetricType::kGauge:
      return "gauge";
    default:
      return "histogram";
  }
}

prometheus::Labels LabelsOf(const MetricDef& def, LabelValues values) {
  TC_CHECK(values.size() == LabelCount(def));
  prometheus::Labels labels;
  const std::string_view names[] = {def.labels.first, def.labels.second};
  size_t i = 0;
  for (const std::string_view value : values) {
    labels.emplace(std::string(names[i++]), std::string(value));
  }
  return labels;
}

}  // namespace

struct MetricRegistry::Impl {
  template <typename T>
  using Families = std::map<std::string_view, prometheus::Family<T>*>;

  template <typename T>
  static prometheus::Family<T>& Find(const Families<T>& families, const MetricDef& def) {
    const auto found = families.find(def.name);
    TC_CHECK(found != families.end());  // the metric is missing in the table
    return *found->second;
  }

  prometheus::Registry registry{prometheus::Registry::InsertBehavior::Throw};
  Families<prometheus::Counter> counters;
  Families<prometheus::Gauge> gauges;
  Families<prometheus::Histogram> histograms;
  Mutex mutex;
  std::vector<absl::AnyInvocable<void()>> updates TC_GUARDED_BY(mutex);
};

void Counter::Increment(double by) {
  if (counter_ != nullptr) counter_->Increment(by);
}

void Counter::AdvanceTo(double total) {
  if (counter_ == nullptr) return;
  const double missing = total - counter_->Value();
  if (missing > 0) counter_->Increment(missing);
}

void Gauge::Set(double value) {
  if (gauge_ != nullptr) gauge_->Set(value);
}

void Gauge::Add(double by) {
  if (gauge_ != nullptr) gauge_->Increment(by);
}

void Histogram::Observe(double value) {
  if (histogram_ != nullptr) histogram_->Observe(value);
}

MetricRegistry::MetricRegistry(MetricTable table) : impl_(std::make_unique<Impl>()) {
  for (const MetricDef* def : table) {
    const std::string name(def->name);
    const std::string help(def->help);
    switch (def->type) {
      case MetricType::kCounter:
        impl_->counters[def->name] =
            &prometheus::BuildCounter().Name(name).Help(help).Register(impl_->registry);
        break;
      case MetricType::kGauge:
        impl_->gauges[def->name] =
            &prometheus::BuildGauge().Name(name).Help(help).Register(impl_->registry);
        break;
      case MetricType::kHistogram:
        impl_->histograms[def->name] =
            &prometheus::BuildHistogram().Name(name).Help(help).Register(impl_->registry);
        break;
    }
  }
}

MetricRegistry::~MetricRegistry() = default;

Counter MetricRegistry::Get(const CounterDef& def, LabelValues label_values) {
  Counter handle;
  handle.counter_ = &Impl::Find(impl_->counters, def).Add(LabelsOf(def, label_values));
  return handle;
}

Gauge MetricRegistry::Get(const GaugeDef& def, LabelValues label_values) {
  Gauge handle;
  handle.gauge_ = &Impl::Find(impl_->gauges, def).Add(LabelsOf(def, label_values));
  return handle;
}

Histogram MetricRegistry::Get(const HistogramDef& def, LabelValues label_values) {
  Histogram handle;
  handle.histogram_ =
      &Impl::Find(impl_->histograms, def)
           .Add(LabelsOf(def, label_values),
                prometheus::Histogram::BucketBoundaries(def.buckets.begin(), def.buckets.end()));
  return handle;
}

void MetricRegistry::OnScrape(absl::AnyInvocable<void()> update) {
  MutexLock lock(impl_->mutex);
  impl_->updates.push_back(std::move(update));
}

std::string MetricRegistry::Expose() {
  MutexLock lock(impl_->mutex);
  for (auto& update : impl_->updates) update();
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

std::string MetricTableMarkdown(MetricTable table) {
  std::string text =
      "# Metrics\n\n"
      "What `thermoclined` exposes at `/metrics`, generated from `base/metric_table.h`.\n\n"
      "| metric | type | unit | labels | meaning |\n|-|-|-|-|-|\n";
  for (const MetricDef* def : table) {
    text.append("| `").append(def->name).append("` | ").append(TypeName(def->type));
    text.append(" | ").append(def->unit).append(" | ");
    if (!def->labels.first.empty()) text.append("`").append(def->labels.first).append("`");
    if (!def->labels.second.empty()) text.append(", `").append(def->labels.second).append("`");
    text.append(" | ").append(def->help).append(" |\n");
  }
  return text;
}

}  // namespace thermocline
