// Nothing is sorted. Each token has a place: a number that is greater the earlier the token comes
// in the order of drawing. The likeliest k, those that reach top-p and the one that is drawn are
// all found alike: as the place from which on the tokens' count or weight reaches a target, by
// bisection over places. A pass sums over the row; once few tokens lie between the bounds they are
// collected in shared memory, and the rest of the bisection is over these.
#include "kernels/sample.h"

#include "kernels/simt/device.cuh"

namespace thermocline {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr uint32_t kRoom = 2048;  ///< for tokens in shared memory
constexpr int kIdBits = 19;
constexpr uint64_t kLastId = kSampleMaxVocabulary - 1;
static_assert(kSampleMaxVocabulary == 1 << kIdBits);
constexpr float kWeightOne = 0x1p40f;
constexpr float kLeastExponent = -41;  ///< of 2: what weighs less is rounded to nothing

/// One sequence's tokens.
struct Row {
  const float* logits;
  int vocabulary;
  float greatest;
  float exponents;  ///< of 2, for each unit of a logit
  bool by_id;       ///< the order of drawing; else by logit
};

/// What the tokens from some place on come to.
struct Mass {
  uint64_t weight;
  uint32_t count;
};

struct Token {
  uint64_t place;
  uint64_t weight;
};

/// Greater for a greater logit and, among equal ones, for a lower id. 0 for NaN.
__device__ __forceinline__ uint64_t PlaceByLogit(float logit, int id) {
  const auto bits = static_cast<uint32_t>(__float_as_int(logit + 0.0f));  // -0 is 0
  const uint32_t ordered = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return logit == logit ? uint64_t{ordered} << kIdBits | (kLastId - static_cast<uint32_t>(id)) : 0;
}

__device__ __forceinline__ int IdAt(uint64_t place) {
  return static_cast<int>(kLastId - (place & kLastId));
}

__device__ __forceinline__ Token TokenOf(const Row& row, int id) {
  const float logit = row.logits[id];
  const float exponent = (logit - row.greatest) * row.exponents;
  return {row.by_id ? kLastId - static_cast<uint32_t>(id) : PlaceByLogit(logit, id),
          exponent > kLeastExponent
              ? static_cast<uint64_t>(simt::Exp2(exponent) * kWeightOne + 0.5f)
              : 0};
}

/// The sum over the block, in every thread.
__device__ Mass BlockSum(Mass mass) {
  TC_SHARED(uint64_t, weights, kWarps);
  TC_SHARED(uint32_t, counts, kWarps);
  const int warp = threadIdx.x / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  const auto sum_of_warp = [&mass] {
#pragma unroll
    for (int distance = kWarpThreads / 2; distance > 0; distance /= 2) {
      mass.weight += __shfl_xor_sync(kWholeWarp, mass.weight, distance);
      mass.count += __shfl_xor_sync(kWholeWarp, mass.count, distance);
    }
  };
  sum_of_warp();
  __syncthreads();  // all have read the sums before
  if (lane == 0) {
    weights[warp] = mass.weight;
    counts[warp] = mass.count;
  }
  __syncthreads();
  mass = {weights[lane], counts[lane]};
  sum_of_warp();
  return mass;
}

/// The greatest place by logit of the row, in every thread.
__device__ uint64_t GreatestPlace(const float* logits, int vocabulary) {
  TC_SHARED(uint64_t, places, kWarps);
  uint64_t greatest = 0;
  for (int id = threadIdx.x; id < vocabulary; id += kThreads) {
    greatest = max(greatest, PlaceByLogit(logits[id], id));
  }
  const auto greatest_of_warp = [&greatest] {
#pragma unroll
    for (int distance = kWarpThreads / 2; distance > 0; distance /= 2) {
      greatest = max(greatest, __shfl_xor_sync(kWholeWarp, greatest, distance));
    }
  };
  greatest_of_warp();
  if (threadIdx.x % kWarpThreads == 0) places[threadIdx.x / kWarpThreads] = greatest;
  __syncthreads();
  greatest = places[threadIdx.x % kWarpThreads];
  greatest_of_warp();
  return greatest;
}

/// Of the tokens at or after `place`.
__device__ Mass MassFrom(const Row& row, uint64_t place) {
  Mass mass = {0, 0};
#pragma unroll 4
  for (int id = threadIdx.x; id < row.vocabulary; id += kThreads) {
    const Token token = TokenOf(row, id);
    if (token.place < place) continue;
    mass.weight += token.weight;
    ++mass.count;
  }
  return BlockSum(mass);
}

/// A stretch of the places, and what lies from its ends on.
struct Stretch {
  uint64_t begin, end;
  Mass from_begin, from_end;
};

/// Narrows the stretch down to one place, that of the first token in the order of drawing with
/// which the count (or the weight) reaches `target`; it is reached at the stretch's begin and not
/// at its end.
__device__ Stretch Find(const Row& row, bool by_count, uint64_t target, Stretch stretch) {
  TC_SHARED(Token, tokens, kRoom);
  TC_SHARED(uint32_t, collected, 1);
  const auto narrow = [&](uint64_t place, const Mass& mass) {
    if ((by_count ? mass.count : mass.weight) >= target) {
      stretch.begin = place;
      stretch.from_begin = mass;
    } else {
      stretch.end = place;
      stretch.from_end = mass;
    }
  };
  const auto middle = [&] { return stretch.begin + (stretch.end - stretch.begin) / 2; };
  while (stretch.end - stretch.begin > 1 &&
         stretch.from_begin.count - stretch.from_end.count > kRoom) {
    const uint64_t place = middle();
    narrow(place, MassFrom(row, place));
  }
  if (stretch.end - stretch.begin == 1) return stretch;

  // Tokens of an earlier search have been read: sums, which are barriers, came after.
  if (threadIdx.x == 0) collected[0] = 0;
  __syncthreads();
  for (int id = threadIdx.x; id < row.vocabulary; id += kThreads) {
    const Token token = TokenOf(row, id);
    if (token.place >= stretch.begin && token.place < stretch.end) {
      tokens[atomicAdd(&collected[0], 1u)] = token;
    }
  }
  __syncthreads();
  const uint32_t count = collected[0];
  const Mass beyond = stretch.from_end;
  while (stretch.end - stretch.begin > 1) {
    const uint64_t place = middle();
    Mass mass = {0, 0};
    for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
      if (tokens[i].place < place) continue;
      mass.weight += tokens[i].weight;
      ++mass.count;
    }
    mass = BlockSum(mass);
    narrow(place, {mass.weight + beyond.weight, mass.count + beyond.count});
  }
  return stretch;
}

/// The upper 64 bits of the product.
__device__ __forceinline__ uint64_t MultiplyHigh(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(static_cast<Wide>(a) * b >> 64);
}

/// SplitMix64's output after `draw` others; the engine takes its upper 53 bits.
__device__ __forceinline__ uint64_t RandomBits(uint64_t seed, uint64_t draw) {
  uint64_t z = seed + (draw + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (z ^ (z >> 31)) & ~uint64_t{0x7ff};
}

/// `highest`: the place by logit of the greatest one, which is finite.
__device__ int32_t Draw(Row row, const SampleSettings& settings, uint64_t highest) {
  // From here on tokens weigh something.
  const float least = row.greatest + kLeastExponent / row.exponents;
  Stretch kept = {PlaceByLogit(least, static_cast<int>(kLastId)), highest + 1, {0, 0}, {0, 0}};
  kept.from_begin = MassFrom(row, kept.begin);
  const uint32_t all = kept.from_begin.count;
  if (settings.top_k > 0 && static_cast<uint32_t>(settings.top_k) < all) {
    kept = Find(row, true, static_cast<uint32_t>(settings.top_k), kept);
    kept = {kept.begin, highest + 1, kept.from_begin, {0, 0}};
  }
  if (settings.top_p < 1) {
    const double wanted =
        ceil(double{settings.top_p} * static_cast<double>(kept.from_begin.weight));
    const uint64_t target = wanted > 1 ? static_cast<uint64_t>(wanted) : 1;
    kept = Find(row, false, min(target, kept.from_begin.weight), kept);
    kept = {kept.begin, highest + 1, kept.from_begin, {0, 0}};
  }
  if (!(settings.top_p < 1) && kept.from_begin.count == all) {
    row.by_id = true;
    kept.begin = kLastId - static_cast<uint32_t>(row.vocabulary - 1);
    kept.end = kLastId + 1;
    kept.from_begin.count = static_cast<uint32_t>(row.vocabulary);
  }
  const uint64_t drawn =
      MultiplyHigh(RandomBits(settings.seed, settings.draw), kept.from_begin.weight);
  return IdAt(Find(row, false, drawn + 1, kept).begin);
}

/// Grid: sequences.
__global__ void __launch_bounds__(kThreads) Sample(const __grid_constant__ SampleArgs args) {
  const float* const logits = args.logits + blockIdx.x * args.logits_stride;
  const SampleSettings settings = args.settings[blockIdx.x];
  const uint64_t highest = GreatestPlace(logits, args.vocabulary);
  int32_t id = IdAt(highest);
  const float greatest = highest != 0 ? logits[id] : -INFINITY;
  if (greatest == -INFINITY) {
    id = 0;
  } else if (settings.temperature > 0 && greatest != INFINITY) {
    constexpr float kLog2E = 1.44269504f, kMostExponents = 0x1p100f;
    const float exponents = fminf(kLog2E / settings.temperature, kMostExponents);
    const Row row = {logits, args.vocabulary, greatest, exponents, false};
    id = Draw(row, settings, highest);
  }
  if (threadIdx.x == 0) args.ids[blockIdx.x] = id;
}

}  // namespace

CudaError LaunchSample(const SampleArgs& args, CudaStream stream) {
  if (args.sequences == 0) return CudaError::kSuccess;
  if (args.sequences < 0 || args.vocabulary <= 0 || args.vocabulary > kSampleMaxVocabulary) {
    return CudaError::kInvalidValue;
  }
  const LaunchShape shape{.grid = {static_cast<uint32_t>(args.sequences)}, .block = {kThreads}};
  return simt::Launch(Sample, shape, stream, args);
}

}  // namespace thermocline
