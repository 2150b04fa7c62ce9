// Paged decode attention against float64: pipelines that wrap, sequences of one token and of none,
// odd tails, windows, splits; and what it costs in memory traffic.
#include "kernels/decode_attention.h"

#include <gmock/gmock.h>

#include "tests/kernels/simt/attention_inputs.h"

namespace thermocline {
namespace {

template <class T>
struct DecodeRun {
  PagedSequences<T> sequences;
  std::vector<T> queries;
  DeviceArray<T> pool, q, out;
  DeviceArray<int32_t> tables, lengths;
  DeviceArray<float> workspace;
  DecodeAttentionArgs args;

  explicit DecodeRun(const AttentionCase& c)
      : sequences(c, c.head_dim + c.group),
        queries(RandomNumbers<T>(sequences.random(),
                                 static_cast<size_t>(c.sequences()) * c.heads() * c.head_dim, 2)),
        pool(sequences.pool()),
        q(queries),
        out(queries.size()),
        tables(sequences.tables()),
        lengths(std::vector<int32_t>(c.lengths.begin(), c.lengths.end())),
        workspace(DecodeWorkspaceFloats(c.sequences(), c.heads(), c.head_dim, c.splits)) {
    const int tiles = (c.longest() - 1) / 16 + 1;
    args = {.out = out.data(),
            .q = q.data(),
            .kv = sequences.View(pool.data()),
            .tables = tables.data(),
            .lengths = lengths.data(),
            .workspace = workspace.data(),
            .table_stride = sequences.table_stride(),
            .sequences = c.sequences(),
            .heads = c.heads(),
            .kv_heads = c.kv_heads,
            .head_dim = c.head_dim,
            .splits = c.splits,
            .split_tokens = ((tiles - 1) / c.splits + 1) * 16,
            .window = c.window,
            .scale = static_cast<float>(c.scale()),
            .softcap = c.softcap,
            .type = kNumberType<T>};
  }
};

template <class T>
void Check(const AttentionCase& c) {
  DecodeRun<T> run(c);
  std::vector<double> expected(run.queries.size());
  for (int s = 0; s < c.sequences(); ++s) {
    for (int head = 0; head < c.heads() && c.lengths[s] > 0; ++head) {
      const size_t row = (static_cast<size_t>(s) * c.heads() + head) * c.head_dim;
      run.sequences.Attend(run.queries.data() + row, s, c.lengths[s] - 1, head / c.group,
                           expected.data() + row);
    }
  }
  ForEachSchedule([&] {
    run.out.Fill(0xff);
    run.workspace.Fill(0xff);
    ASSERT_EQ(LaunchDecodeAttention(run.args, nullptr), CudaError::kSuccess);
    ExpectAttentionClose(run.out.ToHost(), expected);
  });
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
  DecodeRun<Half> run(c);
  simt::CollectAccesses(true);
  simt::TakeAccessSites();
  ASSERT_EQ(LaunchDecodeAttention(run.args, nullptr), CudaError::kSuccess);
  simt::CollectAccesses(false);
  uint64_t read = 0;
  for (const simt::AccessSite& site : simt::TakeAccessSites()) {
    if (site.shared) {
      EXPECT_EQ(site.conflict_factor(), 1)
          << (site.write ? "write" : "read") << " by " << site.warp_accesses << " warps";
    } else if (!site.write) {
      read += 32 * site.sectors;
      // KV comes in whole sectors; what else is read (lengths, tables) is a word for many lanes.
      if (site.bytes >= 100'000) {
        EXPECT_GE(site.sector_efficiency(), 1.0);
      }
    }
  }
  const double least = 2.0 * 2 * 128 * 512 * 2;
  std::printf("read %.1f KB, at least %.1f KB\n", static_cast<double>(read) / 1024, least / 1024);
  EXPECT_LE(static_cast<double>(read), 1.07 * least);
}

}  // namespace
}  // namespace thermocline
