#include "kernels/rope_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace thermocline {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;

/// The pair (a fraction of one) that turns `turns` times within the original context.
double PairOfTurns(double turns, double base, int rotary_dim, const RopeScaling& scaling) {
  return rotary_dim * std::log(scaling.original_context / (turns * kTurn)) / (2 * std::log(base));
}

void ScaleYarn(double base, int rotary_dim, const RopeScaling& scaling,
               RopeFrequencies& frequencies) {
  std::vector<double>& radians = frequencies.radians_per_token;
  const double last = rotary_dim - 1;
  const double low =
      std::clamp(std::floor(PairOfTurns(scaling.beta_fast, base, rotary_dim, scaling)), 0.0, last);
  double high =
      std::clamp(std::ceil(PairOfTurns(scaling.beta_slow, base, rotary_dim, scaling)), 0.0, last);
  if (high == low) high += 0.001;  // as in the paper's code: no division by zero
  for (size_t i = 0; i < radians.size(); ++i) {
    const double interpolated = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    radians[i] *= interpolated / scaling.factor + (1 - interpolated);
  }
  frequencies.magnitude = scaling.factor > 1 ? 0.1 * std::log(scaling.factor) + 1 : 1;
}

void ScaleLlama3(const RopeScaling& scaling, std::vector<double>& radians) {
  const double low = scaling.low_frequency_factor, high = scaling.high_frequency_factor;
  for (double& r : radians) {
    const double turns = scaling.original_context * r / kTurn;
    const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    r *= kept + (1 - kept) / scaling.factor;
  }
}

}  // namespace

RopeFrequencies MakeRopeFrequencies(double base, int rotary_dim, const RopeScaling& scaling) {
  TC_CHECK(rotary_dim > 0 && rotary_dim % 2 == 0);
  TC_CHECK(base > 0 && scaling.factor > 0);
  if (scaling.kind == RopeScaling::Kind::kNtk && rotary_dim > 2) {
    base *= std::pow(scaling.factor, rotary_dim / (rotary_dim - 2.0));
  }
  RopeFrequencies frequencies;
  for (int i = 0; i < rotary_dim; i += 2) {
    frequencies.radians_per_token.push_back(std::pow(base, -i / static_cast<double>(rotary_dim)));
  }
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
    case RopeScaling::Kind::kNtk:
      break;
    case RopeScaling::Kind::kLinear:
      for (double& r : frequencies.radians_per_token) r /= scaling.factor;
      break;
    case RopeScaling::Kind::kYarn:
      ScaleYarn(base, rotary_dim, scaling, frequencies);
      break;
    case RopeScaling::Kind::kLlama3:
      ScaleLlama3(scaling, frequencies.radians_per_token);
      break;
  }
  return frequencies;
}

void FillRopeTable(const RopeFrequencies& frequencies, int64_t first_position, int64_t count,
                   float* out) {
  for (int64_t position = first_position; position < first_position + count; ++position) {
    for (const double radians : frequencies.radians_per_token) {
      const double angle = static_cast<double>(position) * radians;
      *out++ = static_cast<float>(std::cos(angle) * frequencies.magnitude);
      *out++ = static_cast<float>(std::sin(angle) * frequencies.magnitude);
    }
  }
}

}  // namespace thermocline
