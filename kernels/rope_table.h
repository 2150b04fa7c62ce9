// RoPE's angles, on the host, in float64: how fast each pair of a head turns, and the table of
// cosines and sines that the kernels read, by position.
#pragma once
#include <cstdint>
#include <vector>

namespace thermocline {

/// How a model reaches beyond the context it was trained on first.
struct RopeScaling {
  enum class Kind : uint8_t {
    kNone,
    kLinear,  ///< positions divided by `factor`
    kNtk,     ///< the base raised so that the slowest pair turns `factor` times slower
    kYarn,    ///< arXiv:2309.00071, section 3.2: pairs between two counts of turns are blended
    kLlama3,  ///< Llama 3.1: pairs between two wavelengths are blended
  };
  Kind kind = Kind::kNone;
  double factor = 1;
  double original_context = 8192;    ///< tokens
  double beta_fast = 32;             ///< YaRN: pairs that turn more often in it stay as they are
  double beta_slow = 1;              ///< YaRN: pairs that turn less often are interpolated whole
  double low_frequency_factor = 1;   ///< Llama 3: wavelengths beyond context / this, whole
  double high_frequency_factor = 4;  ///< Llama 3: wavelengths under context / this, not at all
};

struct RopeFrequencies {
  std::vector<double> radians_per_token;  ///< [rotary_dim / 2], fastest first
  double magnitude = 1;                   ///< YaRN's correction: q and k are multiplied by it
};

/// `rotary_dim` is even; base and factor are positive.
RopeFrequencies MakeRopeFrequencies(double base, int rotary_dim, const RopeScaling& scaling);

/// Writes rows [first_position, first_position + count) of the table.
/// Shape: out [count][rotary_dim / 2][2], cosine and sine.
void FillRopeTable(const RopeFrequencies& frequencies, int64_t first_position, int64_t count,
                   float* out);

}  // namespace thermocline
