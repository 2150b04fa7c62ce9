// Sampling against float64, on the engine's random numbers: a drawn token must be the one in whose
// share of the sum the random number falls, give or take the weights' rounding.
#include "kernels/sample.h"

#include <gmock/gmock.h>

#include <limits>
#include <map>
#include <numeric>

#include "engine/sampler.h"
#include "tests/kernels/simt/oracle.h"

namespace thermocline {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
/// Of the whole weight: float32's exponents, of up to 41, lose a few in 2^24.
constexpr double kSlack = 4e-6;
constexpr int kPadding = 3;  ///< NaN behind each row

std::vector<int32_t> Sample(const std::vector<std::vector<float>>& rows,
                            const std::vector<SampleSettings>& settings) {
  const size_t vocabulary = rows[0].size(), stride = vocabulary + kPadding;
  std::vector<float> logits(rows.size() * stride, kInfinity);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy(rows[i].begin(), rows[i].end(), logits.begin() + static_cast<ptrdiff_t>(i * stride));
  }
  const DeviceArray<float> device_logits(logits);
  const DeviceArray<SampleSettings> device_settings(settings);
  const DeviceArray<int32_t> ids(rows.size());
  const CudaError error = LaunchSample({.ids = ids.data(),
                                        .logits = device_logits.data(),
                                        .settings = device_settings.data(),
                                        .logits_stride = static_cast<int64_t>(stride),
                                        .sequences = static_cast<int>(rows.size()),
                                        .vocabulary = static_cast<int>(vocabulary)},
                                       nullptr);
  EXPECT_EQ(error, CudaError::kSuccess);
  return ids.ToHost();
}

int32_t SampleOne(const std::vector<float>& row, const SampleSettings& settings) {
  return Sample({row}, {settings})[0];
}

/// Every `draw` of a seed on one row, as that many sequences.
std::vector<int32_t> Draws(const std::vector<float>& row, SampleSettings settings, int count) {
  std::vector<SampleSettings> all;
  for (int i = 0; i < count; ++i) {
    settings.draw = static_cast<uint64_t>(i);
    all.push_back(settings);
  }
  return Sample(std::vector<std::vector<float>>(all.size(), row), all);
}

double UniformOf(const SampleSettings& settings) {
  return SplitMix64(settings.seed, settings.draw).NextUniform();
}

/// Fails unless `id` is a draw that float64 could have made with weights a little different.
void ExpectDraw(const std::vector<float>& row, const SampleSettings& settings, int32_t id) {
  std::vector<int32_t> order(row.size());
  std::iota(order.begin(), order.end(), 0);
  std::erase_if(order, [&](int32_t i) { return std::isnan(row[i]); });
  const auto earlier = [&](int32_t a, int32_t b) {
    return row[a] != row[b] ? row[a] > row[b] : a < b;
  };
  const double greatest = row[*std::min_element(order.begin(), order.end(), earlier)];
  const auto weight = [&](int32_t i) {
    return std::exp((double{row[i]} - greatest) / double{settings.temperature});
  };
  const bool top_k = settings.top_k > 0 && static_cast<size_t>(settings.top_k) < order.size();
  const bool sorted = top_k || settings.top_p < 1;
  if (sorted) std::sort(order.begin(), order.end(), earlier);
  if (top_k) order.resize(static_cast<size_t>(settings.top_k));
  double total = 0;
  for (const int32_t i : order) total += weight(i);
  // What top-p keeps may be a little more or less.
  double least = total, most = total;
  if (settings.top_p < 1) {
    least = most = 0;
    for (const int32_t i : order) {
      if (least < (settings.top_p - kSlack) * total) least += weight(i);
      if (most < (settings.top_p + kSlack) * total) most += weight(i);
    }
  }
  const double uniform = UniformOf(settings);
  double before = 0;
  for (const int32_t i : order) {
    const double after = before + weight(i);
    if (i == id) {
      EXPECT_LE(before, uniform * most + kSlack * total) << "token " << id << " is too late";
      EXPECT_GE(after, uniform * least - kSlack * total) << "token " << id << " is too early";
      EXPECT_LE(before, most + kSlack * total);
      return;
    }
    before = after;
  }
  ADD_FAILURE() << "token " << id << " is not among those kept";
}

std::vector<float> RandomRow(RandomInputs& random, size_t vocabulary, float spread) {
  std::vector<float> row(vocabulary);
  for (float& logit : row) {
    // A few stand out, as they do in models.
    const float x = random.Float();
    logit = spread * (x + 2 * x * x * x * x * x);
  }
  return row;
}

TEST(SampleTest, GreedyTakesTheFirstGreatestAndNoNan) {
  for (const std::vector<float>& row :
       std::vector<std::vector<float>>{{1, 3, 3, 2},
                                       {kNan, -5, kNan},
                                       {kNan, kNan},
                                       {-kInfinity, -kInfinity},
                                       {kNan, -kInfinity, -kInfinity},
                                       {2, kInfinity, 5, kInfinity},
                                       {-0.0f, 0.0f, -1},
                                       {-2, -1, -1},
                                       {7}}) {
    ForEachSchedule([&] { EXPECT_EQ(SampleOne(row, {}), GreedyToken(row)); });
  }
  RandomInputs random(1);
  for (const size_t vocabulary : {31, 1024, 1025, 2500}) {
    std::vector<std::vector<float>> rows;
    for (int i = 0; i < 3; ++i) rows.push_back(RandomRow(random, vocabulary, 10));
    rows[1][vocabulary - 1] = rows[1][vocabulary / 3] = 100;
    rows[2][vocabulary - 1] = 100;
    ForEachSchedule([&] {
      const auto ids = Sample(rows, std::vector<SampleSettings>(3));
      for (int i = 0; i < 3; ++i) EXPECT_EQ(ids[i], GreedyToken(rows[i]));
    });
  }
}

TEST(SampleTest, DrawsFallWhereTheRandomNumberDoes) {
  RandomInputs random(2);
  for (const size_t vocabulary : {1, 77, 2900}) {
    for (const SampleSettings& settings :
         {SampleSettings{.temperature = 1}, SampleSettings{.temperature = 0.4f, .top_p = 0.9f},
          SampleSettings{.temperature = 1, .top_k = 5},
          SampleSettings{.temperature = 2, .top_k = 2400},
          SampleSettings{.temperature = 3, .top_p = 0.999f},
          SampleSettings{.temperature = 1.5f, .top_p = 0.5f, .top_k = 40},
          SampleSettings{.temperature = 1, .top_p = 1e-9f}}) {
      std::vector<std::vector<float>> rows;
      std::vector<SampleSettings> all;
      for (int i = 0; i < 2; ++i) {
        rows.push_back(RandomRow(random, vocabulary, 4));
        all.push_back(settings);
        all.back().seed = random.Bits();
        all.back().draw = random.Bits() % 9;
      }
      const std::vector<int32_t> ids = Sample(rows, all);
      for (size_t i = 0; i < rows.size(); ++i) {
        SCOPED_TRACE(testing::Message()
                     << vocabulary << " tokens, temperature " << settings.temperature << ", top-p "
                     << settings.top_p << ", top-k " << settings.top_k);
        ExpectDraw(rows[i], all[i], ids[i]);
      }
    }
  }
}

TEST(SampleTest, ScheduleDoesNotMatter) {
  RandomInputs random(3);
  const std::vector<float> row = RandomRow(random, 2500, 5);
  std::vector<std::vector<int32_t>> seen;
  ForEachSchedule([&] {
    seen.push_back(Draws(row, {.seed = 9, .temperature = 1, .top_p = 0.95f, .top_k = 100}, 2));
  });
  for (const auto& ids : seen) EXPECT_EQ(ids, seen[0]);
}

TEST(SampleTest, TheLargestVocabulary) {
  if (simt::IsChecked()) GTEST_SKIP() << "the plain form's part: the checker takes a minute for it";
  RandomInputs random(4);
  const std::vector<float> row = RandomRow(random, kSampleMaxVocabulary, 6);
  for (const SampleSettings& settings :
       {SampleSettings{.seed = 1, .temperature = 1, .top_p = 0.97f},
        SampleSettings{.seed = 3, .temperature = 5}}) {
    ExpectDraw(row, settings, SampleOne(row, settings));
  }
}

TEST(SampleTest, EqualsTheEnginesSampler) {
  RandomInputs random(5);
  const std::vector<float> row = RandomRow(random, 500, 6);
  for (const Sampler::Options& options :
       {Sampler::Options{.temperature = 0.7f, .top_p = 0.9f}, Sampler::Options{.temperature = 1},
        Sampler::Options{}, Sampler::Options{.temperature = 0.3f, .top_p = 0.5f},
        Sampler::Options{.temperature = 2, .top_k = 20},
        Sampler::Options{.temperature = 1.5f, .top_p = 0.8f, .top_k = 7}}) {
    auto sampler = Sampler::Make({.temperature = options.temperature,
                                  .top_p = options.top_p,
                                  .top_k = options.top_k,
                                  .seed = 77});
    ASSERT_TRUE(sampler.ok());
    std::vector<int32_t> engine;
    for (uint64_t i = 0; i < 6; ++i) engine.push_back(sampler->Sample(row, i));
    EXPECT_EQ(Draws(row,
                    {.seed = 77,
                     .temperature = options.temperature,
                     .top_p = options.top_p,
                     .top_k = options.top_k},
                    6),
              engine);
  }
}

TEST(SampleTest, TiesGoByIdAndNanIsNeverDrawn) {
  const std::vector<float> ties(300, 1.0f);
  for (const SampleSettings& settings :
       {SampleSettings{.temperature = 1, .top_p = 0.5f},
        SampleSettings{.temperature = 1, .top_k = 150}, SampleSettings{.temperature = 1}}) {
    const std::vector<int32_t> ids = Draws(ties, settings, 4);
    for (size_t i = 0; i < ids.size(); ++i) {
      SampleSettings drawn = settings;
      drawn.draw = i;
      ExpectDraw(ties, drawn, ids[i]);
    }
  }
  std::vector<float> holes = {kNan, 1, -kInfinity, 1.5f, kNan};
  for (const int32_t id : Draws(holes, {.temperature = 1}, 8)) {
    EXPECT_TRUE(id == 1 || id == 3) << id;
  }
}

TEST(SampleTest, ExtremeTemperatures) {
  const std::vector<float> row = {3e38f, -3e38f, 2e38f, -kInfinity};
  EXPECT_EQ(SampleOne(row, {.temperature = 1e-45f}), 0);
  EXPECT_EQ(SampleOne(row, {.temperature = 1, .top_p = 0.9f}), 0);
  EXPECT_EQ(SampleOne(row, {.temperature = -1}), 0);
  EXPECT_EQ(SampleOne(row, {.temperature = kNan}), 0);
  EXPECT_EQ(SampleOne({1, kInfinity, 2}, {.temperature = 5}), 1);
  std::map<int32_t, int> seen;
  for (const int32_t id : Draws({1, 2, 3}, {.temperature = kInfinity}, 12)) ++seen[id];
  EXPECT_EQ(seen.size(), 3u);
}

TEST(SampleTest, OtherShapesAreRefused) {
  EXPECT_EQ(LaunchSample({.sequences = 1}, nullptr), CudaError::kInvalidValue);
  EXPECT_EQ(LaunchSample({.sequences = 1, .vocabulary = kSampleMaxVocabulary + 1}, nullptr),
            CudaError::kInvalidValue);
  EXPECT_EQ(LaunchSample({.sequences = -1, .vocabulary = 5}, nullptr), CudaError::kInvalidValue);
}

}  // namespace
}  // namespace thermocline
