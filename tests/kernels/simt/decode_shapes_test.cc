// Paged decode attention of each head dimension and each group that tensor cores take, against
// float64: rings that wrap, splits and windows at all of them. Parameterised, which puts them
// behind all other tests of the program: what is wrong everywhere shows in those first.
#include "tests/kernels/simt/decode_run.h"

namespace thermocline {
namespace {

template <class T>
void Check(const AttentionCase& c) {
  CheckDecode<T, PagedSequences<T>>(c);
}

class DecodeHeadDimTest : public testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(HeadDims, DecodeHeadDimTest, testing::Values(64, 80, 96, 128, 256));

TEST_P(DecodeHeadDimTest, OneTokenManyAndARingThatWraps) {
  const AttentionCase c{.lengths = {1, 37, 330}, .group = 4, .head_dim = GetParam()};
  Check<Half>(c);
  Check<Bfloat16>(c);
}

TEST_P(DecodeHeadDimTest, SplitsOfAWindow) {
  const AttentionCase c{
      .lengths = {330}, .group = 4, .head_dim = GetParam(), .splits = 3, .window = 150};
  Check<Half>(c);
  Check<Bfloat16>(c);
}

class DecodeGroupTest : public testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Groups, DecodeGroupTest, testing::Range(1, 17));

TEST_P(DecodeGroupTest, RowsOfTheGroupAlone) {
  Check<Half>({.lengths = {70}, .kv_heads = 2, .group = GetParam(), .head_dim = 64});
}

}  // namespace
}  // namespace thermocline
