// Matrix products. A decoder turns one block of a panel into 32 columns of 16 weights; the same
// decoders feed the tile (prefill: unpack 16 or 32 outputs once, use them for every row) and the
// fused dot (decode: dequantise in registers), which is why both see the same weights to the bit.
// Rounding: one fused multiply-add, q * scale + minimum, for Q4_1 and Q5_1; one product for Q8_0,
// Q4_0 and Q5_0, whose codes are made signed integers first (exact). As engine/dequantize.h.
#pragma once

namespace thermocline::TC_CPU_FORM {

struct DecoderF32 {
  static constexpr int kBlockBytes = 32 * 64;
  const char* p;
  void OpenBlock(const char* block) { p = block; }
  void OpenGroup(int group) { p += group > 0 ? 8 * 64 : 0; }
  Lanes Column(int i) const { return Load(reinterpret_cast<const float*>(p) + 16 * i); }
};

struct DecoderF16 {
  static constexpr int kBlockBytes = 32 * 32;
  const char* p;
  void OpenBlock(const char* block) { p = block; }
  void OpenGroup(int group) { p += group > 0 ? 8 * 32 : 0; }
  Lanes Column(int i) const { return LoadHalf(p + 32 * i); }
};

struct DecoderBF16 {
  static constexpr int kBlockBytes = 32 * 32;
  const char* p;
  void OpenBlock(const char* block) { p = block; }
  void OpenGroup(int group) { p += group > 0 ? 8 * 32 : 0; }
  Lanes Column(int i) const { return BitCast(ShiftLeft(LoadUint16(p + 32 * i), 16)); }
};

struct DecoderQ8 {
  static constexpr int kBlockBytes = 32 + 32 * 16;
  const char* p;
  Lanes scale;
  void OpenBlock(const char* block) {
    scale = LoadHalf(block);
    p = block + 32;
  }
  void OpenGroup(int group) { p += group > 0 ? 8 * 16 : 0; }
  Lanes Column(int i) const { return Mul(LoadInt8(p + 16 * i), scale); }
};

/// Q4_0, Q4_1, Q5_0 and Q5_1.
template <bool kMinimum, bool kFifthBit>
struct DecoderNibbles {
  static constexpr int kScaleBytes = kMinimum ? 64 : 32;
  static constexpr int kCodesAt = kScaleBytes + (kFifthBit ? 64 : 0);
  static constexpr int kBlockBytes = kCodesAt + 256;
  // Two columns share one shift where shifts are dear: the odd one's code stays 16 times too large,
  // which a scale 16 times smaller makes good, exactly.
  static constexpr bool kPairs = kNibblesInPairs && !kFifthBit;
  const char* p;
  Lanes scale, scale_of_odd, minimum;
  IntLanes codes, fifth;
  void OpenBlock(const char* block) {
    p = block;
    scale = LoadHalf(block);
    scale_of_odd = kPairs ? Mul(scale, Set1(0.0625f)) : scale;
    if constexpr (kMinimum) minimum = LoadHalf(block + 32);
  }
  void OpenGroup(int group) {
    codes = LoadInts(p + kCodesAt + 64 * group);
    if constexpr (kFifthBit) fifth = ShiftRight(LoadInts(p + kScaleBytes), 8 * group);
  }
  Lanes Column(int i) const {
    const bool odd = kPairs && i % 2 == 1;
    Lanes q;
    if constexpr (kFifthBit) {
      q = ToFloat(
          Or(And(ShiftRight(codes, 4 * i), 15), ShiftLeft(And(ShiftRight(fifth, i), 1), 4)));
    } else if constexpr (kPairs) {
      q = ToFloat(And(ShiftRight(codes, i / 2 * 8), odd ? 0xf0 : 0x0f));
    } else {
      q = Nibble(codes, i);
    }
    const Lanes by = odd ? scale_of_odd : scale;
    if constexpr (kMinimum) return Fma(q, by, minimum);
    return Mul(Add(q, Set1(kFifthBit ? -16.0f : odd ? -128.0f : -8.0f)), by);
  }
};

/// Calls f with a decoder of the type's.
template <class F>
inline void WithDecoder(WeightType type, F f) {
  switch (type) {
    case WeightType::kF32:
      return f(DecoderF32());
    case WeightType::kF16:
      return f(DecoderF16());
    case WeightType::kBF16:
      return f(DecoderBF16());
    case WeightType::kQ8_0:
      return f(DecoderQ8());
    case WeightType::kQ4_0:
      return f(DecoderNibbles<false, false>());
    case WeightType::kQ4_1:
      return f(DecoderNibbles<true, false>());
    case WeightType::kQ5_0:
      return f(DecoderNibbles<false, true>());
    case WeightType::kQ5_1:
      return f(DecoderNibbles<true, true>());
  }
}

/// out[column * stride + 0..15]
inline void UnpackPanel(const Panel& panel, int block_count, float* out, size_t stride) {
  WithDecoder(panel.type, [&](auto decoder) {
    const char* block = reinterpret_cast<const char*>(panel.data);
    for (int b = 0; b < block_count; ++b, block += decoder.kBlockBytes) {
      decoder.OpenBlock(block);
      for (int group = 0; group < 4; ++group) {
        decoder.OpenGroup(group);
        TC_UNROLL
        for (int i = 0; i < 8; ++i, out += stride) Store(out, decoder.Column(i));
      }
    }
  });
}

inline Lanes LoadAs(const float* p) { return Load(p); }
inline Lanes LoadAs(const Half* p) { return LoadHalf(p); }

/// The register tile: y[kRows][16 kVectors] (+)= x[kRows][k] * w[k][16 kVectors], each output one
/// chain over ascending k. W: float or Half.
template <int kRows, int kVectors, bool kAccumulate, class W>
inline void Tile(const float* x, size_t x_stride, const W* w, size_t w_stride, int k, float* y,
                 size_t y_stride) {
  Lanes sum[kRows][kVectors];
  TC_UNROLL
  for (int i = 0; i < kRows; ++i) {
    TC_UNROLL
    for (int j = 0; j < kVectors; ++j) {
      sum[i][j] = kAccumulate ? Load(y + i * y_stride + 16 * j) : Zero();
    }
  }
  for (int t = 0; t < k; ++t, w += w_stride) {
    Lanes column[kVectors];
    TC_UNROLL
    for (int j = 0; j < kVectors; ++j) column[j] = LoadAs(w + 16 * j);
    TC_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const Lanes xi = Set1(x[i * x_stride + t]);
      TC_UNROLL
      for (int j = 0; j < kVectors; ++j) sum[i][j] = Fma(xi, column[j], sum[i][j]);
    }
  }
  TC_UNROLL
  for (int i = 0; i < kRows; ++i) {
    TC_UNROLL
    for (int j = 0; j < kVectors; ++j) Store(y + i * y_stride + 16 * j, sum[i][j]);
  }
}

/// Tiles of kRows rows, then of 3, then of 1.
template <int kRows, int kVectors, bool kAccumulate, class W>
inline void TileRows(const float* x, size_t x_stride, int rows, const W* w, size_t w_stride, int k,
                     float* y, size_t y_stride) {
  int r = 0;
  for (; r + kRows <= rows; r += kRows) {
    Tile<kRows, kVectors, kAccumulate>(x + r * x_stride, x_stride, w, w_stride, k, y + r * y_stride,
                                       y_stride);
  }
  for (; r + 3 <= rows; r += 3) {
    Tile<3, kVectors, kAccumulate>(x + r * x_stride, x_stride, w, w_stride, k, y + r * y_stride,
                                   y_stride);
  }
  for (; r < rows; ++r) {
    Tile<1, kVectors, kAccumulate>(x + r * x_stride, x_stride, w, w_stride, k, y + r * y_stride,
                                   y_stride);
  }
}

/// Takes `panels` x 16 fresh outputs of one row, from panel `first` on, to where they belong.
inline void Finish(const MatmulArgs& args, int row, int first, int panels, const float* fresh) {
  float* y = args.y + row * args.y_stride;
  switch (args.epilogue) {
    case Epilogue::kStore:
      for (int j = 0; j < panels; ++j) {
        const int column = 16 * (first + j), valid = args.output_columns - column;
        if (valid >= 16) {
          Store(y + column, Load(fresh + 16 * j));
        } else if (valid > 0) {
          StorePart(y + column, Load(fresh + 16 * j), valid);
        }
      }
      return;
    case Epilogue::kAdd:
      for (int j = 0; j < panels; ++j) {
        float* to = y + 16 * (first + j);
        Store(to, Add(Load(to), Load(fresh + 16 * j)));
      }
      return;
    case Epilogue::kSwiGlu:
      for (int j = 0; j < panels; j += 2) {
        const Lanes gate = Load(fresh + 16 * j), up = Load(fresh + 16 * j + 16);
        const Lanes silu = Div(gate, Add(Set1(1.0f), Exp(Mul(gate, Set1(-1.0f)))));
        Store(y + 8 * (first + j), Mul(silu, up));
      }
      return;
  }
}

void MatmulTile(const MatmulArgs& args, int first, int count, float* scratch) {
  constexpr int kMaxPanels = 2;
  const int k = 32 * args.block_count;
  // Panels that share a register tile lie interleaved, others one after the other.
  const bool together = kMatmulPanels == kMaxPanels && count == kMaxPanels;
  const size_t stride = together ? 32 : 16, next = together ? 16 : 16 * static_cast<size_t>(k);
  for (int j = 0; j < count; ++j) {
    UnpackPanel(args.panels[first + j], args.block_count, scratch + j * next, stride);
  }
  float fresh[kMatmulRows * 16 * kMaxPanels];
  const size_t fresh_stride = 16 * static_cast<size_t>(count);
  for (int r = 0; r < args.rows; r += kMatmulRows) {
    const int rows = Least(kMatmulRows, args.rows - r);
    const float* x = args.x + r * args.x_stride;
    if (together) {
      TileRows<kMatmulRows, kMaxPanels, false>(x, args.x_stride, rows, scratch, stride, k, fresh,
                                               fresh_stride);
    } else {
      for (int j = 0; j < count; ++j) {
        TileRows<kMatmulRows, 1, false>(x, args.x_stride, rows, scratch + j * next, stride, k,
                                        fresh + 16 * j, fresh_stride);
      }
    }
    for (int i = 0; i < rows; ++i) Finish(args, r + i, first, count, fresh + i * fresh_stride);
  }
}

/// y[kPanels][16] = panels * x. The next kPanels panels are fetched meanwhile: streams this short
/// defeat the hardware's prefetcher.
template <int kPanels, class Decoder>
inline void FusedDot(Decoder, const Panel* panels, int block_count, const float* x, float* y) {
  constexpr int kBytes = Decoder::kBlockBytes;
  const size_t ahead = static_cast<size_t>(kPanels) * kBytes * block_count;
  Decoder decoder[kPanels];
  Lanes sum[kPanels];
  const char* p[kPanels];
  TC_UNROLL
  for (int j = 0; j < kPanels; ++j) {
    sum[j] = Zero();
    p[j] = reinterpret_cast<const char*>(panels[j].data);
  }
  for (int b = 0; b < block_count; ++b) {
    TC_UNROLL
    for (int j = 0; j < kPanels; ++j) {
      for (int i = 0; i < kBytes; i += 64) __builtin_prefetch(p[j] + ahead + i);
      decoder[j].OpenBlock(p[j]);
      p[j] += kBytes;
    }
    for (int group = 0; group < 4; ++group, x += 8) {
      TC_UNROLL
      for (int j = 0; j < kPanels; ++j) decoder[j].OpenGroup(group);
      TC_UNROLL
      for (int i = 0; i < 8; ++i) {
        const Lanes xi = Set1(x[i]);
        TC_UNROLL
        for (int j = 0; j < kPanels; ++j) sum[j] = Fma(xi, decoder[j].Column(i), sum[j]);
      }
    }
  }
  TC_UNROLL
  for (int j = 0; j < kPanels; ++j) Store(y + 16 * j, sum[j]);
}

void MatmulFused(const MatmulArgs& args, int first, int count) {
  constexpr int kMaxPanels = 2 * kFusedPanels;  // even: SwiGLU needs its pairs together
  float fresh[16 * kMaxPanels];
  for (const int end = first + count; first < end;) {
    const int taken = Least(kMaxPanels, end - first);
    for (int row = 0; row < args.rows; ++row) {
      const float* x = args.x + row * args.x_stride;
      for (int j = 0; j < taken;) {
        const Panel* panels = args.panels + first + j;
        int same = 1;
        while (j + same < taken && same < kFusedPanels && panels[same].type == panels->type) ++same;
        const int at_once = same == kFusedPanels ? kFusedPanels : same >= 2 ? 2 : 1;
        float* out = fresh + 16 * j;
        WithDecoder(panels->type, [&](auto decoder) {
          if (at_once == kFusedPanels) {
            FusedDot<kFusedPanels>(decoder, panels, args.block_count, x, out);
          } else if (at_once == 2) {
            FusedDot<2>(decoder, panels, args.block_count, x, out);
          } else {
            FusedDot<1>(decoder, panels, args.block_count, x, out);
          }
        });
        j += at_once;
      }
      Finish(args, row, first, taken, fresh);
    }
    first += taken;
  }
}

}  // namespace thermocline::TC_CPU_FORM
