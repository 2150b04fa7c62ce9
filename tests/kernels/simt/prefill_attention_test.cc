// Paged prefill attention against float64: chunks of one token and of many, behind prefixes of none
// and of more than the window, several sequences in one launch, rings that wrap, odd tails.
#include "kernels/prefill_attention.h"

#include <gmock/gmock.h>

#include "tests/kernels/simt/attention_inputs.h"
#include "tests/kernels/simt/paged_codes.h"

namespace thermocline {
namespace {

constexpr int32_t kPoison = 1 << 28;
constexpr int kStridePadding = 16;  ///< behind a token's heads

struct PrefillCase {
  AttentionCase attention;  ///< lengths: with the fresh tokens
  std::vector<int> fresh;
};

/// Over `Sequences`: PagedSequences<T>, or PagedCodes<T>.
template <class T, class Sequences = PagedSequences<T>>
struct PrefillRun {
  PrefillCase c;
  Sequences sequences;
  std::vector<int32_t> starts = {0};
  int64_t stride;
  std::vector<T> queries;
  DeviceArray<typename Sequences::Stored> pool;
  DeviceArray<T> q, out;
  DeviceArray<int32_t> tables, device_starts, lengths;
  PrefillAttentionArgs args;

  template <class... More>
  explicit PrefillRun(const PrefillCase& wanted, More... more)
      : c(wanted),
        sequences(c.attention, c.attention.head_dim + c.attention.group, more...),
        stride(c.attention.heads() * c.attention.head_dim + kStridePadding),
        queries(RandomNumbers<T>(sequences.random(), Starts() * stride, 2)),
        pool(sequences.pool()),
        q(queries),
        out(queries.size()),
        tables(Tables()),
        device_starts(starts),
        lengths(std::vector<int32_t>(c.attention.lengths.begin(), c.attention.lengths.end())) {
    args = {.out = out.data(),
            .q = q.data(),
            .kv = sequences.View(pool.data()),
            .tables = tables.data(),
            .starts = device_starts.data(),
            .lengths = lengths.data(),
            .q_stride = stride,
            .out_stride = stride,
            .table_stride = sequences.table_stride(),
            .sequences = c.attention.sequences(),
            .longest_chunk = *std::max_element(c.fresh.begin(), c.fresh.end()),
            .heads = c.attention.heads(),
            .kv_heads = c.attention.kv_heads,
            .head_dim = c.attention.head_dim,
            .window = c.attention.window,
            .scale = static_cast<float>(c.attention.scale()),
            .softcap = c.attention.softcap,
            .type = kNumberType<T>,
            .kv_dtype = sequences.geometry().dtype};
  }

  /// Fills `starts`; returns all fresh tokens.
  size_t Starts() {
    for (const int count : c.fresh) starts.push_back(starts.back() + count);
    return starts.back();
  }

  /// Blocks that lie before the window of the first fresh token are gone.
  std::vector<int32_t> Tables() const {
    std::vector<int32_t> poisoned = sequences.tables();
    for (int s = 0; s < c.attention.sequences(); ++s) {
      const int position = c.attention.lengths[s] - c.fresh[s];
      const int first = c.attention.window > 0 ? position + 1 - c.attention.window : 0;
      for (int b = 0; b < first / kBlockTokens; ++b) {
        poisoned[s * sequences.table_stride() + b] = kPoison;
      }
    }
    return poisoned;
  }

  std::vector<double> Expected() const {
    const int width = c.attention.heads() * c.attention.head_dim;
    std::vector<double> expected(static_cast<size_t>(starts.back()) * width);
    for (int s = 0; s < c.attention.sequences(); ++s) {
      for (int i = 0; i < c.fresh[s]; ++i) {
        const int token = starts[s] + i, position = c.attention.lengths[s] - c.fresh[s] + i;
        for (int head = 0; head < c.attention.heads(); ++head) {
          const int at = head * c.attention.head_dim;
          sequences.Attend(queries.data() + token * stride + at, s, position,
                           head / c.attention.group,
                           expected.data() + static_cast<size_t>(token) * width + at);
        }
      }
    }
    return expected;
  }

  /// The result without what lies behind each token's heads, which must be untouched.
  std::vector<T> Result() const {
    const std::vector<T> all = out.ToHost();
    std::vector<T> rows;
    for (int token = 0; token < starts.back(); ++token) {
      const auto first = all.begin() + token * stride;
      rows.insert(rows.end(), first, first + stride - kStridePadding);
      for (int i = 0; i < kStridePadding; ++i) {
        EXPECT_EQ((first + stride - kStridePadding + i)->bits, 0xffff) << "token " << token;
      }
    }
    return rows;
  }
};

template <class T, class Sequences = PagedSequences<T>, class... More>
void Check(const PrefillCase& c, More... more) {
  PrefillRun<T, Sequences> run(c, more...);
  const std::vector<double> expected = run.Expected();
  ForEachSchedule([&] {
    run.out.Fill(0xff);
    ASSERT_EQ(LaunchPrefillAttention(run.args, nullptr), CudaError::kSuccess);
    ExpectAttentionClose(run.Result(), expected);
  });
}

TEST(PrefillAttentionTest, OneTokenIsDecoding) {
  Check<Half>({{.lengths = {1, 150}, .kv_heads = 2, .group = 4, .head_dim = 128}, {1, 1}});
}

TEST(PrefillAttentionTest, AWholePromptWithoutAPrefix) {
  Check<Half>({{.lengths = {75}, .kv_heads = 2, .group = 3, .head_dim = 64}, {75}});
  Check<Bfloat16>({{.lengths = {17}, .kv_heads = 1, .group = 1, .head_dim = 128}, {17}});
}

TEST(PrefillAttentionTest, SeveralSequencesBehindPrefixes) {
  Check<Half>({{.lengths = {260, 1, 33, 64, 100}, .kv_heads = 1, .group = 2, .head_dim = 64},
               {40, 1, 33, 0, 4}});
}

TEST(PrefillAttentionTest, TokensFirstAndAWindowWithinThePrefix) {
  Check<Half>({{.lengths = {300, 90},
                .kv_heads = 2,
                .group = 1,
                .head_dim = 128,
                .window = 70,
                .heads_first = false},
               {66, 90}});
  Check<Bfloat16>({{.lengths = {130}, .group = 2, .head_dim = 64, .window = 1}, {35}});
}

TEST(PrefillAttentionTest, WidestHeads) {
  Check<Bfloat16>({{.lengths = {117}, .group = 4, .head_dim = 256}, {20}});
  Check<Half>({{.lengths = {70}, .group = 1, .head_dim = 256, .window = 33}, {3}});
}

TEST(PrefillAttentionTest, ADeviceWithLittleSharedMemoryTakesTheOtherForm) {
  const size_t plenty = simt::SharedBytesOfDevice();
  simt::SetSharedBytesOfDevice(99 * 1024);
  Check<Half>({{.lengths = {70, 20}, .group = 2, .head_dim = 128}, {9, 3}});
  simt::SetSharedBytesOfDevice(plenty);
}

TEST(PrefillAttentionTest, OddHeadsWideGroupsSoftcap) {
  Check<Bfloat16>({{.lengths = {90}, .group = 16, .head_dim = 80, .softcap = 2}, {5}});
  Check<Half>({{.lengths = {100}, .group = 7, .head_dim = 96, .softcap = 30}, {12}});
  Check<Half>({{.lengths = {40}, .group = 70, .head_dim = 64}, {2}});  // a token over two blocks
}

TEST(PrefillAttentionTest, OddHeadsOfTheOtherType) {
  Check<Half>({{.lengths = {150}, .kv_heads = 2, .group = 4, .head_dim = 80}, {20}});
  Check<Bfloat16>({{.lengths = {150}, .kv_heads = 2, .group = 4, .head_dim = 96}, {20}});
}

TEST(PrefillAttentionTest, HeadsThatTensorCoresDoNotFit) {
  Check<Half>({{.lengths = {20, 37, 64}, .kv_heads = 2, .group = 1, .head_dim = 72}, {20, 5, 0}});
  Check<Half>({{.lengths = {96}, .kv_heads = 4, .group = 2, .head_dim = 8, .window = 21}, {30}});
  Check<Bfloat16>({{.lengths = {50}, .group = 1, .head_dim = 248, .softcap = 3}, {9}});
}

TEST(PrefillAttentionTest, OtherShapesAreRefused) {
  PrefillAttentionArgs args{
      .sequences = 1, .longest_chunk = 1, .heads = 4, .kv_heads = 1, .head_dim = 68, .scale = 1};
  EXPECT_EQ(LaunchPrefillAttention(args, nullptr), CudaError::kInvalidValue);
  args.head_dim = 264;
  EXPECT_EQ(LaunchPrefillAttention(args, nullptr), CudaError::kInvalidValue);
  args.head_dim = 64;
  args.q_stride = 4;
  EXPECT_EQ(LaunchPrefillAttention(args, nullptr), CudaError::kInvalidValue);
  args.q_stride = 0;
  args.kv_heads = 3;
  EXPECT_EQ(LaunchPrefillAttention(args, nullptr), CudaError::kInvalidValue);
  args.kv_heads = 1;
  args.kv_dtype = KvDtype::kInt8;
  args.type = NumberType::kBf16;
  EXPECT_EQ(LaunchPrefillAttention(args, nullptr), CudaError::kInvalidValue);
}

/// Runs the kernel; it reads KV and queries in whole sectors, as many bytes of them as `least`, and
/// meets no bank conflict. Only in checked programs.
template <class Run>
void ExpectLeanTraffic(Run& run, uint64_t least) {
  simt::CollectAccesses(true);
  simt::TakeAccessSites();
  ASSERT_EQ(LaunchPrefillAttention(run.args, nullptr), CudaError::kSuccess);
  simt::CollectAccesses(false);
  uint64_t copied = 0;
  for (const simt::AccessSite& site : simt::TakeAccessSites()) {
    if (site.shared) {
      EXPECT_EQ(site.conflict_factor(), 1)
          << (site.write ? "write" : "read") << " by " << site.warp_accesses << " warps";
    } else if (site.bytes == 512 * site.warp_accesses && !site.write) {
      copied += 32 * site.sectors;
      EXPECT_GE(site.sector_efficiency(), 1.0);
    } else if (site.write) {
      EXPECT_GE(site.sector_efficiency(), 1.0);
    }
  }
  EXPECT_EQ(copied, least);
}

TEST(PrefillAttentionTest, MovesWholeSectorsAndMeetsNoBankConflict) {
  if (!simt::IsChecked()) GTEST_SKIP() << "the checker's part";
  const PrefillCase c{{.lengths = {256}, .kv_heads = 2, .group = 4, .head_dim = 128}, {16}};
  // The KV once, for its 64 rows of queries, and these.
  PrefillRun<Half> run(c);
  ExpectLeanTraffic(run, 2u * 2 * 128 * 256 * 2 + 2u * 64 * 128 * 2);
  PrefillRun<Half, PagedCodes<Half>> of_codes(c, KvDtype::kInt8);
  ExpectLeanTraffic(of_codes, 2u * 2 * 128 * 256 + 2u * 64 * 128 * 2);
}

class PrefillCodesTest : public testing::TestWithParam<KvDtype> {
 protected:
  void Check(const PrefillCase& c) { thermocline::Check<Half, PagedCodes<Half>>(c, GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Codes, PrefillCodesTest,
                         testing::Values(KvDtype::kInt8, KvDtype::kE4m3, KvDtype::kInt4),
                         [](const auto& info) { return std::string(KvDtypeName(info.param)); });

TEST_P(PrefillCodesTest, OneTokenAndAWholePrompt) {
  Check({{.lengths = {1, 150}, .kv_heads = 2, .group = 4, .head_dim = 128}, {1, 1}});
  Check({{.lengths = {75}, .kv_heads = 2, .group = 3, .head_dim = 64}, {75}});
}

TEST_P(PrefillCodesTest, SeveralSequencesBehindPrefixes) {
  Check({{.lengths = {260, 1, 33, 64, 100}, .kv_heads = 1, .group = 2, .head_dim = 64},
         {40, 1, 33, 0, 4}});
}

TEST_P(PrefillCodesTest, AWindowWithinThePrefix) {
  Check(
      {{.lengths = {300, 90}, .kv_heads = 2, .group = 1, .head_dim = 128, .window = 70}, {66, 90}});
  Check({{.lengths = {130}, .group = 2, .head_dim = 64, .window = 1}, {35}});
}

TEST_P(PrefillCodesTest, WidestAndOddHeads) {
  Check({{.lengths = {117}, .group = 4, .head_dim = 256}, {20}});
  Check({{.lengths = {90}, .group = 16, .head_dim = 80, .softcap = 2}, {5}});
  Check({{.lengths = {100}, .group = 7, .head_dim = 96, .softcap = 30}, {12}});
}

TEST_P(PrefillCodesTest, HeadsThatTensorCoresDoNotFit) {
  Check({{.lengths = {20, 37, 64}, .kv_heads = 2, .group = 1, .head_dim = 72}, {20, 5, 0}});
  Check({{.lengths = {96}, .kv_heads = 4, .group = 2, .head_dim = 8, .window = 21}, {30}});
}

}  // namespace
}  // namespace thermocline
