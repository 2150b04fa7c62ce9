// What the attention kernels share: how a score becomes an exponent, and one step of the online
// softmax, on tensor cores and without them.
//
// On tensor cores, 16 rows of queries are operand A; a tile of keys and of values lies in shared
// memory, where it came by cp.async. A row there is one 16-byte chunk longer than a head: an odd
// number of chunks, so that ldmatrix, which reads a chunk of eight neighbouring rows at once, meets
// every bank once.
#pragma once
#include "kernels/kv_geometry.h"
#include "kernels/paged_kv.h"
#include "kernels/simt/device.cuh"

namespace thermocline {

inline constexpr float kLog2E = 1.44269504f;

/// A score is Capped(product) * ScoreUnit, as an exponent of 2. kCapped: whether args.softcap is
/// above 0; few models have one.
template <bool kCapped, class Args>
__device__ __forceinline__ float Capped(const Args& args, float product) {
  if constexpr (kCapped) {
    return args.softcap * simt::FastTanh(__fdividef(product * args.scale, args.softcap));
  }
  return product;
}

template <bool kCapped, class Args>
__device__ __forceinline__ float ScoreUnit(const Args& args) {
  return kCapped ? kLog2E : args.scale * kLog2E;
}

/// The same, where a kernel has one form for both.
template <class Args>
__device__ __forceinline__ float Capped(const Args& args, float product) {
  return args.softcap > 0 ? Capped<true>(args, product) : product;
}

template <class Args>
__device__ __forceinline__ float ScoreUnit(const Args& args) {
  return args.softcap > 0 ? ScoreUnit<true>(args) : ScoreUnit<false>(args);
}

template <class Args>
__device__ __forceinline__ float Score(const Args& args, float product) {
  return Capped(args, product) * ScoreUnit(args);
}

// ---- on tensor cores ---------------------------------------------------------------------------

/// Rows of operand A, and tokens of one step of the second product.
inline constexpr int kFragmentRows = 16;

/// Numbers between the rows of a tile.
template <int kHeadDim>
inline constexpr int kRowNumbers = kHeadDim + 8;

/// Begins the copies of a tile of kTokens tokens by a block of kThreads, kUnroll a thread at once:
/// keys, then values. Those at or beyond `end` become zeros, and are not looked up.
template <int kHeadDim, int kTokens, int kThreads, int kUnroll>
__device__ __forceinline__ void FetchTile(const PagedKv& kv, const int32_t* table, int first_token,
                                          int end, int kv_head, uint16_t* keys) {
  constexpr int kChunks = kHeadDim / 8;
  constexpr int kCopies = kTokens * kChunks / kThreads;
  static_assert(kCopies * kThreads == kTokens * kChunks);
#pragma unroll(kUnroll)
  for (int i = 0; i < kCopies; ++i) {
    const int at = i * kThreads + static_cast<int>(threadIdx.x);
    const int row = at / kChunks, chunk = at % kChunks;
    const bool wanted = first_token + row < end;
    const uint32_t token = wanted ? first_token + row : end - 1;
    const std::byte* const from = kv.pool + table[token / kBlockTokens] * kv.block_stride +
                                  kv_head * kv.head_stride + token % kBlockTokens * kv.row_stride +
                                  16 * chunk;
    uint16_t* const to = keys + row * kRowNumbers<kHeadDim> + 8 * chunk;
    simt::CopyAsync16(to, from + kv.keys_offset, wanted);
    simt::CopyAsync16(to + kTokens * kRowNumbers<kHeadDim>, from + kv.values_offset, wanted);
  }
}

/// What one warp knows of its 16 rows: a lane has two of them (lane / 4 and 8 more).
template <int kHeadDim>
struct WarpState {
  float out[kHeadDim / 8][4];
  float largest[2];  ///< score over its unit
  float sum[2];      ///< of the lane's own tokens: the sum of four lanes is the row's
};

/// One step of the online softmax over kTokens tokens for kFragments times 16 rows of a warp: what
/// it loads of keys and values serves them all. `keys` and `values` are the first token's rows;
/// load_queries(k, a) gives the fragments of numbers 16 * k and on; capped(fragment, half, token,
/// product) is the score over `unit`, above 0, of the lane's row `half` of a fragment at a token of
/// the step, -INFINITY where it is not attended.
template <class T, int kHeadDim, int kTokens, int kFragments, class LoadQueries, class Capped>
__device__ __forceinline__ void AttendTokens(LoadQueries load_queries, const uint16_t* keys,
                                             const uint16_t* values, float unit, Capped capped,
                                             WarpState<kHeadDim> (&states)[kFragments]) {
  constexpr int kRow = kRowNumbers<kHeadDim>;
  const int lane = threadIdx.x % kWarpThreads;
  float scores[kFragments][kTokens / 8][4] = {};
  const uint16_t* const key_row = keys + (lane % 8 + lane / 16 * 8) * kRow + lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < kHeadDim / 16; ++k) {
    uint32_t a[kFragments][4];
    load_queries(k, a);
#pragma unroll
    for (int n = 0; n < kTokens / 8; n += 2) {
      uint32_t b[4];
      simt::LoadMatrices(b, key_row + 8 * n * kRow + 16 * k);
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
        simt::MultiplyAdd<T>(scores[f][n], a[f], b[0], b[1]);
        simt::MultiplyAdd<T>(scores[f][n + 1], a[f], b[2], b[3]);
      }
    }
  }
  uint32_t weights[kFragments][kTokens / 16][4];
#pragma unroll
  for (int f = 0; f < kFragments; ++f) {
    WarpState<kHeadDim>& state = states[f];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = state.largest[half];
#pragma unroll
      for (int n = 0; n < kTokens / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[f][n][2 * half + i];
          score = capped(f, half, 8 * n + lane % 4 * 2 + i, score);
          largest = fmaxf(largest, score);
        }
      }
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));
      const float base = largest == -INFINITY ? 0 : largest * unit;  // no token so far: no NaN
      const float kept = simt::Exp2(state.largest[half] * unit - base);
      state.largest[half] = largest;
      state.sum[half] *= kept;
#pragma unroll
      for (int n = 0; n < kTokens / 8; ++n) {
        const float x = simt::Exp2(scores[f][n][2 * half] * unit - base);
        const float y = simt::Exp2(scores[f][n][2 * half + 1] * unit - base);
        state.sum[half] += x + y;
        weights[f][n / 2][n % 2 * 2 + half] = simt::Pack2<T>(x, y);
      }
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        state.out[n][2 * half] *= kept;
        state.out[n][2 * half + 1] *= kept;
      }
    }
  }
  const uint16_t* const value_row = values + lane % 16 * kRow + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < kTokens / 16; ++k) {
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; n += 2) {
      uint32_t b[4];
      simt::LoadMatricesTransposed(b, value_row + 16 * k * kRow + 8 * n);
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
        simt::MultiplyAdd<T>(states[f].out[n], weights[f][k], b[0], b[1]);
        simt::MultiplyAdd<T>(states[f].out[n + 1], weights[f][k], b[2], b[3]);
      }
    }
  }
}

// ---- without them ------------------------------------------------------------------------------

/// What a group of lanes knows of one query row; each lane has eight numbers of the result.
struct RowState {
  float out[8];
  float largest;
  float sum;
};

__device__ __forceinline__ void Merge(RowState& state, const RowState& other) {
  const float largest = fmaxf(state.largest, other.largest);
  const float base = largest == -INFINITY ? 0 : largest;
  const float kept = simt::Exp2(state.largest - base), weight = simt::Exp2(other.largest - base);
#pragma unroll
  for (int i = 0; i < 8; ++i) state.out[i] = state.out[i] * kept + other.out[i] * weight;
  state.sum = state.sum * kept + other.sum * weight;
  state.largest = largest;
}

/// The product of a query and a key, of which each of the first `row_lanes` lanes (a power of 2,
/// and so on for each such group of lanes) has eight numbers; for all lanes of the group.
__device__ __forceinline__ float RowProduct(const float (&query)[8], const float (&key)[8],
                                            int row_lanes) {
  float product = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) product += query[i] * key[i];
  for (int distance = row_lanes / 2; distance > 0; distance /= 2) {
    product += __shfl_xor_sync(kWholeWarp, product, distance);
  }
  return product;
}

/// Merges the states of the warp's groups of lanes, for all of them.
__device__ __forceinline__ void MergeGroups(RowState& state, int row_lanes) {
  for (int distance = row_lanes; distance < kWarpThreads; distance *= 2) {
    RowState other;
#pragma unroll
    for (int i = 0; i < 8; ++i) other.out[i] = __shfl_xor_sync(kWholeWarp, state.out[i], distance);
    other.largest = __shfl_xor_sync(kWholeWarp, state.largest, distance);
    other.sum = __shfl_xor_sync(kWholeWarp, state.sum, distance);
    Merge(state, other);
  }
}

}  // namespace thermocline
