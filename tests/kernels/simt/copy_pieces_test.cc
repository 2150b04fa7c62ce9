// Copies of pieces: every byte of every piece, none beside it, whatever is the order and the number
// of thread blocks. The oracle is memcpy.
#include "kernels/copy_pieces.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/kernels/simt/device_memory.h"

namespace thermocline {
namespace {

constexpr int64_t kGap = 16;

/// Copies pieces of these sizes, in turn, from one array to the reverse order of another.
void CopiesExactly(const std::vector<int64_t>& sizes, int count, int max_thread_blocks) {
  std::vector<int64_t> starts;
  int64_t total = kGap;
  for (int i = 0; i < count; ++i) {
    starts.push_back(total);
    total += sizes[i % sizes.size()] + kGap;
  }
  std::vector<uint8_t> from(total);
  for (int64_t i = 0; i < total; ++i) from[i] = static_cast<uint8_t>(i * 197 + (i >> 8));
  const DeviceArray<uint8_t> source(from);
  DeviceArray<uint8_t> target(total);
  target.Fill(0xcc);
  std::vector<uint8_t> expected(total, 0xcc);
  CopyPiecesArgs args;
  args.count = count;
  args.max_thread_blocks = max_thread_blocks;
  for (int i = 0; i < count; ++i) {
    const int64_t bytes = sizes[i % sizes.size()];
    const int64_t at = total - starts[i] - bytes;  // from the end
    args.pieces[i] = {reinterpret_cast<std::byte*>(target.data()) + at,
                      reinterpret_cast<const std::byte*>(source.data()) + starts[i], bytes};
    std::copy_n(from.begin() + starts[i], bytes, expected.begin() + at);
  }
  ASSERT_EQ(LaunchCopyPieces(args, nullptr), CudaError::kSuccess);
  EXPECT_EQ(target.ToHost(), expected);
}

TEST(CopyPiecesTest, EveryByteOfEveryPieceAndNoneBeside) {
  ForEachSchedule([] {
    CopiesExactly({16}, 1, 32);
    CopiesExactly({4096}, 1, 1);           // a turn of all threads
    CopiesExactly({4096 + 16, 16}, 5, 2);  // one more, by one thread
    CopiesExactly({0, 48, 8208}, 9, 4);
    CopiesExactly({112, 1040}, CopyPiecesArgs::kMaxPieces, 3);
  });
}

TEST(CopyPiecesTest, NothingIsDoneForNothing) {
  EXPECT_EQ(LaunchCopyPieces(CopyPiecesArgs{}, nullptr), CudaError::kSuccess);
}

TEST(CopyPiecesTest, OtherShapesAreRefused) {
  DeviceArray<uint8_t> memory(64);
  auto* const data = reinterpret_cast<std::byte*>(memory.data());
  CopyPiecesArgs good;
  good.count = 1;
  good.pieces[0] = {data, data + 32, 32};
  const auto expect_refused = [&](auto&& change) {
    CopyPiecesArgs args = good;
    change(args);
    EXPECT_EQ(LaunchCopyPieces(args, nullptr), CudaError::kInvalidValue);
  };
  expect_refused([](CopyPiecesArgs& args) { args.count = CopyPiecesArgs::kMaxPieces + 1; });
  expect_refused([](CopyPiecesArgs& args) { args.count = -1; });
  expect_refused([](CopyPiecesArgs& args) { args.max_thread_blocks = 0; });
  expect_refused([](CopyPiecesArgs& args) { args.pieces[0].bytes = 24; });
  expect_refused([](CopyPiecesArgs& args) { args.pieces[0].bytes = -16; });
  expect_refused([](CopyPiecesArgs& args) { args.pieces[0].to += 8; });
  expect_refused([](CopyPiecesArgs& args) { args.pieces[0].from += 4; });
  EXPECT_EQ(LaunchCopyPieces(good, nullptr), CudaError::kSuccess);
}

}  // namespace
}  // namespace thermocline
