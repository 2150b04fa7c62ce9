// Sequences with paged KV in emulated device memory, and attention over them in float64.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/kv_geometry.h"
#include "kernels/paged_kv.h"
#include "tests/kernels/simt/oracle.h"

namespace thermocline {

struct AttentionCase {
  std::vector<int> lengths;
  int kv_heads = 1;
  int group = 1;
  int head_dim = 64;
  int splits = 1;
  int window = 0;
  float softcap = 0;
  bool heads_first = true;  ///< HND as KvGeometry has it, else NHD

  int heads() const { return kv_heads * group; }
  int sequences() const { return static_cast<int>(lengths.size()); }
  int longest() const { return *std::max_element(lengths.begin(), lengths.end()); }
  double scale() const { return 1 / std::sqrt(static_cast<double>(head_dim)); }
};

/// One query at `position` over tokens [0, position], in float64; number(half, token, d) is of its
/// KV head.
template <class T, class Number>
void AttendExactly(const AttentionCase& c, const T* query, int position, Number number,
                   double* out) {
  const int first = c.window > 0 ? std::max(0, position + 1 - c.window) : 0;
  std::vector<double> weights;
  double largest = -std::numeric_limits<double>::infinity();
  for (int token = first; token <= position; ++token) {
    double score = 0;
    for (int d = 0; d < c.head_dim; ++d) {
      score += double{ToFloat(query[d])} * number(KvHalf::kKeys, token, d);
    }
    score *= c.scale();
    if (c.softcap > 0) score = c.softcap * std::tanh(score / c.softcap);
    weights.push_back(score);
    largest = std::max(largest, score);
  }
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - largest);
  std::fill(out, out + c.head_dim, 0.0);
  for (int token = first; token <= position; ++token) {
    for (int d = 0; d < c.head_dim; ++d) {
      out[d] += weights[token - first] / sum * number(KvHalf::kValues, token, d);
    }
  }
}

/// Which blocks each sequence has, [sequences][stride]: handed out in a random order. All that no
/// token uses is an id far out of range.
struct BlockTables {
  BlockTables(const AttentionCase& c, RandomInputs& random)
      : stride(static_cast<int>(BlocksOf(c.longest())) + 1) {
    for (const int length : c.lengths) blocks += BlocksOf(length);
    std::vector<int> free(blocks);
    std::iota(free.begin(), free.end(), 0);
    for (size_t i = free.size() - 1; i > 0; --i) {
      std::swap(free[i], free[random.Bits() % (i + 1)]);
    }
    ids.assign(static_cast<size_t>(c.sequences()) * stride, 1 << 28);
    size_t next = 0;
    for (int s = 0; s < c.sequences(); ++s) {
      for (size_t b = 0; b < BlocksOf(c.lengths[s]); ++b) ids[s * stride + b] = free[next++];
    }
  }

  int stride;
  size_t blocks = 2;  // of the pool: two that nobody has
  std::vector<int32_t> ids;
};

/// All that no token uses is poison: NaN in the pool.
template <class T>
class PagedSequences {
 public:
  using Stored = T;
  PagedSequences(const AttentionCase& c, uint64_t salt)
      : case_(c), random_(salt), tables_(c, random_) {
    geometry_ = {
        .layers = 2, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .dtype = KvDtype::kF16};
    pool_numbers_ = tables_.blocks * geometry_.block_bytes() / sizeof(T);
    pool_.assign(pool_numbers_, T{0xffff});
    for (int s = 0; s < c.sequences(); ++s) {
      for (int token = 0; token < c.lengths[s]; ++token) FillToken(s, token);
    }
  }

  const KvGeometry& geometry() const { return geometry_; }
  const std::vector<T>& pool() const { return pool_; }
  const std::vector<int32_t>& tables() const { return tables_.ids; }
  int table_stride() const { return tables_.stride; }
  RandomInputs& random() { return random_; }

  PagedKv View(T* pool) const {
    const auto row = static_cast<int64_t>(geometry_.row_bytes());
    return {.pool = reinterpret_cast<std::byte*>(pool),
            .block_stride = static_cast<int64_t>(geometry_.block_bytes()),
            .keys_offset = static_cast<int64_t>(geometry_.head_offset(1, KvHalf::kKeys, 0)),
            .values_offset = static_cast<int64_t>(geometry_.head_offset(1, KvHalf::kValues, 0)),
            .head_stride = case_.heads_first ? kBlockTokens * row : row,
            .row_stride = case_.heads_first ? row : case_.kv_heads * row};
  }

  /// Number 0 of a token's row in the pool.
  size_t RowOf(int sequence, int token, int kv_head, KvHalf half) const {
    const PagedKv view = View(nullptr);
    const int64_t bytes =
        tables_.ids[sequence * tables_.stride + token / kBlockTokens] * view.block_stride +
        (half == KvHalf::kKeys ? view.keys_offset : view.values_offset) +
        kv_head * view.head_stride + token % kBlockTokens * view.row_stride;
    return static_cast<size_t>(bytes) / sizeof(T);
  }

  /// One query at `position` over tokens [0, position], in float64.
  void Attend(const T* query, int sequence, int position, int kv_head, double* out) const {
    const auto number = [&](KvHalf half, int token, int d) {
      return double{ToFloat(pool_[RowOf(sequence, token, kv_head, half) + d])};
    };
    AttendExactly(case_, query, position, number, out);
  }

 private:
  void FillToken(int sequence, int token) {
    for (int head = 0; head < case_.kv_heads; ++head) {
      for (const KvHalf half : {KvHalf::kKeys, KvHalf::kValues}) {
        T* const row = pool_.data() + RowOf(sequence, token, head, half);
        for (int d = 0; d < case_.head_dim; ++d) row[d] = FromFloat<T>(2 * random_.Float());
      }
    }
  }

  AttentionCase case_;
  RandomInputs random_;
  BlockTables tables_;
  KvGeometry geometry_;
  size_t pool_numbers_ = 0;
  std::vector<T> pool_;
};

/// The weights of the softmax are rounded to T on the way to the tensor cores: the error of many
/// such roundings, as a part of the whole.
template <class T>
void ExpectAttentionClose(const std::vector<T>& actual, const std::vector<double>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  double error = 0, size = 0, largest = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double difference = double{ToFloat(actual[i])} - expected[i];
    ASSERT_TRUE(std::isfinite(difference)) << "at " << i;
    error += difference * difference;
    size += expected[i] * expected[i];
    largest = std::max(largest, std::fabs(difference));
  }
  EXPECT_LE(std::sqrt(error / size), kRounding<T>) << "largest error " << largest;
  EXPECT_LE(largest, 8 * kRounding<T>);
}

}  // namespace thermocline
