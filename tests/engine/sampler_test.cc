#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

namespace thermocline {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(SamplerTest, TheGeneratorIsSplitMix64) {
  SplitMix64 random(0);
  EXPECT_EQ(random.Next(), 0xe220a8397b1dcdafu);
  EXPECT_EQ(random.Next(), 0x6e789e6aa1b965f4u);
  EXPECT_EQ(random.Next(), 0x06c45d188009454fu);
  EXPECT_EQ(SplitMix64(0, 2).Next(), 0x06c45d188009454fu);
}

TEST(SamplerTest, GreedyTakesTheFirstGreatestAndNoNan) {
  EXPECT_EQ(GreedyToken(std::vector<float>{1, 3, 3, 2}), 1);
  EXPECT_EQ(GreedyToken(std::vector<float>{kNan, -5, kNan}), 1);
  EXPECT_EQ(GreedyToken(std::vector<float>{kNan, kNan}), 0);
  auto sampler = Sampler::Make({.temperature = 0, .top_p = 0.5f});
  ASSERT_TRUE(sampler.ok());
  EXPECT_EQ(sampler->Sample(std::vector<float>{1, 3, 2}, 0), 1);
}

TEST(SamplerTest, ASeedFixesTheDraws) {
  const std::vector<float> logits = {1, 2, 3, 4, 3.5f, 2.5f};
  const auto draw = [&](uint64_t seed) {
    auto sampler = Sampler::Make({.temperature = 1, .top_p = 0.95f, .seed = seed});
    std::vector<int32_t> ids;
    for (uint64_t i = 0; i < 20; ++i) ids.push_back(sampler->Sample(logits, i));
    return ids;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
  auto sampler = Sampler::Make({.temperature = 1, .top_p = 0.95f, .seed = 1});
  EXPECT_EQ(sampler->Sample(logits, 7), draw(1)[7]);  // whatever was drawn before
}

TEST(SamplerTest, DrawsFollowTheTemperedSoftmax) {
  const std::vector<float> logits = {0, 1, 2, -std::numeric_limits<float>::infinity(), kNan};
  auto sampler = Sampler::Make({.temperature = 0.5f, .top_p = 1, .seed = 5});
  ASSERT_TRUE(sampler.ok());
  constexpr int kDraws = 20000;
  std::map<int32_t, int> seen;
  for (uint64_t i = 0; i < kDraws; ++i) ++seen[sampler->Sample(logits, i)];
  const double total = 1 + std::exp(2.0) + std::exp(4.0);
  for (int id = 0; id < 3; ++id) {
    EXPECT_NEAR(seen[id] / static_cast<double>(kDraws), std::exp(2.0 * id) / total, 0.01);
  }
  EXPECT_EQ(seen.size(), 3u);
}

TEST(SamplerTest, TopPKeepsTheSmallestSetThatReachesIt) {
  // Probabilities .5, .3, .15, .05.
  std::vector<float> logits;
  for (const double p : {.05, .5, .15, .3}) logits.push_back(static_cast<float>(std::log(p)));
  const auto kept = [&](float top_p) {
    auto sampler = Sampler::Make({.temperature = 1, .top_p = top_p, .seed = 9});
    std::map<int32_t, int> seen;
    for (uint64_t i = 0; i < 2000; ++i) ++seen[sampler->Sample(logits, i)];
    return seen;
  };
  EXPECT_EQ(kept(0.4f).size(), 1u);
  EXPECT_EQ(kept(0.7f).size(), 2u);
  EXPECT_EQ(kept(0.9f).size(), 3u);
  EXPECT_EQ(kept(0.97f).size(), 4u);
  const auto two = kept(0.7f);
  EXPECT_TRUE(two.count(1) == 1 && two.count(3) == 1);
  EXPECT_NEAR(two.at(1) / 2000.0, 0.5 / 0.8, 0.05);
}

TEST(SamplerTest, TopKKeepsTheLikeliestAndTopPIsOfThem) {
  // Probabilities .5, .3, .15, .05; of the likeliest two .625 and .375.
  std::vector<float> logits;
  for (const double p : {.05, .5, .15, .3}) logits.push_back(static_cast<float>(std::log(p)));
  const auto kept = [&](int32_t top_k, float top_p) {
    auto sampler = Sampler::Make({.temperature = 1, .top_p = top_p, .top_k = top_k, .seed = 9});
    std::map<int32_t, int> seen;
    for (uint64_t i = 0; i < 2000; ++i) ++seen[sampler->Sample(logits, i)];
    return seen;
  };
  const auto two = kept(2, 1);
  EXPECT_EQ(two.size(), 2u);
  EXPECT_NEAR(two.at(1) / 2000.0, 0.625, 0.05);
  EXPECT_EQ(kept(2, 0.6f).size(), 1u);
  EXPECT_EQ(kept(2, 0.7f).size(), 2u);
  EXPECT_EQ(kept(4, 1), kept(0, 1));
  EXPECT_EQ(kept(1, 1).size(), 1u);
}

TEST(SamplerTest, SettingsOutOfRangeAreRefused) {
  EXPECT_FALSE(Sampler::Make({.temperature = -1}).ok());
  EXPECT_FALSE(Sampler::Make({.temperature = kNan}).ok());
  EXPECT_FALSE(Sampler::Make({.temperature = 1, .top_p = 0}).ok());
  EXPECT_FALSE(Sampler::Make({.temperature = 1, .top_p = 1.5f}).ok());
  EXPECT_FALSE(Sampler::Make({.temperature = 1, .top_p = kNan}).ok());
  EXPECT_FALSE(Sampler::Make({.temperature = 1, .top_k = -1}).ok());
}

}  // namespace
}  // namespace thermocline
