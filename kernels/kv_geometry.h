// How the KV bytes of one block of tokens lie in memory: block-major, so that a block moves between
// tiers as one piece, and head-major inside it, so that attention reads one head's rows in a run.
//   block = [layer][K, V][kv_head][16 tokens][head_dim] of f32 or f16
#pragma once
#include <cstddef>
#include <cstdint>

namespace thermocline {

enum class KvDtype : uint8_t { kF32, kF16 };

inline constexpr size_t KvDtypeBytes(KvDtype dtype) { return dtype == KvDtype::kF32 ? 4 : 2; }
inline constexpr const char* KvDtypeName(KvDtype dtype) {
  return dtype == KvDtype::kF32 ? "f32" : "f16";
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

  constexpr size_t row_bytes() const { return head_dim * KvDtypeBytes(dtype); }
  constexpr size_t head_bytes() const { return block_tokens * row_bytes(); }
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
