// The rule of exactness, walked: a prompt of 300 tokens, then greedy ones, must give the same
// logits and the same KV bytes, to the bit, however the prompt was cut, however much of it was
// cached (in pages that cannot be written), on however many threads, in whatever order its blocks
// lie, with NaN in every unwritten row, by every form of the kernels. The reference is one chunk on
// one thread. The walk is a short one, or the whole one with TC_EXACTNESS=full (minutes).
#include <sys/mman.h>

#include <cstdio>

#include "base/check.h"
#include "base/units.h"
#include "engine/sampler.h"
#include "kernels/cpu/cpu_kernels.h"
#include "tests/engine/transformer_fixture.h"

namespace thermocline {
namespace {

struct Result {
  std::vector<int32_t> ids;   // prompt and generated
  std::vector<float> logits;  // after the prompt and after every generated token
  std::string kv;
};

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Blocks computed by somebody else, in memory that only lets itself be read.
class ReadOnlyBlocks {
 public:
  ReadOnlyBlocks(TestSequence& source, size_t count)
      : bytes_(RoundUp(count * source.geometry().block_bytes(), kPageBytes)) {
    void* memory =
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TC_CHECK(memory != MAP_FAILED);
    memory_ = static_cast<std::byte*>(memory);
    for (size_t i = 0; i < count; ++i) {
      blocks_.push_back(memory_ + i * source.geometry().block_bytes());
      std::memcpy(blocks_.back(), source.blocks()[i], source.geometry().block_bytes());
    }
    TC_CHECK(mprotect(memory_, bytes_, PROT_READ) == 0);
  }
  ~ReadOnlyBlocks() { munmap(memory_, bytes_); }
  const std::vector<std::byte*>& blocks() const { return blocks_; }

 private:
  size_t bytes_;
  std::byte* memory_;
  std::vector<std::byte*> blocks_;
};

/// One model's walk. `generated` tokens follow the prompt.
class Walk {
 public:
  Walk(std::vector<int32_t> prompt, size_t generated)
      : prompt_(std::move(prompt)), generated_(generated) {}

  Result Reference(Transformer& model, KvDtype dtype) {
    return Compute(model, dtype, static_cast<int>(prompt_.size()), nullptr, false);
  }

  /// In chunks of `chunk`, the blocks in falling order.
  void Chunked(Transformer& model, KvDtype dtype, int chunk, const Result& reference) {
    Compare(Compute(model, dtype, chunk, nullptr, true), reference,
            Describe(model, dtype) + "chunks of " + std::to_string(chunk));
  }

  /// With `cached` tokens' blocks taken from another sequence.
  void Cached(Transformer& model, KvDtype dtype, size_t cached, const Result& reference) {
    TestSequence other(model, dtype, cached);
    other.Feed(prompt_, 0, cached, 512);
    const ReadOnlyBlocks blocks(other, cached / kBlockTokens);
    Compare(Compute(model, dtype, 512, &blocks, false), reference,
            Describe(model, dtype) + std::to_string(cached) + " cached tokens");
  }

  /// Prompt and generated tokens prefilled together: the KV that decode left must be the same.
  void PrefilledWhole(Transformer& model, KvDtype dtype, const Result& reference) {
    TestSequence sequence(model, dtype, reference.ids.size());
    sequence.Feed(reference.ids, 0, reference.ids.size(), 512);
    const size_t vocab = model.config().vocab;
    const std::vector<float> last(reference.logits.end() - vocab, reference.logits.end());
    const std::string what = Describe(model, dtype) + "generated tokens prefilled";
    EXPECT_TRUE(SameBits(sequence.last_logits(), last)) << what;
    EXPECT_TRUE(sequence.Kv(reference.ids.size()) == reference.kv) << what;
    ++runs_;
  }

  int runs() const { return runs_; }

 private:
  static std::string Describe(Transformer& model, KvDtype dtype) {
    return std::string(model.kernels()) + ", " + std::to_string(model.threads()) + " threads, " +
           KvDtypeName(dtype) + " KV, ";
  }

  Result Compute(Transformer& model, KvDtype dtype, int chunk, const ReadOnlyBlocks* cached,
                 bool reversed) {
    Result result{.ids = prompt_};
    TestSequence sequence(model, dtype, prompt_.size() + generated_, reversed);
    const size_t cached_blocks = cached == nullptr ? 0 : cached->blocks().size();
    for (size_t i = 0; i < cached_blocks; ++i) sequence.blocks()[i] = cached->blocks()[i];
    sequence.Feed(prompt_, cached_blocks * kBlockTokens, prompt_.size(), chunk);
    for (size_t i = 0; i < generated_; ++i) {
      const std::vector<float>& logits = sequence.last_logits();
      result.logits.insert(result.logits.end(), logits.begin(), logits.end());
      result.ids.push_back(GreedyToken(logits));
      sequence.Feed(result.ids, result.ids.size() - 1, result.ids.size(), 1);
    }
    result.logits.insert(result.logits.end(), sequence.last_logits().begin(),
                         sequence.last_logits().end());
    result.kv = sequence.Kv(result.ids.size());
    return result;
  }

  void Compare(const Result& result, const Result& reference, const std::string& what) {
    EXPECT_EQ(result.ids, reference.ids) << what;
    EXPECT_TRUE(SameBits(result.logits, reference.logits)) << what << ": logits differ";
    EXPECT_TRUE(result.kv == reference.kv) << what << ": KV differs";
    ++runs_;
  }

  std::vector<int32_t> prompt_;
  size_t generated_;
  int runs_ = 0;
};

struct Extent {
  std::vector<int> threads, chunks, cached;
};

/// The whole walk if TC_EXACTNESS=full asks for it, else `in_short`.
Extent ExtentOr(Extent in_short) {
  const char* wanted = std::getenv("TC_EXACTNESS");
  if (wanted == nullptr || std::string(wanted) != "full") return in_short;
  Extent whole{.threads = {1, 2, 3}, .chunks = {1, 2, 3, 7, 16, 37, 64, 100, 128, 256, 300}};
  for (int tokens = 16; tokens < 300; tokens += 16) whole.cached.push_back(tokens);
  return whole;
}

void RunWalk(const std::string& path, uint32_t context, Walk& walk, const Extent& extent,
             const std::vector<std::string>& forms) {
  const auto alone = LoadModel(path, 1, "", context);
  ASSERT_TRUE(alone);
  std::vector<std::unique_ptr<Transformer>> models;
  for (const std::string& form : forms) {
    for (const int threads : extent.threads) {
      models.push_back(LoadModel(path, threads, form.c_str(), context));
      ASSERT_TRUE(models.back());
    }
  }
  for (const KvDtype dtype : {KvDtype::kF32, KvDtype::kF16}) {
    const Result reference = walk.Reference(*alone, dtype);
    for (const auto& model : models) {
      for (const int chunk : extent.chunks) walk.Chunked(*model, dtype, chunk, reference);
      for (const int cached : extent.cached) walk.Cached(*model, dtype, cached, reference);
      walk.PrefilledWhole(*model, dtype, reference);
    }
  }
  std::printf("%d runs, each of the same bits\n", walk.runs());
}

std::vector<std::string> SupportedForms() {
  std::vector<std::string> names;
  for (const CpuKernels* table : SupportedCpuKernels()) names.push_back(table->name);
  return names;
}

TEST(ExactnessTest, Stories260KInEveryForm) {
  TC_NEED_FILE(ModelData("stories260K.gguf"));
  TC_NEED_FILE(ModelData("golden/p1.json"));
  std::vector<int32_t> prompt = {1};
  for (const char* name : {"golden/p0.json", "golden/p1.json"}) {
    const auto ids = ReadJson(ModelData(name))["out_ids"].get<std::vector<int32_t>>();
    prompt.insert(prompt.end(), ids.begin(), ids.end());
  }
  prompt.resize(300);
  Walk walk(prompt, 32);
  RunWalk(ModelData("stories260K.gguf"), 512, walk,
          ExtentOr({.threads = {1, 2, 3}, .chunks = {1, 7, 64, 100}, .cached = {16, 144, 256}}),
          SupportedForms());
}

TEST(ExactnessTest, Stories260KRotatedInHalves) {
  TC_NEED_FILE(ModelData("stories260K-hf"));
  std::vector<int32_t> prompt(70);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(3 + i * 37 % 500);
  Walk walk(prompt, 8);
  RunWalk(ModelData("stories260K-hf"), 512, walk,
          {.threads = {1, 2}, .chunks = {1, 5, 64}, .cached = {16, 64}}, SupportedForms());
}

class SmolLm2ExactnessTest : public testing::Test {
 protected:
  void SetUp() override {
    TC_NEED_FILE(SmolLm2Path());
    TC_NEED_FILE(ModelData("smollm2/e_doc_1k5.json"));
    document_ =
        ReadJson(ModelData("smollm2/e_doc_1k5.json"))["prompt_ids"].get<std::vector<int32_t>>();
  }
  std::vector<int32_t> Prompt(size_t tokens) const {
    return {document_.begin(), document_.begin() + tokens};
  }
  std::vector<int32_t> document_;
};

TEST_F(SmolLm2ExactnessTest, TheBestForm) {
  Walk walk(Prompt(300), 4);
  RunWalk(SmolLm2Path(), 0, walk,
          ExtentOr({.threads = {2, 3}, .chunks = {7, 100}, .cached = {16, 272}}), {""});
}

/// The portable form computes every fused multiply-add by a call: a few tokens only.
TEST_F(SmolLm2ExactnessTest, ThePortableForm) {
  Walk walk(Prompt(3), 1);
  RunWalk(SmolLm2Path(), 0, walk, {.threads = {2}, .chunks = {4}, .cached = {}}, {"portable"});
}

}  // namespace
}  // namespace thermocline
