// Weights as the CPU kernels read them: panels of 16 output rows, repacked once at load, so that a
// vector register holds the same column of 16 rows and every output is one lane's chain of fused
// multiply-adds over ascending columns. A panel is a run of blocks of 32 columns:
//   F32        [32 columns][16 rows] f32
//   F16, BF16  [32][16] u16
//   Q8_0       [16] f16 scales, [32][16] i8
//   Q4_0       [16] f16 scales, codes;   Q4_1  the same with [16] f16 minima after the scales
//   Q5_0/Q5_1  as Q4_0/Q4_1 with [16] u32 fifth bits (bit c = column c) before the codes
//   codes      [4][16] u32: nibble i of word g = column 8 g + i
// Rows and columns that the tensor lacks are zeros, so that any size works and no kernel has a
// tail. One panel has one type, but a matrix may mix them, as real quantised files do.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "kernels/weight_type.h"

namespace thermocline {

inline constexpr int kPanelRows = 16;
inline constexpr int kBlockColumns = 32;

/// Columns as the kernels see them: rounded up to whole blocks, the excess zero.
inline constexpr int PaddedColumns(int columns) {
  return (columns + kBlockColumns - 1) / kBlockColumns * kBlockColumns;
}
inline constexpr int PaddedRows(int rows) {
  return (rows + kPanelRows - 1) / kPanelRows * kPanelRows;
}

/// A matrix as a model file stores it: rows of `columns` weights, row_bytes apart, unaligned.
/// Quantised rows are the blocks of GGUF (ggml): 32 weights each, f16 scale first.
struct StoredMatrix {
  WeightType type = WeightType::kF32;
  const std::byte* data = nullptr;
  int rows = 0;
  int columns = 0;
};

/// Errors: InvalidArgument for an empty or oversized matrix, or quantised columns that are not a
///         multiple of 32.
absl::Status CheckStoredMatrix(const StoredMatrix& matrix);

size_t StoredRowBytes(WeightType type, int columns);
/// Bytes of one panel, a multiple of 32.
size_t PanelBytes(WeightType type, int columns);

/// Repacks the rows first_row .. first_row + 15 of `matrix` (those that exist) to `panel`.
/// Requires: CheckStoredMatrix is OK; panel has PanelBytes and is 32-byte aligned.
void PackPanel(const StoredMatrix& matrix, int first_row, std::byte* panel);

/// One panel of a matrix ready for the kernels. Owner: borrows.
struct Panel {
  const std::byte* data = nullptr;
  WeightType type = WeightType::kF32;
};

}  // namespace thermocline
