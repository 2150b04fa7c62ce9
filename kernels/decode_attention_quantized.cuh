// Decode attention over quantised KV on tensor cores, as decode_attention.cu has it for 16-bit
// numbers, but for what follows from the codes (quant_codes.cuh). One body serves queries of both
// types: rows of queries become halves, times a power of two that gives each its best place.
//
// A warp takes a step of 32 tokens (16 with the widest heads, 64 with the smallest), since with so
// few bytes a token the softmax, not the codes, is most of the work; and since most tiles are
// attended whole, they have a loop of their own, without a look at the single tokens. ldmatrix
// moves codes as 16-bit elements: a lane gets a word of a token's codes (keys), or half a word of
// each of two tokens (values). Pairs taken out of it are not of neighbouring numbers, which only
// orders the head's numbers anew: queries are loaded in that order, and the result's fragments are
// written back by it, kWordNumbers a lane. A key's scale multiplies its score, a value's scale its
// weight. So that the product is a normal half wherever the number itself would be, weights are
// times 2^kLargestLog2, the sum of weights likewise: it is the product of the weights, as halves,
// and ones.
#pragma once
#include "kernels/decode_attention.cuh"
#include "kernels/quant_codes.cuh"

namespace thermocline {
namespace {

constexpr uint32_t kHalfOnes = 0x3c003c00;  ///< 1 twice

template <class Code, int kHeadDim>
struct CodeTiles {
  static constexpr int kRowBytes = static_cast<int>(KvRowBytes(Code::kDtype, kHeadDim));
  static constexpr int kChunks = kRowBytes / 16;
  static constexpr int kChunkNumbers = 4 * Code::kWordNumbers;
  static constexpr int kPairs = Code::kWordNumbers / 2;     ///< registers that a word becomes
  static constexpr int kNumbers = kChunks * kChunkNumbers;  ///< the head's and the filling's
  static constexpr int kSteps = kNumbers / 16;
  static constexpr int kWarpTokens = kRowBytes < 64 ? 64 : kHeadDim > 128 ? 16 : 32;
  static constexpr int kTileTokens = kDecodeWarps * kWarpTokens;
  static constexpr int kPitch = 16 * (kChunks | 1);  ///< an odd number of chunks, see attention.cuh
  static constexpr int kValuesAt = kTileTokens * kPitch;
  static constexpr int kKeyScalesAt = 2 * kValuesAt;
  static constexpr int kValueScalesAt = kKeyScalesAt + 2 * kTileTokens;
  static constexpr int kStageBytes = kValueScalesAt + 2 * kTileTokens;
  static constexpr int kStages = kStageBytes > 32 * 1024 ? 2 : 3;
  /// Of the final states: rows of a fragment begin half of its lanes' run apart.
  static constexpr int kStateShift = Code::kWordNumbers == 4 ? 16 : 4;
  static constexpr int kStateRow = kNumbers + (32 + kStateShift - kNumbers % 32) % 32;
  static constexpr size_t kStateBytes =
      sizeof(float) * kDecodeWarps * kFragmentRows * (kStateRow + 2);
  static constexpr size_t kPipelineBytes = size_t{kStages} * kStageBytes;
  static constexpr size_t kSharedBytes =
      kPipelineBytes > kStateBytes ? kPipelineBytes : kStateBytes;
  static_assert(kSharedBytes <= 99 * 1024, "every device grants a block that much");
};

/// Of rows shorter than 128 bytes, several are written at once: such, of each eight, that they meet
/// every bank once, where rows are kChunks + 1 chunks apart.
template <int kChunks>
__device__ __forceinline__ int RowOfThread(int row) {
  if constexpr (kChunks == 2 || kChunks == 4) {
    constexpr int kAtOnce = 8 / kChunks;
    return row / 8 * 8 + row % kAtOnce * kChunks + row % 8 / kAtOnce;
  }
  return row;
}

/// Begins the copies of a tile, whose first token begins a block. Tokens beyond the span become
/// zeros, and are not looked up; those before it, of its first block, come along.
template <class Code, int kHeadDim>
__device__ __forceinline__ void FetchCodes(const PagedKv& kv, const int32_t* table, int first_token,
                                           int end, int kv_head, std::byte* stage) {
  using Tile = CodeTiles<Code, kHeadDim>;
  constexpr int kCopies = Tile::kTileTokens * Tile::kChunks;
  // Where they divide, a thread keeps to one chunk and, if it can, to one row of each block.
  constexpr bool kDivide = kDecodeThreads % Tile::kChunks == 0;
  constexpr int kRowsAtOnce = kDivide ? kDecodeThreads / Tile::kChunks : 0;
  const int thread = threadIdx.x, own_row = RowOfThread<Tile::kChunks>(thread / Tile::kChunks);
  const std::byte* const keys = kv.pool + kv_head * kv.head_stride + kv.keys_offset;
  const int64_t to_values = kv.values_offset - kv.keys_offset;
  const auto block_of = [&](int token) {
    return table[static_cast<uint32_t>(min(token, end - 1)) / kBlockTokens] * kv.block_stride;
  };
#pragma unroll(kHeadDim > 128 ? 4 : kCopies)  // all of them would spill
  for (int i = 0; i < (kCopies - 1) / kDecodeThreads + 1; ++i) {
    const int at = i * kDecodeThreads + thread;
    if (kCopies % kDecodeThreads != 0 && at >= kCopies) break;
    const int row = kDivide ? own_row + i * kRowsAtOnce : at / Tile::kChunks;
    const int chunk = (kDivide ? thread : at) % Tile::kChunks;
    const int row_of_block =
        (kDivide && kRowsAtOnce % kBlockTokens == 0 ? own_row : row) % kBlockTokens;
    const std::byte* const from =
        keys + (row_of_block * kv.row_stride + 16 * chunk) + block_of(first_token + row);
    std::byte* const to = stage + row * Tile::kPitch + 16 * chunk;
    const bool wanted = first_token + row < end;
    simt::CopyAsync16(to, from, wanted);
    simt::CopyAsync16(to + Tile::kValuesAt, from + to_values, wanted);
  }
  if (thread < Tile::kTileTokens / 8) {  // scales, eight tokens' at once
    const int token = first_token + 8 * thread;
    const std::byte* const from = keys + (kv.scales_offset + thread % 2 * 16) + block_of(token);
    std::byte* const to = stage + Tile::kKeyScalesAt + 16 * thread;
    simt::CopyAsync16(to, from, token < end);
    simt::CopyAsync16(to + 2 * Tile::kTileTokens, from + to_values, token < end);
  }
}

/// Query rows as operand A, the numbers in the order of the codes' pairs.
template <class Code, int kHeadDim>
struct CodeQueries {
  using Tile = CodeTiles<Code, kHeadDim>;
  uint32_t fragments[Tile::kSteps][4];
  float unit[2];  ///< what a product of a row's fragments and pairs is times the true one's inverse
  float start[2];  ///< of a row's products, which takes the keys' bias off
};

/// Of numbers of a lane's row, kWordNumbers from `from`, as pairs; `wanted` or zeros.
template <class Code>
__device__ __forceinline__ void LoadPairs(const uint16_t* from, bool wanted,
                                          uint32_t (&pairs)[Code::kWordNumbers / 2]) {
  constexpr uint32_t kLows = 0x5410, kHighs = 0x7632;
  if constexpr (Code::kWordNumbers == 4) {
    const uint2 v = wanted ? simt::LoadOnce8(from) : make_uint2(0, 0);
    pairs[0] = __byte_perm(v.x, v.y, kLows);
    pairs[1] = __byte_perm(v.x, v.y, kHighs);
  } else {
    const uint4 v = wanted ? simt::LoadOnce16(from) : make_uint4(0, 0, 0, 0);
    pairs[0] = __byte_perm(v.x, v.z, kLows);
    pairs[1] = __byte_perm(v.x, v.z, kHighs);
    pairs[2] = __byte_perm(v.y, v.w, kLows);
    pairs[3] = __byte_perm(v.y, v.w, kHighs);
  }
}

template <class T, class Code, int kHeadDim>
__device__ __forceinline__ void LoadQueries(const uint16_t* q, int group,
                                            CodeQueries<Code, kHeadDim>& queries) {
  using Tile = CodeTiles<Code, kHeadDim>;
  const int lane = threadIdx.x % kWarpThreads;
  float sums[4] = {};
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = lane / 4 + 8 * half;
    float largest = 0;
#pragma unroll
    for (int chunk = 0; chunk < Tile::kChunks; ++chunk) {
      const int d = chunk * Tile::kChunkNumbers + lane % 4 * Code::kWordNumbers;
      uint32_t pairs[Tile::kPairs];
      LoadPairs<Code>(q + row * kHeadDim + d, row < group && d < kHeadDim, pairs);
#pragma unroll
      for (int r = 0; r < Tile::kPairs; ++r) {
        const int at = chunk * Tile::kPairs + r;
        queries.fragments[at / 2][at % 2 * 2 + half] = pairs[r];
        const float2 pair = simt::Unpack2<T>(pairs[r]);
        largest = fmaxf(largest, fmaxf(fabsf(pair.x), fabsf(pair.y)));
      }
    }
    largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));
    // The largest comes to lie in [2^14, 2^15); tinier rows than 2^-100 further down.
    const int exponent = max(__float_as_int(largest) >> 23, 27);
    factor[half] = __int_as_float((127 + 127 + 14 - exponent) << 23);
    queries.unit[half] = __int_as_float((exponent - 14) << 23) * Code::kKeyUnit;
  }
#pragma unroll
  for (int k = 0; k < Tile::kSteps; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float times = factor[i % 2] / (i / 2 == 1 ? Code::kOddFactor : 1);
      const float2 pair = simt::Unpack2<T>(queries.fragments[k][i]);
      queries.fragments[k][i] = simt::PackHalves(pair.x * times, pair.y * times);
    }
    constexpr uint32_t kSixteens = 0x4c004c00;
    simt::MultiplyAdd<Half>(sums, queries.fragments[k], kHalfOnes,
                            Code::kOddFactor == 16 ? kSixteens : kHalfOnes);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    queries.start[half] = -Code::kKeyBias / Code::kKeyUnit * sums[2 * half];
  }
}

/// What one warp knows of its tokens: a lane has two rows (lane / 4 and 8 more).
template <class Code, int kHeadDim>
struct CodeState {
  float out[CodeTiles<Code, kHeadDim>::kNumbers / 8][4];
  float weights[4];  ///< the sum of the weights times the values' scales, where values have a bias
  float sums[4];     ///< of the weights; here and above [2 * half] is a row's
  float largest[2];  ///< score, before the multiplier unless there is a softcap
};

/// The scores of one step's tokens before their scales: products of queries and pairs of keys.
template <class Code, int kHeadDim>
__device__ __forceinline__ void Multiply(
    const CodeQueries<Code, kHeadDim>& queries, const std::byte* keys,
    float (&scores)[CodeTiles<Code, kHeadDim>::kWarpTokens / 8][4]) {
  using Tile = CodeTiles<Code, kHeadDim>;
  const int lane = threadIdx.x % kWarpThreads;
#pragma unroll
  for (int n = 0; n < Tile::kWarpTokens / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = queries.start[i / 2];
  }
  const std::byte* const row = keys + (lane % 8 + lane / 16 * 8) * Tile::kPitch;
  const std::byte* const chunk_of_two = row + lane / 8 % 2 * 16;
#pragma unroll
  for (int chunk = 0; chunk < Tile::kChunks; chunk += 2) {
    const bool two = chunk + 1 < Tile::kChunks;
#pragma unroll
    for (int n = 0; n < Tile::kWarpTokens / 8; n += 2) {
      uint32_t words[4];
      simt::LoadMatrices(words, (two ? chunk_of_two : row) + 8 * n * Tile::kPitch + 16 * chunk);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (j % 2 == 1 && !two) continue;
        uint32_t pairs[Tile::kPairs];
        Code::KeyPairs(words[j], pairs);
#pragma unroll
        for (int r = 0; r < Tile::kPairs; r += 2) {
          const int step = ((chunk + j % 2) * Tile::kPairs + r) / 2;
          simt::MultiplyAdd<Half>(scores[n + j / 2], queries.fragments[step], pairs[r],
                                  pairs[r + 1]);
        }
      }
    }
  }
}

/// Adds one step's values times their weights.
template <class Code, int kHeadDim>
__device__ __forceinline__ void AddValues(
    const uint32_t (&weights)[CodeTiles<Code, kHeadDim>::kWarpTokens / 16][4],
    const std::byte* values, CodeState<Code, kHeadDim>& state) {
  using Tile = CodeTiles<Code, kHeadDim>;
  const int lane = threadIdx.x % kWarpThreads;
  const std::byte* const row = values + lane % 16 * Tile::kPitch;
  const std::byte* const chunk_of_two = row + lane / 16 * 16;
#pragma unroll
  for (int k = 0; k < Tile::kWarpTokens / 16; ++k) {
#pragma unroll
    for (int chunk = 0; chunk < Tile::kChunks; chunk += 2) {
      const bool two = chunk + 1 < Tile::kChunks;
      uint32_t words[4];
      simt::LoadMatricesTransposed(words,
                                   (two ? chunk_of_two : row) + 16 * k * Tile::kPitch + 16 * chunk);
#pragma unroll
      for (int j = 0; j < (two ? 2 : 1); ++j) {
        uint32_t low[Tile::kPairs], high[Tile::kPairs];
        Code::ValuePairs(words[2 * j], low);
        Code::ValuePairs(words[2 * j + 1], high);
#pragma unroll
        for (int r = 0; r < Tile::kPairs; ++r) {
          simt::MultiplyAdd<Half>(state.out[(chunk + j) * Tile::kPairs + r], weights[k], low[r],
                                  high[r]);
        }
      }
    }
  }
}

/// One step of the online softmax over a warp's part of a tile; inside(i) tells whether its token i
/// is attended.
template <class Code, int kHeadDim, bool kSoftcap, class Inside>
__device__ __forceinline__ void AttendCodes(const DecodeAttentionArgs& args,
                                            const CodeQueries<Code, kHeadDim>& queries,
                                            const float (&multiplier)[2], const std::byte* stage,
                                            int step, Inside inside,
                                            CodeState<Code, kHeadDim>& state) {
  using Tile = CodeTiles<Code, kHeadDim>;
  constexpr int kGroups = Tile::kWarpTokens / 8;
  const int own = threadIdx.x % 4 * 2;  // of a group's eight tokens
  float scores[kGroups][4];
  Multiply<Code, kHeadDim>(queries, stage + step * Tile::kPitch, scores);
  uint32_t value_scales[kGroups];
  float largest[2] = {state.largest[0], state.largest[1]};
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
    const std::byte* const at = stage + Tile::kKeyScalesAt + 2 * (step + 8 * n + own);
    const float2 scales = simt::UnpackHalves(*reinterpret_cast<const uint32_t*>(at));
    uint32_t attended = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool wanted = inside(8 * n + own + i);
      attended |= wanted ? 0xffffu << 16 * i : 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& score = scores[n][2 * half + i];
        score *= i == 0 ? scales.x : scales.y;
        if (kSoftcap) {
          const float limit = args.softcap * kLog2E;
          score = limit - __fdividef(2 * limit, 1 + simt::Exp2(score * multiplier[half]));
        }
        score = wanted ? score : -INFINITY;
        largest[half] = fmaxf(largest[half], score);
      }
    }
    // Scales of tokens that are none may be anything, NaN too.
    value_scales[n] = *reinterpret_cast<const uint32_t*>(at + 2 * Tile::kTileTokens) & attended;
  }
  uint32_t weights[Tile::kWarpTokens / 16][4], sums[Tile::kWarpTokens / 16][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float most = fmaxf(largest[half], __shfl_xor_sync(kWholeWarp, largest[half], 1));
    most = fmaxf(most, __shfl_xor_sync(kWholeWarp, most, 2));
    const float times = kSoftcap ? 1 : multiplier[half];
    const float base = most == -INFINITY ? 0 : -most * times;  // no token yet: no NaN
    const float kept = simt::Exp2(fmaf(state.largest[half], times, base));
    state.largest[half] = most;
    state.sums[2 * half] *= kept;
    state.weights[2 * half] *= kept;
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      const float offset = base + static_cast<float>(Code::kLargestLog2);
      const float a = simt::Exp2(fmaf(scores[n][2 * half], times, offset));
      const float b = simt::Exp2(fmaf(scores[n][2 * half + 1], times, offset));
      const uint32_t pair = simt::PackHalves(a, b);
      sums[n / 2][n % 2 * 2 + half] = pair;
      weights[n / 2][n % 2 * 2 + half] = simt::MultiplyHalves(pair, value_scales[n]);
    }
#pragma unroll
    for (int n = 0; n < Tile::kNumbers / 8; ++n) {
      state.out[n][2 * half] *= kept;
      state.out[n][2 * half + 1] *= kept;
    }
  }
#pragma unroll
  for (int k = 0; k < Tile::kWarpTokens / 16; ++k) {
    simt::MultiplyAdd<Half>(state.sums, sums[k], kHalfOnes, kHalfOnes);
    if (Code::kValueBias != 0) {
      simt::MultiplyAdd<Half>(state.weights, weights[k], kHalfOnes, kHalfOnes);
    }
  }
  AddValues<Code, kHeadDim>(weights, stage + Tile::kValuesAt + step * Tile::kPitch, state);
}

/// Leaves the warp's state in shared memory as MergeWarps takes it.
template <class Code, int kHeadDim, bool kSoftcap>
__device__ __forceinline__ void KeepState(const float (&multiplier)[2],
                                          const CodeState<Code, kHeadDim>& state, float* states) {
  using Tile = CodeTiles<Code, kHeadDim>;
  const int warp = threadIdx.x / kWarpThreads, lane = threadIdx.x % kWarpThreads;
  float* const sums = states + kDecodeWarps * kFragmentRows * Tile::kStateRow;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * kFragmentRows + lane / 4 + 8 * half;
    const float bias = Code::kValueBias != 0 ? Code::kValueBias * state.weights[2 * half] : 0;
#pragma unroll
    for (int chunk = 0; chunk < Tile::kChunks; ++chunk) {
      float numbers[Code::kWordNumbers];
#pragma unroll
      for (int j = 0; j < Code::kWordNumbers; ++j) {
        const int r = j % Tile::kPairs;
        const float unit = Code::kValueUnit / (r % 2 == 1 ? Code::kOddFactor : 1);
        const float product = state.out[chunk * Tile::kPairs + r][2 * half + j / Tile::kPairs];
        numbers[j] = product * unit - bias;
      }
      float* const to = states + row * Tile::kStateRow + chunk * Tile::kChunkNumbers +
                        lane % 4 * Code::kWordNumbers;
#pragma unroll
      for (int j = 0; j < Code::kWordNumbers; j += 4) {
        simt::Store16(to + j,
                      make_float4(numbers[j], numbers[j + 1], numbers[j + 2], numbers[j + 3]));
      }
    }
    if (lane % 4 == 0) {
      simt::Store8(sums + 2 * row,
                   make_float2(state.largest[half] * (kSoftcap ? 1 : multiplier[half]),
                               state.sums[2 * half]));
    }
  }
}

/// Grid: splits, KV heads, sequences.
template <class Code, int kHeadDim, bool kSoftcap>
__global__ void __launch_bounds__(kDecodeThreads)
    DecodeCodes(const __grid_constant__ DecodeAttentionArgs args) {
  using Tile = CodeTiles<Code, kHeadDim>;
  TC_DYNAMIC_SHARED(raw);
  std::byte* const ring = reinterpret_cast<std::byte*>(raw);
  const int kv_head = blockIdx.y, group = args.heads / args.kv_heads;
  const int64_t sequence = blockIdx.z;
  const int32_t* const table = args.tables + sequence * args.table_stride;
  const Span span = SpanOf(args, blockIdx.x, args.lengths[sequence]);
  const int begin = span.begin / kBlockTokens * kBlockTokens;
  const int tiles = span.end > span.begin ? (span.end - begin - 1) / Tile::kTileTokens + 1 : 0;
  const auto fetch = [&](int tile, std::byte* stage) {
    if (tile < tiles) {
      FetchCodes<Code, kHeadDim>(args.kv, table, begin + tile * Tile::kTileTokens, span.end,
                                 kv_head, stage);
    }
    simt::CopyAsyncCommit();
  };
#pragma unroll
  for (int i = 0; i < Tile::kStages - 1; ++i) fetch(i, ring + i * Tile::kStageBytes);

  CodeQueries<Code, kHeadDim> queries;
  const uint16_t* const q =
      static_cast<const uint16_t*>(args.q) + (sequence * args.heads + kv_head * group) * kHeadDim;
  if (args.type == NumberType::kF16) {
    LoadQueries<Half>(q, group, queries);
  } else {
    LoadQueries<Bfloat16>(q, group, queries);
  }
  // Of the exponent; with a softcap, of 2^x in tanh = 1 - 2 / (1 + 2^x).
  const float of_scores = args.scale * kLog2E * (kSoftcap ? 2 / args.softcap : 1);
  const float multiplier[2] = {queries.unit[0] * of_scores, queries.unit[1] * of_scores};
  CodeState<Code, kHeadDim> state = {{}, {}, {}, {-INFINITY, -INFINITY}};
  const int step = threadIdx.x / kWarpThreads * Tile::kWarpTokens;
  int landing = 0, free = (Tile::kStages - 1) * Tile::kStageBytes;  // stages of the ring
  const auto attend = [&](int tile, auto inside) {
    simt::CopyAsyncWait<Tile::kStages - 2>();
    __syncthreads();  // the tile has landed for all, and all are done with the stage to fill next
    fetch(tile + Tile::kStages - 1, ring + free);
    AttendCodes<Code, kHeadDim, kSoftcap>(args, queries, multiplier, ring + landing, step, inside,
                                          state);
    free = landing;
    landing += Tile::kStageBytes;
    if (landing == Tile::kStages * Tile::kStageBytes) landing = 0;
  };
  const int whole_from = begin < span.begin ? 1 : 0;
  const int whole_to = (span.end - begin) / Tile::kTileTokens;
  for (int tile = 0; tile < tiles; ++tile) {
    for (; tile >= whole_from && tile < whole_to; ++tile) {
      attend(tile, [](int) { return true; });
    }
    if (tile == tiles) break;
    const int first = begin + tile * Tile::kTileTokens + step - span.begin;
    attend(tile, [&](int token) {
      return static_cast<uint32_t>(first + token) < static_cast<uint32_t>(span.end - span.begin);
    });
  }
  simt::CopyAsyncWait<0>();
  __syncthreads();
  float* const states = reinterpret_cast<float*>(raw);
  KeepState<Code, kHeadDim, kSoftcap>(multiplier, state, states);
  __syncthreads();
  if (args.type == NumberType::kF16) {
    MergeWarps<Half, kHeadDim, Tile::kStateRow>(args, states);
  } else {
    MergeWarps<Bfloat16, kHeadDim, Tile::kStateRow>(args, states);
  }
}

template <class Code, int kHeadDim>
CudaError LaunchCodes(const DecodeAttentionArgs& args, CudaStream stream) {
  const LaunchShape shape{
      .grid = {static_cast<uint32_t>(args.splits), static_cast<uint32_t>(args.kv_heads),
               static_cast<uint32_t>(args.sequences)},
      .block = {kDecodeThreads},
      .shared_bytes = CodeTiles<Code, kHeadDim>::kSharedBytes};
  return simt::Launch(
      args.softcap > 0 ? DecodeCodes<Code, kHeadDim, true> : DecodeCodes<Code, kHeadDim, false>,
      shape, stream, args);
}

/// The instantiations of one code, which fill a file.
template <class Code>
CudaError LaunchCodesOfHeadDim(const DecodeAttentionArgs& args, CudaStream stream) {
  switch (args.head_dim) {
    case 64:
      return LaunchCodes<Code, 64>(args, stream);
    case 80:
      return LaunchCodes<Code, 80>(args, stream);
    case 96:
      return LaunchCodes<Code, 96>(args, stream);
    case 128:
      return LaunchCodes<Code, 128>(args, stream);
    case 256:
      return LaunchCodes<Code, 256>(args, stream);
  }
  return LaunchCodesByRows(args, stream);
}

}  // namespace
}  // namespace thermocline
