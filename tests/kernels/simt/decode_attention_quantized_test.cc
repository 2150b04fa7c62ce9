// Paged decode attention over int8, e4m3 and int4 KV against float64 over the numbers that the
// codes stand for: the shapes of decode_attention_test.cc, for each code.
#include "tests/kernels/simt/decode_run.h"
#include "tests/kernels/simt/paged_codes.h"

namespace thermocline {
namespace {

class DecodeCodesTest : public testing::TestWithParam<KvDtype> {
 protected:
  template <class T>
  void Check(const AttentionCase& c) {
    CheckDecode<T, PagedCodes<T>>(c, GetParam());
  }
};

INSTANTIATE_TEST_SUITE_P(Codes, DecodeCodesTest,
                         testing::Values(KvDtype::kInt8, KvDtype::kE4m3, KvDtype::kInt4),
                         [](const auto& info) { return std::string(KvDtypeName(info.param)); });

TEST_P(DecodeCodesTest, OneTokenManyAndNone) {
  Check<Half>({.lengths = {1, 37, 0, 64}, .kv_heads = 2, .group = 1, .head_dim = 64});
  Check<Bfloat16>({.lengths = {16, 129}, .kv_heads = 1, .group = 2, .head_dim = 64});
}

TEST_P(DecodeCodesTest, PipelineWraps) {
  Check<Half>({.lengths = {37, 1, 650}, .kv_heads = 2, .group = 4, .head_dim = 128});
}

TEST_P(DecodeCodesTest, WholeTilesBetweenOthers) {
  Check<Half>({.lengths = {1100, 300}, .group = 3, .head_dim = 64, .window = 1000});
  Check<Bfloat16>({.lengths = {700}, .group = 2, .head_dim = 96, .window = 650});
}

TEST_P(DecodeCodesTest, SplitsAndWindow) {
  Check<Bfloat16>({.lengths = {1, 65, 0, 300},
                   .kv_heads = 2,
                   .group = 8,
                   .head_dim = 128,
                   .splits = 3,
                   .window = 150});
}

TEST_P(DecodeCodesTest, WidestHeads) {
  Check<Bfloat16>({.lengths = {257}, .group = 4, .head_dim = 256, .splits = 2});
}

TEST_P(DecodeCodesTest, OddHeadsFullGroupSoftcap) {
  Check<Bfloat16>({.lengths = {90, 5}, .group = 16, .head_dim = 80, .softcap = 2});
  Check<Half>({.lengths = {200}, .group = 3, .head_dim = 96, .softcap = 30});
}

TEST_P(DecodeCodesTest, PipelineWrapsAtOddHeads) {
  Check<Half>({.lengths = {650}, .kv_heads = 2, .group = 4, .head_dim = 80});
}

TEST_P(DecodeCodesTest, HeadsThatTensorCoresDoNotFit) {
  Check<Half>({.lengths = {1, 37, 0, 70}, .kv_heads = 2, .group = 1, .head_dim = 72});
  Check<Half>(
      {.lengths = {130, 9}, .kv_heads = 2, .group = 2, .head_dim = 8, .splits = 3, .window = 100});
  Check<Bfloat16>({.lengths = {50}, .group = 1, .head_dim = 248, .softcap = 3});
  Check<Bfloat16>({.lengths = {20}, .group = 17, .head_dim = 64});  // more heads than a fragment
}

TEST_P(DecodeCodesTest, ReadsHardlyMoreThanTheKvAndMeetsNoBankConflict) {
  if (!simt::IsChecked()) GTEST_SKIP() << "the checker's part";
  for (const int head_dim : {64, 128}) {
    const AttentionCase c{.lengths = {1024 * 128 / head_dim}, .group = 4, .head_dim = head_dim};
    DecodeRun<Half, PagedCodes<Half>> run(c, GetParam());
    const size_t token_bytes = run.sequences.geometry().token_bytes() / 2;  // of one layer
    ExpectLeanTraffic(run, static_cast<double>(c.longest() * token_bytes));
  }
}

}  // namespace
}  // namespace thermocline
