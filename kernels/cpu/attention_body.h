// Paged causal attention. Tokens come in groups of 64, one step of the online softmax each (Milakov
// and Gimelshein, arXiv:1805.02867), inside spans of 256 with a softmax state of their own; both
// begin at multiples of 64 and 256 whatever the query, and spans merge in ascending order. Prefill
// walks the spans of a tile of queries, decode hands them to threads and merges afterwards: the
// same operations in the same order, so the same bits.
//   Masked tokens of a group count as 0 * V; adding +0 at the end removes the sign that such
// products may leave on a zero. Rows beyond the last token are never multiplied at all.
#pragma once

namespace thermocline::TC_CPU_FORM {

/// A softmax state of one query head, in floats: [0] the maximum, [16..31] the sum of
/// exponentials by lane, [32..] the accumulated values, head_dim rounded up to 16.
struct State {
  float* data;
  float& maximum() const { return data[0]; }
  float* sum() const { return data + 16; }
  float* values() const { return data + 32; }
};

inline int PadTo16(int n) { return (n + 15) & ~15; }

inline void Clear(State state, int width) {
  state.maximum() = -__builtin_inff();
  for (int i = 0; i < 16 + width; i += 16) Store(state.sum() + i, Zero());
}

inline void Merge(State total, State span, int width) {
  const float maximum = Greatest(total.maximum(), span.maximum());
  const Lanes a = Exp(Set1(total.maximum() - maximum)), b = Exp(Set1(span.maximum() - maximum));
  total.maximum() = maximum;
  for (int i = 0; i < 16 + width; i += 16) {  // sum and values lie side by side
    float* to = total.sum() + i;
    Store(to, Fma(Load(to), a, Mul(Load(span.sum() + i), b)));
  }
}

inline void Copy(State to, State from, int width) {
  to.maximum() = from.maximum();
  for (int i = 0; i < 16 + width; i += 16) Store(to.sum() + i, Load(from.sum() + i));
}

inline void WriteOutput(State state, int head_dim, float* out) {
  const Lanes inverse = Set1(1.0f / SumOfLanes(Load(state.sum())));
  for (int d = 0; d < head_dim; d += 16) {
    const Lanes o = Add(Mul(Load(state.values() + d), inverse), Zero());
    StorePart(out + d, o, Least(16, head_dim - d));
  }
}

/// The work of one call: queries of one KV head, rows ordered by position, then head.
struct Queries {
  int kv_head;
  int group_heads;     // query heads of the KV head
  int first_position;  // of row 0
  int rows;
  int width;      // head_dim, padded to 16
  float* q;       // [rows][head_dim], scaled
  float* keys;    // [head_dim][64]
  float* values;  // [64][width]
  float* scores;  // [kAttentionRows][64]
  float* states;  // [rows][32 + width]
  float* totals;  // the same

  State state(int row) const { return {states + row * (32 + width)}; }
  State total(int row) const { return {totals + row * (32 + width)}; }
};

inline Queries Begin(const AttentionArgs& args, int kv_head, int first, int end, float* scratch) {
  Queries w;
  w.kv_head = kv_head;
  w.group_heads = args.heads / args.kv_heads;
  w.first_position = first;
  w.rows = (end - first) * w.group_heads;
  w.width = PadTo16(args.head_dim);
  w.scores = scratch;
  w.keys = w.scores + 8 * kGroupTokens;
  w.values = w.keys + args.head_dim * kGroupTokens;
  w.q = w.values + w.width * kGroupTokens;
  w.states = w.q + static_cast<size_t>(w.rows) * args.head_dim;
  w.totals = w.states + static_cast<size_t>(w.rows) * (32 + w.width);
  const Lanes scale = Set1(1.0f / __builtin_sqrtf(static_cast<float>(args.head_dim)));
  for (int r = 0; r < w.rows; ++r) {
    const int head = kv_head * w.group_heads + r % w.group_heads;
    const float* from = args.q + (first - args.position + r / w.group_heads) * args.q_stride +
                        static_cast<size_t>(head) * args.head_dim;
    for (int d = 0; d < args.head_dim; d += 16) {
      const int count = Least(16, args.head_dim - d);
      StorePart(w.q + static_cast<size_t>(r) * args.head_dim + d,
                Mul(LoadPart(from + d, count), scale), count);
    }
  }
  return w;
}

/// Up to 16 elements of a KV row, as floats.
inline Lanes LoadKv(const std::byte* row, bool half, int first, int count) {
  if (count >= 16)
    return half ? LoadHalf(row + 2 * first) : Load(reinterpret_cast<const float*>(row) + first);
  return half ? LoadHalfPart(row + 2 * first, count)
              : LoadPart(reinterpret_cast<const float*>(row) + first, count);
}

/// The 16 rows of K of one block, transposed: out[d * 64 + token].
template <bool kHalf>
inline void LoadKeys(const std::byte* keys, int head_dim, float* out) {
  const size_t row_bytes = static_cast<size_t>(head_dim) * (kHalf ? 2 : 4);
  for (int d = 0; d < head_dim; d += 16) {
    const int count = Least(16, head_dim - d);
    Lanes rows[16];
    TC_UNROLL
    for (int t = 0; t < 16; ++t) rows[t] = LoadKv(keys + t * row_bytes, kHalf, d, count);
    if (count == 16) {
      StoreTransposed(rows, out + d * kGroupTokens, kGroupTokens);
      continue;
    }
    float square[16 * 16];
    StoreTransposed(rows, square, 16);
    for (int i = 0; i < count; ++i) {
      Store(out + (d + i) * kGroupTokens, Load(square + 16 * i));
    }
  }
}

/// One step of the online softmax: scores of tokens 0 .. last of the group become exponentials,
/// the others 0, and the state is rescaled to the new maximum.
inline void SoftmaxStep(float* scores, int last, State state, int width) {
  for (int t = last + 1; t < kGroupTokens; ++t) scores[t] = -__builtin_inff();
  Lanes e[4];
  TC_UNROLL
  for (int j = 0; j < 4; ++j) e[j] = Load(scores + 16 * j);
  const float maximum =
      Greatest(state.maximum(), MaxOfLanes(Max(Max(e[0], e[1]), Max(e[2], e[3]))));
  const Lanes rescale = Exp(Set1(state.maximum() - maximum)), negated = Set1(-maximum);
  Lanes sum = Mul(Load(state.sum()), rescale);
  TC_UNROLL
  for (int j = 0; j < 4; ++j) {
    e[j] = Exp(Add(e[j], negated));
    sum = Add(sum, e[j]);
    Store(scores + 16 * j, e[j]);
  }
  state.maximum() = maximum;
  Store(state.sum(), sum);
  for (int d = 0; d < width; d += 16) {
    Store(state.values() + d, Mul(Load(state.values() + d), rescale));
  }
}

/// values += scores[rows][tokens] * v[tokens][width]
inline void AccumulateValues(const float* scores, int rows, const float* v, size_t v_stride,
                             int tokens, State first, int width) {
  constexpr int kStep = 16 * kAttentionVectors;
  const size_t stride = 32 + width;
  int d = 0;
  for (; d + kStep <= width; d += kStep) {
    TileRows<kAttentionRows, kAttentionVectors, true>(scores, kGroupTokens, rows, v + d, v_stride,
                                                      tokens, first.values() + d, stride);
  }
  for (; d < width; d += 16) {
    TileRows<kAttentionRows, 1, true>(scores, kGroupTokens, rows, v + d, v_stride, tokens,
                                      first.values() + d, stride);
  }
}

/// Fetches the KV head's rows of the group that begins at `token`: a span is a list of short runs.
inline void PrefetchGroup(const AttentionArgs& args, int kv_head, int token) {
  const int end = Least(token + kGroupTokens, args.position + args.rows);
  for (; token < end; token += 16) {
    const std::byte* block = args.blocks[token / 16];
    const size_t head = kv_head * args.head_bytes;
    for (size_t i = 0; i < args.head_bytes; i += 64) {
      __builtin_prefetch(block + args.keys_offset + head + i, 0, 2);
      __builtin_prefetch(block + args.values_offset + head + i, 0, 2);
    }
  }
}

inline void AttendGroup(const AttentionArgs& args, const Queries& w, int group) {
  const int first_token = group * kGroupTokens, dim = args.head_dim;
  const int have = Least(kGroupTokens, args.position + args.rows - first_token);
  const int block_count = (have + 15) / 16;
  // Few queries read V where it lies; many first bring it to floats, close together.
  const bool in_place = !args.half && w.rows <= 2 * kAttentionRows && dim % 16 == 0;
  const float* values[kGroupTokens / 16];
  for (int b = 0; b < block_count; ++b) {
    const std::byte* head = args.blocks[first_token / 16 + b] + w.kv_head * args.head_bytes;
    const std::byte* k = head + args.keys_offset;
    args.half ? LoadKeys<true>(k, dim, w.keys + 16 * b) : LoadKeys<false>(k, dim, w.keys + 16 * b);
    const std::byte* v = head + args.values_offset;
    values[b] = reinterpret_cast<const float*>(v);
    if (in_place) continue;
    for (int t = 16 * b; t < Least(16 * b + 16, have); ++t, v += dim * (args.half ? 2 : 4)) {
      for (int d = 0; d < w.width; d += 16) {
        Store(w.values + t * w.width + d, LoadKv(v, args.half, d, dim - d));
      }
    }
  }
  for (int r0 = 0; r0 < w.rows; r0 += kAttentionRows) {
    const int rows = Least(kAttentionRows, w.rows - r0);
    for (int t = 0; t < kGroupTokens; t += 16 * kAttentionVectors) {
      TileRows<kAttentionRows, kAttentionVectors, false>(w.q + static_cast<size_t>(r0) * dim, dim,
                                                         rows, w.keys + t, kGroupTokens, dim,
                                                         w.scores + t, kGroupTokens);
    }
    for (int i = 0; i < rows; ++i) {
      const int last = w.first_position + (r0 + i) / w.group_heads - first_token;
      SoftmaxStep(w.scores + i * kGroupTokens, last, w.state(r0 + i), w.width);
    }
    if (!in_place) {
      AccumulateValues(w.scores, rows, w.values, w.width, have, w.state(r0), w.width);
      continue;
    }
    for (int b = 0; b < block_count; ++b) {
      AccumulateValues(w.scores + 16 * b, rows, values[b], dim, Least(16, have - 16 * b),
                       w.state(r0), w.width);
    }
  }
}

/// Fills the rows' states with one span, up to the group that holds the queries.
inline void AttendOneSpan(const AttentionArgs& args, const Queries& w, int span) {
  constexpr int kGroups = kSpanTokens / kGroupTokens;
  const int last_group = Least(w.first_position / kGroupTokens, (span + 1) * kGroups - 1);
  for (int r = 0; r < w.rows; ++r) Clear(w.state(r), w.width);
  for (int group = span * kGroups; group <= last_group; ++group) {
    if (group < last_group) PrefetchGroup(args, w.kv_head, (group + 1) * kGroupTokens);
    AttendGroup(args, w, group);
  }
}

void AttendTile(const AttentionArgs& args, int tile, int kv_head, float* scratch) {
  const int group = args.position / kGroupTokens + tile;
  const int first = Greatest(args.position, group * kGroupTokens);
  const int end = Least(args.position + args.rows, (group + 1) * kGroupTokens);
  const Queries w = Begin(args, kv_head, first, end, scratch);
  for (int span = 0; span <= first / kSpanTokens; ++span) {
    AttendOneSpan(args, w, span);
    for (int r = 0; r < w.rows; ++r) {
      span == 0 ? Copy(w.total(r), w.state(r), w.width) : Merge(w.total(r), w.state(r), w.width);
    }
  }
  for (int r = 0; r < w.rows; ++r) {
    const int head = kv_head * w.group_heads + r % w.group_heads;
    float* out = args.out + (first - args.position + r / w.group_heads) * args.out_stride;
    WriteOutput(w.total(r), args.head_dim, out + static_cast<size_t>(head) * args.head_dim);
  }
}

void AttendSpan(const AttentionArgs& args, int span, int kv_head, float* partial, float* scratch) {
  Queries w = Begin(args, kv_head, args.position, args.position + 1, scratch);
  w.states = partial;
  AttendOneSpan(args, w, span);
}

void MergeSpans(const float* partial, size_t stride, int spans, int head_dim, float* out,
                float* scratch) {
  const int width = PadTo16(head_dim);
  const State total{scratch};
  for (int span = 0; span < spans; ++span) {
    const State state{const_cast<float*>(partial) + span * stride};
    span == 0 ? Copy(total, state, width) : Merge(total, state, width);
  }
  WriteOutput(total, head_dim, out);
}

}  // namespace thermocline::TC_CPU_FORM
