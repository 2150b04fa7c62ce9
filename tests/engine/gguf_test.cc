// The container: every way in which a GGUF file can lie about itself, and what each is answered.
#include "engine/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/gguf_writer.h"

namespace thermocline {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr uint32_t kF32 = 0;
constexpr uint32_t kQ4_0 = 2;
constexpr uint32_t kQ4_K = 12;
constexpr uint64_t kHuge = ~uint64_t{0};

std::span<const std::byte> AsBytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string ErrorOf(const std::string& bytes) {
  const auto file = GgufFile::Parse(AsBytes(bytes), "m.gguf");
  EXPECT_FALSE(file.ok());
  if (file.ok()) return "";
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(file.status().message());
}

std::string ErrorOf(const GgufWriter& writer) { return ErrorOf(writer.Bytes()); }

/// One tensor of two rows of four.
GgufWriter Small() {
  GgufWriter writer;
  writer.Text("general.architecture", "llama").AddF32("a", {2, 4}, 1);
  return writer;
}

TEST(GgufTest, ReadsKeysAndTensors) {
  GgufWriter writer = Small();
  writer.Uint("count", 7)
      .Float("eps", 0.5f)
      .Bool("yes", true)
      .Texts("words", {"x", "", "\xff\xfe"});
  writer.Raw("wide", 10, LittleEndian<uint64_t>(9)).Raw("negative", 5, LittleEndian<int32_t>(-3));
  writer.RawArray("scores", 6, 2, LittleEndian(1.5f) + LittleEndian(-2.f));
  const std::string bytes = writer.Bytes();
  const auto file = GgufFile::Parse(AsBytes(bytes), "m.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(**file->String("general.architecture"), "llama");
  EXPECT_EQ(**file->Uint("count"), 7u);
  EXPECT_EQ(**file->Uint("wide"), 9u);
  EXPECT_EQ(**file->Float("eps"), 0.5);
  EXPECT_EQ(**file->Bool("yes"), true);
  EXPECT_THAT(**file->Strings("words"), ElementsAre("x", "", "\xff\xfe"));
  EXPECT_THAT(**file->Floats("scores"), ElementsAre(1.5f, -2.f));
  EXPECT_EQ(*file->Uint("absent"), std::nullopt);
  EXPECT_THAT(std::string(file->Uint("negative").status().message()),
              AllOf(StartsWith("m.gguf: "), HasSubstr("'negative'"), HasSubstr("unsigned")));
  EXPECT_THAT(std::string(file->Uint("words").status().message()), HasSubstr("'words'"));
  EXPECT_FALSE(file->Strings("scores").ok());

  ASSERT_EQ(file->tensors().size(), 1u);
  const Tensor& tensor = file->tensors()[0];
  EXPECT_THAT(tensor.shape, ElementsAre(2, 4));
  EXPECT_EQ(tensor.rows(), 2u);
  EXPECT_EQ(tensor.row_bytes(), 16u);
  float first_of_second_row = 0;
  std::memcpy(&first_of_second_row, tensor.row(1).data(), 4);
  EXPECT_EQ(first_of_second_row, 1 + 4.f / 64);
}

TEST(GgufTest, EveryTruncationIsAnErrorThatNamesTheFile) {
  const std::string whole = Small().Uint("n", 1).Texts("words", {"ab", "c"}).Bytes();
  for (size_t size = 0; size + 1 < whole.size(); ++size) {
    SCOPED_TRACE(size);
    EXPECT_THAT(ErrorOf(whole.substr(0, size)), StartsWith("m.gguf: "));
  }
}

TEST(GgufTest, UnpaddedEndAndNoTensorsAreFine) {
  GgufWriter unpadded = Small();
  unpadded.Add({"b", kF32, {1}, std::string(4, '\0')});
  unpadded.pad_end = false;
  const std::string bytes = unpadded.Bytes();
  EXPECT_EQ(bytes.size() % 32, 4u);
  EXPECT_TRUE(GgufFile::Parse(AsBytes(bytes), "m").ok());
  const std::string vocabulary_only = GgufWriter().Text("a", "b").Bytes();
  EXPECT_TRUE(GgufFile::Parse(AsBytes(vocabulary_only), "m").ok());
}

TEST(GgufTest, OtherVersionsByteOrdersAndAncestorsAreNamed) {
  GgufWriter writer = Small();
  writer.version = 2;
  EXPECT_THAT(ErrorOf(writer), AllOf(HasSubstr("version 2"), HasSubstr("convert")));
  writer.version = 1;
  EXPECT_THAT(ErrorOf(writer), HasSubstr("version 1"));
  writer.version = 0;
  EXPECT_THAT(ErrorOf(writer), HasSubstr("version 0"));
  writer.version = 0x03000000;
  EXPECT_THAT(ErrorOf(writer), HasSubstr("big-endian"));
  writer.version = 3;
  writer.magic = "tjgg";
  EXPECT_THAT(ErrorOf(writer), AllOf(HasSubstr("older ggml"), HasSubstr("convert")));
  EXPECT_THAT(ErrorOf(std::string()), HasSubstr("too short"));
}

TEST(GgufTest, SplitFilesAreRefusedWithTheToolThatJoinsThem) {
  EXPECT_THAT(ErrorOf(Small().Raw("split.count", 2, LittleEndian<uint16_t>(3))),
              AllOf(HasSubstr("3 parts"), HasSubstr("llama-gguf-split --merge")));
  const std::string whole = Small().Raw("split.count", 2, LittleEndian<uint16_t>(1)).Bytes();
  EXPECT_TRUE(GgufFile::Parse(AsBytes(whole), "m").ok());
}

TEST(GgufTest, CountsBeyondTheFileAreRefusedBeforeUse) {
  for (const uint64_t count : {kHuge, uint64_t{1} << 40, uint64_t{100}}) {
    GgufWriter keys = Small();
    keys.key_count = count;
    EXPECT_THAT(ErrorOf(keys), HasSubstr("key-value pairs"));
    GgufWriter tensors = Small();
    tensors.tensor_count = count;
    EXPECT_THAT(ErrorOf(tensors), HasSubstr("tensors, more than can be"));
  }
  EXPECT_THAT(ErrorOf(GgufWriter().RawArray("xs", 4, kHuge, "")), HasSubstr("'xs' claims"));
  EXPECT_THAT(ErrorOf(GgufWriter().RawArray("xs", 4, kHuge / 4 + 2, "12345678")),
              HasSubstr("'xs' claims"));
  EXPECT_THAT(ErrorOf(GgufWriter().RawArray("xs", 8, 2, GgufString("a") + LittleEndian(kHuge))),
              HasSubstr("element 1 of 'xs'"));
  EXPECT_THAT(ErrorOf(GgufWriter().Raw("text", 8, LittleEndian(kHuge))), HasSubstr("'text'"));
}

TEST(GgufTest, UnknownAndNestedValueTypesAreRefused) {
  EXPECT_THAT(ErrorOf(GgufWriter().Raw("odd", 13, "12345678")), HasSubstr("unknown type 13"));
  EXPECT_THAT(ErrorOf(GgufWriter().RawArray("odd", 77, 1, "12345678")), HasSubstr("type 77"));
  EXPECT_THAT(ErrorOf(GgufWriter().RawArray("deep", 9, 1, std::string(12, '\0'))),
              AllOf(HasSubstr("'deep'"), HasSubstr("array of arrays")));
  EXPECT_THAT(ErrorOf(GgufWriter().Raw("odd", 7, "\2")), HasSubstr("neither 0 nor 1"));
}

TEST(GgufTest, DuplicateKeysAreRefused) {
  EXPECT_THAT(ErrorOf(Small().Uint("k", 1).Uint("k", 1)), HasSubstr("'k' occurs twice"));
}

TEST(GgufTest, NamesInMessagesAreEscaped) {
  EXPECT_THAT(ErrorOf(Small().Uint("\x1b[31m\n", 1).Uint("\x1b[31m\n", 1)),
              HasSubstr("'\\x1b[31m\\n'"));
}

TEST(GgufTest, AlignmentMustBeAPowerOfTwo) {
  for (const uint32_t alignment : {0u, 3u, 48u}) {
    EXPECT_THAT(ErrorOf(Small().Uint("general.alignment", alignment)), HasSubstr("power of two"));
  }
  GgufWriter writer = Small();
  writer.Uint("general.alignment", 256);
  writer.alignment = 256;
  const std::string bytes = writer.AddF32("b", {3}, 5).Bytes();
  const auto file = GgufFile::Parse(AsBytes(bytes), "m");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors()[1].data.data() - AsBytes(bytes).data(), 256 + 256);
  EXPECT_THAT(ErrorOf(Small().Uint("general.alignment", 1u << 31)), HasSubstr("tensor 'a' takes"));
}

TEST(GgufTest, ShapesThatOverflowAreRefused) {
  const auto with_shape = [](std::vector<uint64_t> shape, uint32_t type = kF32) {
    return ErrorOf(GgufWriter().Add({"t", type, std::move(shape), "1234"}));
  };
  EXPECT_THAT(with_shape({uint64_t{1} << 32, uint64_t{1} << 32}), HasSubstr("more elements"));
  EXPECT_THAT(with_shape({kHuge, kHuge, kHuge, kHuge}), HasSubstr("more elements"));
  EXPECT_THAT(with_shape({uint64_t{1} << 62}), HasSubstr("more bytes"));
  EXPECT_THAT(with_shape({0, 4}), HasSubstr("dimension of 0"));
  EXPECT_THAT(with_shape({}), HasSubstr("0 dimensions"));
  EXPECT_THAT(with_shape({1, 1, 1, 1, 1}), HasSubstr("5 dimensions"));
  EXPECT_THAT(with_shape({2, 33}, kQ4_0), AllOf(HasSubstr("rows of 33"), HasSubstr("Q4_0")));
}

TEST(GgufTest, OffsetsBeyondTheEndAreRefused) {
  const auto at = [](uint64_t offset) {
    return ErrorOf(GgufWriter().Add({"t", kF32, {8}, std::string(32, '\0'), offset}));
  };
  EXPECT_THAT(at(32), HasSubstr("tensor 't' takes 32 bytes at offset 32 of 32"));
  EXPECT_THAT(at(kHuge - 31), HasSubstr("tensor 't' takes"));
  EXPECT_THAT(at(uint64_t{1} << 63), HasSubstr("tensor 't' takes"));
  EXPECT_THAT(at(4), HasSubstr("not a multiple of 32"));
}

TEST(GgufTest, OverlapsAreRefused) {
  GgufWriter writer;
  writer.Add({"x", kF32, {16}, std::string(64, '\0')});
  writer.Add({"y", kF32, {8}, std::string(32, '\0'), 32});
  EXPECT_THAT(ErrorOf(writer), AllOf(HasSubstr("'x' and 'y'"), HasSubstr("overlap")));
}

TEST(GgufTest, TypesThatTheEngineLacksAreListedWithTheirNames) {
  GgufWriter writer;
  writer.Add({"k", kQ4_K, {256}, std::string(144, '\0')}).Add({"new", 999, {256}, "1234"});
  const std::string bytes = writer.Bytes();
  const auto file = GgufFile::Parse(AsBytes(bytes), "m");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors()[0].type, TensorType::kOther);
  EXPECT_EQ(file->tensors()[0].type_name, "Q4_K");
  EXPECT_EQ(file->tensors()[1].type_name, "number 999");
  EXPECT_TRUE(file->tensors()[1].data.empty());
}

TEST(GgufTest, AbsentSpecialIdsAreNone) {
  const std::string bytes = GgufWriter()
                                .Uint("none", 0xFFFFFFFF)
                                .Raw("minus", 5, LittleEndian<int32_t>(-1))
                                .Uint("two", 2)
                                .Uint("wild", 0x80000000)
                                .Bytes();
  const auto file = GgufFile::Parse(AsBytes(bytes), "m");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*file->TokenId("absent"), -1);
  EXPECT_EQ(*file->TokenId("none"), -1);
  EXPECT_EQ(*file->TokenId("minus"), -1);
  EXPECT_EQ(*file->TokenId("two"), 2);
  EXPECT_FALSE(file->TokenId("wild").ok());
}

}  // namespace
}  // namespace thermocline
