#include "kernels/cpu/panels.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/check.h"

namespace thermocline {
namespace {

/// How one stored block of a quantised type is made: [f16 scale][f16 minimum][u32 fifth bits]
/// [16 bytes of nibbles, low ones columns 0..15, high ones 16..31], or 32 signed bytes.
struct BlockForm {
  bool quantised;
  bool has_minimum;
  bool has_fifth_bits;
  bool is_bytes;
  size_t stored_bytes;  // per block of 32, or per element of a plain type
};

BlockForm FormOf(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return {false, false, false, false, 4};
    case WeightType::kF16:
    case WeightType::kBF16:
      return {false, false, false, false, 2};
    case WeightType::kQ8_0:
      return {true, false, false, true, 34};
    case WeightType::kQ4_0:
      return {true, false, false, false, 18};
    case WeightType::kQ4_1:
      return {true, true, false, false, 20};
    case WeightType::kQ5_0:
      return {true, false, true, false, 22};
    case WeightType::kQ5_1:
      return {true, true, true, false, 24};
  }
  TC_CHECK(false);
}

constexpr size_t kCodeBytes = kPanelRows * kBlockColumns / 2;

size_t PanelBlockBytes(WeightType type) {
  const BlockForm form = FormOf(type);
  if (!form.quantised) return form.stored_bytes * kPanelRows * kBlockColumns;
  const size_t scales = 2 * kPanelRows;
  if (form.is_bytes) return scales + kPanelRows * kBlockColumns;
  return scales + (form.has_minimum ? scales : 0) + (form.has_fifth_bits ? 4 * kPanelRows : 0) +
         kCodeBytes;
}

void PackPlainRow(const std::byte* row, int columns, size_t element_bytes, int lane,
                  std::byte* panel) {
  for (int c = 0; c < columns; ++c) {
    std::memcpy(panel + (static_cast<size_t>(c) * kPanelRows + lane) * element_bytes,
                row + c * element_bytes, element_bytes);
  }
}

void PackBlock(const BlockForm& form, const std::byte* stored, int lane, std::byte* block) {
  const auto take = [&](std::byte* to, size_t bytes) {
    std::memcpy(to + lane * bytes, stored, bytes);
    stored += bytes;
  };
  take(block, 2);
  block += 2 * kPanelRows;
  if (form.is_bytes) {
    for (int c = 0; c < kBlockColumns; ++c) block[c * kPanelRows + lane] = stored[c];
    return;
  }
  if (form.has_minimum) {
    take(block, 2);
    block += 2 * kPanelRows;
  }
  if (form.has_fifth_bits) {
    take(block, 4);
    block += 4 * kPanelRows;
  }
  constexpr int kHalf = kBlockColumns / 2;
  const auto code = [&](int c) {
    return c < kHalf ? stored[c] & std::byte{15} : stored[c - kHalf] >> 4;
  };
  for (int c = 0; c < kBlockColumns; c += 2) {
    const size_t word = (c / 8) * kPanelRows + lane;
    block[word * 4 + c % 8 / 2] = code(c) | code(c + 1) << 4;
  }
}

}  // namespace

absl::Status CheckStoredMatrix(const StoredMatrix& matrix) {
  constexpr int kMaxDimension = 1 << 24;
  if (matrix.rows <= 0 || matrix.columns <= 0 || matrix.rows > kMaxDimension ||
      matrix.columns > kMaxDimension) {
    return absl::InvalidArgumentError("a matrix of " + std::to_string(matrix.rows) + " x " +
                                      std::to_string(matrix.columns) +
                                      "; both must be between 1 and 2^24");
  }
  if (FormOf(matrix.type).quantised && matrix.columns % kBlockColumns != 0) {
    return absl::InvalidArgumentError("a quantised matrix of " + std::to_string(matrix.columns) +
                                      " columns; they must be a multiple of 32");
  }
  return absl::OkStatus();
}

size_t StoredRowBytes(WeightType type, int columns) {
  const BlockForm form = FormOf(type);
  return form.stored_bytes * (form.quantised ? columns / kBlockColumns : columns);
}

size_t PanelBytes(WeightType type, int columns) {
  return PanelBlockBytes(type) * (PaddedColumns(columns) / kBlockColumns);
}

void PackPanel(const StoredMatrix& matrix, int first_row, std::byte* panel) {
  std::memset(panel, 0, PanelBytes(matrix.type, matrix.columns));
  const BlockForm form = FormOf(matrix.type);
  const size_t row_bytes = StoredRowBytes(matrix.type, matrix.columns);
  const size_t block_bytes = PanelBlockBytes(matrix.type);
  const int lanes = std::min(kPanelRows, matrix.rows - first_row);
  for (int lane = 0; lane < lanes; ++lane) {
    const std::byte* row = matrix.data + (static_cast<size_t>(first_row) + lane) * row_bytes;
    if (!form.quantised) {
      PackPlainRow(row, matrix.columns, form.stored_bytes, lane, panel);
      continue;
    }
    for (int b = 0; b < matrix.columns / kBlockColumns; ++b) {
      PackBlock(form, row + b * form.stored_bytes, lane, panel + b * block_bytes);
    }
  }
}

}  // namespace thermocline
