// How the KV bytes of one block of tokens lie in memory: block-major, so that a block moves between
// tiers as one piece, and head-major inside it, so that attention reads one head's rows in a run.
//   block = [layer][K, V][kv_head][16 tokens][head_dim] of f32 or f16
// Codes (int8, e4m3, int4) have rows of whole 16 bytes, and each head's 16 rows are followed by
// their 16 scales:
//   block = [layer][K, V][kv_head]([16 tokens][row_bytes], [16 tokens] of f16)
#pragma once
#include <cstddef>
#include <cstdint>

namespace thermocline {

enum class KvDtype : uint8_t { kF32, kF16, kInt8, kE4m3, kInt4 };

inline constexpr int KvDtypeBits(KvDtype dtype) {
  constexpr int kBits[] = {32, 16, 8, 8, 4};
  return kBits[static_cast<int>(dtype)];
}
inline constexpr const char* KvDtypeName(KvDtype dtype) {
  constexpr const char* kNames[] = {"f32", "f16", "int8", "e4m3", "int4"};
  return kNames[static_cast<int>(dtype)];
}
inline constexpr bool IsQuantized(KvDtype dtype) { return KvDtypeBits(dtype) < 16; }

/// Bytes of one head's keys or values of one token, without its scale.
inline constexpr size_t KvRowBytes(KvDtype dtype, int head_dim) {
  const size_t bytes = static_cast<size_t>(head_dim) * KvDtypeBits(dtype) / 8;
  return IsQuantized(dtype) ? (bytes + 15) / 16 * 16 : bytes;
}

/// Tokens of a block, everywhere.
inline constexpr int kBlockTokens = 16;

enum class KvHalf : uint8_t { kKeys = 0, kValues = 1 };

struct KvGeometry {
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
  KvDtype dtype = KvDtype::kF32;
  int block_tokens = kBlockTokens;

  bool operator==(const KvGeometry&) const = default;

  constexpr size_t row_bytes() const { return KvRowBytes(dtype, head_dim); }
  /// From row 0 of a head to its scales, where it has any.
  constexpr size_t scales_offset() const { return block_tokens * row_bytes(); }
  constexpr size_t head_bytes() const {
    return scales_offset() + (IsQuantized(dtype) ? block_tokens * sizeof(uint16_t) : 0);
  }
  constexpr size_t layer_bytes() const { return 2 * kv_heads * head_bytes(); }
  constexpr size_t block_bytes() const { return layers * layer_bytes(); }
  constexpr size_t token_bytes() const { return block_bytes() / block_tokens; }

  /// Bytes from the start of a block to row 0 of one head; its rows follow each other.
  constexpr size_t head_offset(int layer, KvHalf half, int kv_head) const {
    return layer * layer_bytes() + (static_cast<size_t>(half) * kv_heads + kv_head) * head_bytes();
  }
};

/// Blocks that hold `tokens` tokens, the last one perhaps in part.
inline constexpr size_t BlocksOf(size_t tokens) {
  return (tokens + kBlockTokens - 1) / kBlockTokens;
}

}  // namespace thermocline
