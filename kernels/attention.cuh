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

/// Scores as exponents of 2.
template <class Args>
__device__ __forceinline__ float Score(const Args& args, float product) {
  const float score = product * args.scale;
  if (args.softcap > 0) {
    return args.softcap * kLog2E * simt::FastTanh(__fdividef(score, args.softcap));
  }
  return score * kLog2E;
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
  float largest[2];
  float sum[2];  ///< of the lane's own tokens: the sum of four lanes is the row's
};

/// One step of the online softmax over kTokens tokens for the warp's 16 rows. `keys` and `values`
/// are the first token's rows; exponent(half, token, product) is the exponent of 2 of the lane's
/// row `half` at a token of the step, -INFINITY where it is not attended.
template <class T, int kHeadDim, int kTokens, class Exponent>
__device__ __forceinline__ void AttendTokens(const uint32_t (&queries)[kHeadDim / 16][4],
                                             const uint16_t* keys, const uint16_t* values,
                                             Exponent exponent, WarpState<kHeadDim>& state) {
  constexpr int kRow = kRowNumbers<kHeadDim>;
  const int lane = threadIdx.x % kWarpThreads;
  float scores[kTokens / 8][4] = {};
  const uint16_t* const key_row = keys + (lane % 8 + lane / 16 * 8) * kRow + lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < kHeadDim / 16; ++k) {
#pragma unroll
    for (int n = 0; n < kTokens / 8; n += 2) {
      uint32_t b[4];
      simt::LoadMatrices(b, key_row + 8 * n * kRow + 16 * k);
      simt::MultiplyAdd<T>(scores[n], queries[k], b[0], b[1]);
      simt::MultiplyAdd<T>(scores[n + 1], queries[k], b[2], b[3]);
    }
  }
  uint32_t weights[kTokens / 16][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = state.largest[half];
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& score = scores[n][2 * half + i];
        score = exponent(half, 8 * n + lane % 4 * 2 + i, score);
        largest = fmaxf(largest, score);
      }
    }
    largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));
    const float base = largest == -INFINITY ? 0 : largest;  // no token so far: no NaN
    const float kept = simt::Exp2(state.largest[half] - base);
    state.largest[half] = largest;
    state.sum[half] *= kept;
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
      const float a = simt::Exp2(scores[n][2 * half] - base);
      const float b = simt::Exp2(scores[n][2 * half + 1] - base);
      state.sum[half] += a + b;
      weights[n / 2][n % 2 * 2 + half] = simt::Pack2<T>(a, b);
    }
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      state.out[n][2 * half] *= kept;
      state.out[n][2 * half + 1] *= kept;
    }
  }
  const uint16_t* const value_row = values + lane % 16 * kRow + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < kTokens / 16; ++k) {
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; n += 2) {
      uint32_t b[4];
      simt::LoadMatricesTransposed(b, value_row + 16 * k * kRow + 8 * n);
      simt::MultiplyAdd<T>(state.out[n], weights[k], b[0], b[1]);
      simt::MultiplyAdd<T>(state.out[n + 1], weights[k], b[2], b[3]);
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

}  // namespace thermocline
