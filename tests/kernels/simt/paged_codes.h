// Sequences with paged KV of codes in emulated device memory, and attention over what the codes
// stand for in float64.
#pragma once
#include <vector>

#include "tests/kernels/simt/attention_inputs.h"
#include "tests/kernels/simt/quant_inputs.h"

namespace thermocline {

/// Random codes and scales. What no token uses is poison: NaN scales, NaN codes where there are
/// any.
template <class T>
class PagedCodes {
 public:
  using Stored = uint8_t;

  PagedCodes(const AttentionCase& c, uint64_t salt, KvDtype dtype)
      : case_(c), random_(salt), tables_(c, random_) {
    geometry_ = {.layers = 2, .kv_heads = c.kv_heads, .head_dim = c.head_dim, .dtype = dtype};
    pool_.assign(tables_.blocks * geometry_.block_bytes(), 0xff);
    for (int s = 0; s < c.sequences(); ++s) {
      for (int token = 0; token < c.lengths[s]; ++token) FillToken(s, token);
    }
  }

  const KvGeometry& geometry() const { return geometry_; }
  const std::vector<uint8_t>& pool() const { return pool_; }
  const std::vector<int32_t>& tables() const { return tables_.ids; }
  int table_stride() const { return tables_.stride; }
  RandomInputs& random() { return random_; }
  PagedKv View(uint8_t* pool) const {
    return LayerOf(geometry_, 1, reinterpret_cast<std::byte*>(pool),
                   static_cast<int64_t>(geometry_.block_bytes()));
  }

  void Attend(const T* query, int sequence, int position, int kv_head, double* out) const {
    const auto number = [&](KvHalf half, int token, int d) {
      const uint8_t* const head = pool_.data() + HeadOf(sequence, token, kv_head, half);
      const size_t row = token % kBlockTokens * geometry_.row_bytes();
      return CodeAt(geometry_.dtype, head + row, d) *
             ScaleAt(head + geometry_.scales_offset() + 2 * (token % kBlockTokens));
    };
    AttendExactly(case_, query, position, number, out);
  }

 private:
  size_t HeadOf(int sequence, int token, int kv_head, KvHalf half) const {
    return tables_.ids[sequence * tables_.stride + token / kBlockTokens] * geometry_.block_bytes() +
           geometry_.head_offset(1, half, kv_head);
  }

  void FillToken(int sequence, int token) {
    const KvDtype dtype = geometry_.dtype;
    for (int head = 0; head < case_.kv_heads; ++head) {
      for (const KvHalf half : {KvHalf::kKeys, KvHalf::kValues}) {
        uint8_t* const to = pool_.data() + HeadOf(sequence, token, head, half);
        uint8_t* const row = to + token % kBlockTokens * geometry_.row_bytes();
        std::fill(row, row + geometry_.row_bytes(), dtype == KvDtype::kInt4 ? 0x88 : 0);
        for (int d = 0; d < case_.head_dim; ++d) SetCode(row, d);
        // As of rows whose largest number is between a half and 3.
        const auto largest = static_cast<float>(LargestCode(dtype));
        const Half scale = FromFloat<Half>((1.75f + 1.25f * random_.Float()) / largest);
        std::memcpy(to + geometry_.scales_offset() + 2 * (token % kBlockTokens), &scale, 2);
      }
    }
  }

  void SetCode(uint8_t* row, int d) {
    const float x = random_.Float() * static_cast<float>(LargestCode(geometry_.dtype));
    switch (geometry_.dtype) {
      case KvDtype::kInt8:
        row[d] = static_cast<uint8_t>(static_cast<int>(std::lround(x)));
        return;
      case KvDtype::kE4m3:
        row[d] = FromFloat<Fp8E4m3>(x).bits;
        return;
      default:
        row[d / 2] = static_cast<uint8_t>((row[d / 2] & (d % 2 == 0 ? 0xf0 : 0x0f)) |
                                          (std::lround(x) + 8) << 4 * (d % 2));
    }
  }

  AttentionCase case_;
  RandomInputs random_;
  BlockTables tables_;
  KvGeometry geometry_;
  std::vector<uint8_t> pool_;
};

}  // namespace thermocline
