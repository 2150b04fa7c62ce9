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

/// Fetches a part of what is needed next. A span is a list of runs too short for the hardware to
/// see them coming; a whole run fetched at once holds up the loads between.
inline void Fetch(const std::byte* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

/// The 16 rows of K of one block, transposed: out[d * 64 + token]. Fetches as much at `next`.
template <bool kHalf>
inline void LoadKeys(const std::byte* keys, int head_dim, float* out, const std::byte* next) {
  constexpr size_t kBytes = kHalf ? 2 : 4;
  const size_t row_bytes = head_dim * kBytes;
  for (int d = 0; d < head_dim; d += 16) {
    const int count = Least(16, head_dim - d);
    if (next != nullptr) Fetch(next + 16 * d * kBytes, 16 * count * kBytes);
    if (kHalf && count == 16) {
      StoreTransposedHalves(reinterpret_cast<const char*>(keys) + 2 * d, row_bytes,
                            out + d * kGroupTokens, kGroupTokens);
      continue;
    }
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
  const Lanes negated = Set1(-maximum);
  Lanes sum = Load(state.sum());
  if (maximum != state.maximum()) {  // else the factor is 1
    const Lanes rescale = Exp(Set1(state.maximum() - maximum));
    sum = Mul(sum, rescale);
    for (int d = 0; d < width; d += 16) {
      Store(state.values() + d, Mul(Load(state.values() + d), rescale));
    }
    state.maximum() = maximum;
  }
  TC_UNROLL
  for (int j = 0; j < 4; ++j) {
    e[j] = Exp(Add(e[j], negated));
    sum = Add(sum, e[j]);
    Store(scores + 16 * j, e[j]);
  }
  Store(state.sum(), sum);
}

/// values += scores[rows][tokens] * v[tokens][width]. Fetches 16 rows at `next`.
template <class W>
inline void AccumulateValues(const float* scores, int rows, const W* v, size_t v_stride, int tokens,
                             State first, int width, const W* next) {
  constexpr int kStep = 16 * kAttentionVectors;
  const size_t stride = 32 + width;
  int d = 0;
  for (; d + kStep <= width; d += kStep) {
    if (next != nullptr) {
      Fetch(reinterpret_cast<const std::byte*>(next + 16 * d), 16 * kStep * sizeof(W));
    }
    TileRows<kAttentionRows, kAttentionVectors, true>(scores, kGroupTokens, rows, v + d, v_stride,
                                                      tokens, first.values() + d, stride);
  }
  for (; d < width; d += 16) {
    TileRows<kAttentionRows, 1, true>(scores, kGroupTokens, rows, v + d, v_stride, tokens,
                                      first.values() + d, stride);
  }
}

/// The exponentials of the scores of rows r0 .. with the `have` tokens whose K is in w.keys, the
/// first of them first_token.
inline void ScoreRows(const Queries& w, int r0, int rows, int first_token, int have, int dim) {
  for (int t = 0; t < have; t += 16 * kAttentionVectors) {
    TileRows<kAttentionRows, kAttentionVectors, false>(w.q + static_cast<size_t>(r0) * dim, dim,
                                                       rows, w.keys + t, kGroupTokens, dim,
                                                       w.scores + t, kGroupTokens);
  }
  for (int i = 0; i < rows; ++i) {
    const int last = w.first_position + (r0 + i) / w.group_heads - first_token;
    SoftmaxStep(w.scores + i * kGroupTokens, last, w.state(r0 + i), w.width);
  }
}

/// The 16 rows at `offset` of one KV head in the block of `token`; null beyond the last token.
inline const std::byte* HeadOf(const AttentionArgs& args, size_t offset, int kv_head, int token) {
  if (token >= args.position + args.rows) return nullptr;
  return args.blocks[token / 16] + offset + kv_head * args.head_bytes;
}

/// Few queries (decode) read V where it lies.
template <class W>
inline void AttendGroupOfFew(const AttentionArgs& args, const Queries& w, int first, int have) {
  ScoreRows(w, 0, w.rows, first, have, args.head_dim);
  for (int t = 0; t < have; t += 16) {
    const auto rows_at = [&](int token) {
      return reinterpret_cast<const W*>(HeadOf(args, args.values_offset, w.kv_head, token));
    };
    AccumulateValues(w.scores + t, w.rows, rows_at(first + t), args.head_dim, Least(16, have - t),
                     w.state(0), w.width, rows_at(first + t + kGroupTokens));
  }
}

/// Many queries (prefill) first bring V to floats, close together.
inline void AttendGroupOfMany(const AttentionArgs& args, const Queries& w, int first, int have) {
  const int dim = args.head_dim;
  const size_t row_bytes = static_cast<size_t>(dim) * (args.half ? 2 : 4);
  for (int t = 0; t < have; ++t) {
    const size_t row = t % 16 * row_bytes;
    const std::byte* v = HeadOf(args, args.values_offset, w.kv_head, first + t) + row;
    const std::byte* next = HeadOf(args, args.values_offset, w.kv_head, first + t + kGroupTokens);
    if (next != nullptr) Fetch(next + row, row_bytes);
    for (int d = 0; d < w.width; d += 16) {
      Store(w.values + t * w.width + d, LoadKv(v, args.half, d, dim - d));
    }
  }
  for (int r0 = 0; r0 < w.rows; r0 += kAttentionRows) {
    const int rows = Least(kAttentionRows, w.rows - r0);
    ScoreRows(w, r0, rows, first, have, dim);
    AccumulateValues<float>(w.scores, rows, w.values, w.width, have, w.state(r0), w.width, nullptr);
  }
}

inline void AttendGroup(const AttentionArgs& args, const Queries& w, int group) {
  const int first = group * kGroupTokens, dim = args.head_dim;
  const int have = Least(kGroupTokens, args.position + args.rows - first);
  for (int t = 0; t < have; t += 16) {
    const std::byte* keys = HeadOf(args, args.keys_offset, w.kv_head, first + t);
    const std::byte* next = HeadOf(args, args.keys_offset, w.kv_head, first + t + kGroupTokens);
    args.half ? LoadKeys<true>(keys, dim, w.keys + t, next)
              : LoadKeys<false>(keys, dim, w.keys + t, next);
  }
  if (w.rows > kAttentionRows || dim % 16 != 0) {
    AttendGroupOfMany(args, w, first, have);
  } else if (args.half) {
    AttendGroupOfFew<Half>(args, w, first, have);
  } else {
    AttendGroupOfFew<float>(args, w, first, have);
  }
}

/// Fills the rows' states with one span, up to the group that holds the queries.
inline void AttendOneSpan(const AttentionArgs& args, const Queries& w, int span) {
  constexpr int kGroups = kSpanTokens / kGroupTokens;
  const int last_group = Least(w.first_position / kGroupTokens, (span + 1) * kGroups - 1);
  for (int r = 0; r < w.rows; ++r) Clear(w.state(r), w.width);
  for (int group = span * kGroups; group <= last_group; ++group) {
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
