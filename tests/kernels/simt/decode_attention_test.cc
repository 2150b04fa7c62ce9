// Paged decode attention against float64: pipelines that wrap, sequences of one token and of none,
// odd tails, windows, splits; and what it costs in memory traffic.
#include "tests/kernels/simt/decode_run.h"

namespace thermocline {
namespace {

template <class T>
void Check(const AttentionCase& c) {
  CheckDecode<T, PagedSequences<T>>(c);
}

TEST(DecodeAttentionTest, OneTokenManyAndNone) {
  Check<Half>({.lengths = {1, 37, 0, 64}, .kv_heads = 2, .group = 1, .head_dim = 64});
}

TEST(DecodeAttentionTest, PipelineWraps) {
  Check<Half>({.lengths = {37, 1, 330}, .kv_heads = 2, .group = 4, .head_dim = 128});
}

TEST(DecodeAttentionTest, SplitsWindowAndTokensFirst) {
  Check<Half>({.lengths = {1, 65, 0, 300},
               .kv_heads = 2,
               .group = 8,
               .head_dim = 128,
               .splits = 3,
               .window = 150,
               .heads_first = false});
}

TEST(DecodeAttentionTest, WidestHeads) {
  Check<Bfloat16>({.lengths = {257}, .group = 4, .head_dim = 256, .splits = 2});
}

TEST(DecodeAttentionTest, OddHeadsFullGroupSoftcap) {
  Check<Bfloat16>({.lengths = {90, 5}, .group = 16, .head_dim = 80, .softcap = 2});
  Check<Half>({.lengths = {200}, .group = 3, .head_dim = 96, .softcap = 30});
}

TEST(DecodeAttentionTest, HeadsThatTensorCoresDoNotFit) {
  Check<Half>({.lengths = {1, 37, 0, 70}, .kv_heads = 2, .group = 1, .head_dim = 72});
  Check<Half>({.lengths = {130, 9},
               .kv_heads = 2,
               .group = 2,
               .head_dim = 8,
               .splits = 3,
               .window = 100,
               .heads_first = false});
  Check<Bfloat16>({.lengths = {50}, .group = 1, .head_dim = 248, .softcap = 3});
  Check<Bfloat16>({.lengths = {20}, .group = 17, .head_dim = 64});  // more heads than a fragment
}

TEST(DecodeAttentionTest, ADeviceWithLittleSharedMemoryTakesTheOtherForm) {
  const size_t plenty = simt::SharedBytesOfDevice();
  simt::SetSharedBytesOfDevice(99 * 1024);
  Check<Half>({.lengths = {70, 1}, .kv_heads = 2, .group = 4, .head_dim = 128, .splits = 2});
  Check<Bfloat16>({.lengths = {40}, .group = 2, .head_dim = 256});
  if (plenty > 0) {  // else it is a GPU, which has what it has
    EXPECT_EQ(DecodeBlocksOfMultiprocessor(4, 128, KvDtype::kF16), 8);
    EXPECT_EQ(DecodeBlocksOfMultiprocessor(4, 64, KvDtype::kF16), 1) << "these fit";
  }
  simt::SetSharedBytesOfDevice(plenty);
  EXPECT_EQ(DecodeBlocksOfMultiprocessor(4, 128, KvDtype::kF16), 1);
  EXPECT_EQ(DecodeBlocksOfMultiprocessor(4, 128, KvDtype::kInt8), 2);
  EXPECT_EQ(DecodeBlocksOfMultiprocessor(4, 72, KvDtype::kF16), 8);
}

TEST(DecodeAttentionTest, NotANumberStaysOne) {
  for (const int splits : {1, 3}) {
    DecodeRun<Half, PagedSequences<Half>> run(AttentionCase{
        .lengths = {40, 100, 0}, .kv_heads = 2, .group = 2, .head_dim = 64, .splits = splits});
    std::vector<Half> queries(run.queries);
    queries[64] = FromFloat<Half>(NAN);  // of sequence 0, head 1
    const DeviceArray<Half> q(queries);
    run.args.q = q.data();
    ASSERT_EQ(LaunchDecodeAttention(run.args, nullptr), CudaError::kSuccess);
    const std::vector<Half> out = run.out.ToHost();
    for (size_t i = 0; i < out.size(); ++i) {
      EXPECT_EQ(std::isnan(ToFloat(out[i])), i / 64 == 1) << i;
    }
  }
}

TEST(DecodeAttentionTest, OtherShapesAreRefused) {
  DecodeAttentionArgs args{
      .sequences = 1, .heads = 4, .kv_heads = 1, .head_dim = 68, .split_tokens = 16, .scale = 1};
  EXPECT_EQ(LaunchDecodeAttention(args, nullptr), CudaError::kInvalidValue);
  args.head_dim = 264;
  EXPECT_EQ(LaunchDecodeAttention(args, nullptr), CudaError::kInvalidValue);
  args.head_dim = 64;
  args.splits = 2;  // without a workspace
  EXPECT_EQ(LaunchDecodeAttention(args, nullptr), CudaError::kInvalidValue);
}

TEST(DecodeAttentionTest, PlansFillTheDevice) {
  const DecodePlan short_one = PlanDecode(1, 8, 256, 264);
  EXPECT_EQ(short_one.splits, 1);
  EXPECT_EQ(short_one.split_tokens, 256);
  const DecodePlan one = PlanDecode(1, 8, 32768, 264);  // 512 tiles, two blocks on each of 132
  EXPECT_GE(one.splits, 29);
  EXPECT_LE(one.splits, 33);
  EXPECT_EQ(PlanDecode(64, 8, 32768, 264).splits, 1);  // 512 blocks are two waves as they are
  for (int tokens = 1; tokens < 4000; tokens += 37) {
    const DecodePlan plan = PlanDecode(2, 4, tokens, 100);
    EXPECT_GE(plan.splits * plan.split_tokens, tokens);
    EXPECT_LT((plan.splits - 1) * plan.split_tokens, tokens);
    EXPECT_EQ(plan.split_tokens % 64, 0);
  }
}

TEST(DecodeAttentionTest, ReadsHardlyMoreThanTheKvAndMeetsNoBankConflict) {
  if (!simt::IsChecked()) GTEST_SKIP() << "the checker's part";
  const AttentionCase c{.lengths = {512}, .kv_heads = 2, .group = 4, .head_dim = 128};
  DecodeRun<Half, PagedSequences<Half>> run(c);
  ExpectLeanTraffic(run, 2.0 * 2 * 128 * 512 * 2);
}

}  // namespace
}  // namespace thermocline
