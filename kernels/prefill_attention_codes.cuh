// Tiles of codes for prefill attention (prefill_attention_tiles.cuh). They come as they are; before
// a tile is attended all threads make halves of it, once for its 128 rows of queries: keys of the
// codes alone, which halves hold exactly, so that a key's scale multiplies its score; values of the
// codes times their scales.
#pragma once
#include "kernels/prefill_attention_tiles.cuh"
#include "kernels/quant_codes.cuh"

namespace thermocline {
namespace {

template <class Code, int kHeadDim, int kTokens>
struct KvTiles {
  static constexpr int kGrain = kBlockTokens;  ///< scales come by eights
  static constexpr int kBlocks = 2;
  static constexpr int kStepTokens = kHeadDim == 128 ? 16 : 32;
  static constexpr int kTileNumbers = kTokens * kRowNumbers<kHeadDim>;
  static constexpr int kRowBytes = static_cast<int>(KvRowBytes(Code::kDtype, kHeadDim));
  // Behind the halves of keys and values: the scales of keys as floats, then what is fetched.
  static constexpr int kKeyScalesAt = 2 * kTileNumbers * sizeof(uint16_t);
  static constexpr int kCodesAt = kKeyScalesAt + kTokens * sizeof(float);
  static constexpr int kScalesAt = kCodesAt + 2 * kTokens * kRowBytes;
  static constexpr size_t kBytes = kScalesAt + 2 * kTokens * sizeof(Half);

  __device__ __forceinline__ static void Fetch(const PrefillAttentionArgs& args,
                                               const int32_t* table, int first, int end,
                                               uint16_t* tile) {
    std::byte* const memory = reinterpret_cast<std::byte*>(tile);
    const PagedKv& kv = args.kv;
    constexpr int kChunks = kRowBytes / 16, kCopies = kTokens * kChunks;
    const int64_t to_values = kv.values_offset - kv.keys_offset;
    const std::byte* const keys = kv.pool + blockIdx.y * kv.head_stride + kv.keys_offset;
    const auto block_of = [&](int token) {
      return keys +
             table[static_cast<uint32_t>(min(token, end - 1)) / kBlockTokens] * kv.block_stride;
    };
#pragma unroll 2
    for (int at = threadIdx.x; at < kCopies; at += kThreads) {
      const int row = at / kChunks, token = first + row;
      const std::byte* const from =
          block_of(token) + row % kBlockTokens * kv.row_stride + 16 * (at % kChunks);
      std::byte* const to = memory + kCodesAt + 16 * at;
      simt::CopyAsync16(to, from, token < end);
      simt::CopyAsync16(to + kTokens * kRowBytes, from + to_values, token < end);
    }
    if (threadIdx.x < kTokens / 8) {  // scales, eight tokens' at once
      const int token = first + 8 * static_cast<int>(threadIdx.x);
      const std::byte* const from = block_of(token) + kv.scales_offset + threadIdx.x % 2 * 16;
      std::byte* const to = memory + kScalesAt + 16 * threadIdx.x;
      simt::CopyAsync16(to, from, token < end);
      simt::CopyAsync16(to + kTokens * sizeof(Half), from + to_values, token < end);
    }
  }

  /// Tokens that are not attended, of which codes and scales may be anything, become zeros.
  template <class T>
  __device__ __forceinline__ static void Make(uint16_t* keys, int begin, int end) {
    constexpr int kChunks = kHeadDim / 8;
    std::byte* const memory = reinterpret_cast<std::byte*>(keys);
    const Half* const scales = reinterpret_cast<const Half*>(memory + kScalesAt);
#pragma unroll 2
    for (int at = threadIdx.x; at < kTokens * kChunks; at += kThreads) {
      const int row = at / kChunks, chunk = at % kChunks;
      const bool attended = row >= begin && row < end;
      const std::byte* const codes = memory + kCodesAt + row * kRowBytes + 4 * kWords<Code> * chunk;
      float x[8];
      Decode8(codes, x);
      uint16_t* const to = keys + row * kRowNumbers<kHeadDim> + 8 * chunk;
      simt::Store16(to, simt::Pack8<T>(x));
      Decode8(codes + kTokens * kRowBytes, x);
      const float scale = ToFloat(scales[kTokens + row]);
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] = attended ? x[i] * scale : 0;
      simt::Store16(to + kTileNumbers, simt::Pack8<T>(x));
    }
    if (threadIdx.x < kTokens) {
      reinterpret_cast<float*>(memory + kKeyScalesAt)[threadIdx.x] = ToFloat(scales[threadIdx.x]);
    }
    __syncthreads();  // the halves are there for all, and the codes have been read
  }

  /// Halves have one place: they are made when those before have been attended.
  __device__ __forceinline__ static int TileAt(int) { return 0; }

  __device__ __forceinline__ static float Scaled(const uint16_t* keys, int token, float product) {
    const std::byte* const memory = reinterpret_cast<const std::byte*>(keys);
    return product * reinterpret_cast<const float*>(memory + kKeyScalesAt)[token];
  }

 private:
  __device__ __forceinline__ static void Decode8(const std::byte* codes, float (&x)[8]) {
    uint32_t words[kWords<Code>];
    if constexpr (kWords<Code> == 2) {
      const uint2 both = simt::Load8(codes);
      words[0] = both.x;
      words[1] = both.y;
    } else {
      words[0] = *reinterpret_cast<const uint32_t*>(codes);
    }
    Code::Decode8(words, x);
  }
};

}  // namespace
}  // namespace thermocline
