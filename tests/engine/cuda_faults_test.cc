// The engine on a device that fails it: each of its calls of CUDA, the first ones of loading or of
// a step, is refused, finds no memory, or ends the context. Then loading and the step answer an
// error, or what is right all the same; the caller's blocks are neither read nor written any more;
// and the same model goes on, or after a fatal error the next process's does.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <functional>
#include <optional>
#include <span>

#include "engine/cuda_transformer.h"
#include "engine/sampler.h"
#include "tests/engine/transformer_fixture.h"
#include "tests/fakecuda/fake_cuda.h"

namespace thermocline {
namespace {

constexpr size_t kPrompt = 18;
constexpr int kSteps = 3;  // the first of them computes the prompt
constexpr int kLoading = -1;
constexpr int kRefused = 1, kOutOfMemory = 2, kFatal = 700;

/// Host memory for the KV of a few steps, which may be taken away.
class Blocks {
 public:
  explicit Blocks(const KvGeometry& geometry)
      : bytes_(BlocksOf(kPrompt + kSteps) * geometry.block_bytes()),
        memory_(static_cast<std::byte*>(
            ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    for (size_t at = 0; at < bytes_; at += geometry.block_bytes()) {
      pointers_.push_back(memory_ + at);
    }
  }
  Blocks(const Blocks&) = delete;
  Blocks& operator=(const Blocks&) = delete;
  ~Blocks() { ::munmap(memory_, bytes_); }

  /// From here on whoever touches them ends the process.
  void TakeAway() { ASSERT_EQ(::mprotect(memory_, bytes_, PROT_NONE), 0); }
  std::span<std::byte* const> pointers() const { return pointers_; }

 private:
  const size_t bytes_;
  std::byte* const memory_;
  std::vector<std::byte*> pointers_;
};

class CudaFaultsTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    fakecuda::Restart();
    setenv("THERMOCLINE_CUBLASLT", TC_CUBLASLT_STANDIN, 1);
    TC_NEED_FILE(ModelData("golden/p0.json"));
    TC_NEED_FILE(ModelData("stories260K.gguf"));
    auto file = ModelFile::Open(ModelData("stories260K.gguf"), {.context_length = 128});
    ASSERT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
    ids_ = ReadJson(ModelData("golden/p0.json"))["out_ids"].get<std::vector<int32_t>>();
    ids_.insert(ids_.begin(), 1);
  }
  void TearDown() override { fakecuda::Restart(); }

  std::unique_ptr<Transformer> Load() {
    auto model = LoadOnCuda(*file_);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }

  /// The golden tokens behind the prompt, or an error. The second step has its KV from host memory,
  /// the third on the device.
  absl::Status Compute(
      Transformer& model, Blocks& blocks,
      const std::function<void(int step)>& before = [](int) {}) {
    std::vector<float> logits(model.config().vocab);
    for (int step = 0; step < kSteps; ++step) {
      before(step);
      const size_t begin = step == 0 ? 0 : kPrompt + step - 1, end = kPrompt + step;
      TC_RETURN_IF_ERROR(model.Forward({.tokens = {ids_.data() + begin, end - begin},
                                        .position = static_cast<int>(begin),
                                        .blocks = blocks.pointers(),
                                        .kv_dtype = KvDtype::kF16,
                                        .continues = step == 2,
                                        .logits = logits}));
      EXPECT_EQ(GreedyToken(logits), ids_[end]) << "step " << step;
    }
    return absl::OkStatus();
  }

  /// The call number `nth` from `when` on (a step, or kLoading) fails.
  void Suffer(int when, int nth, int error) {
    SCOPED_TRACE(testing::Message()
                 << "call " << nth << " from step " << when << " on, error " << error);
    const auto fail_at = [&](int now) {
      if (now == when) fakecuda::FailCall(GetParam(), nth, error);
    };
    fail_at(kLoading);
    absl::StatusOr<std::unique_ptr<Transformer>> loaded = LoadOnCuda(*file_);
    absl::Status status = loaded.status();
    std::unique_ptr<Transformer> model = loaded.ok() ? *std::move(loaded) : nullptr;
    std::optional<Blocks> blocks;
    if (model != nullptr) {
      blocks.emplace(model->kv_geometry(KvDtype::kF16));
      status = Compute(*model, *blocks, fail_at);
      // A context that is dead does no more, though nobody can wait for that.
      if (!status.ok() && error != kFatal) blocks->TakeAway();
    }
    failures_ += status.ok() ? 0 : 1;
    fakecuda::Restart();
    if (error == kFatal) model.reset();
    if (model == nullptr) model = Load();
    ASSERT_NE(model, nullptr);
    Blocks others(model->kv_geometry(KvDtype::kF16));
    const absl::Status again = Compute(*model, others);
    EXPECT_TRUE(again.ok()) << again << ", after " << status;
  }

  std::unique_ptr<ModelFile> file_;
  std::vector<int32_t> ids_;
  int failures_ = 0;
};

TEST_P(CudaFaultsTest, AreErrorsAndPass) {
  for (const int error : {kRefused, kOutOfMemory, kFatal}) {
    for (int nth = 1; nth <= 3; ++nth) {
      // What loading had when the context died is lost for as long as this process lives.
      if (nth == 1 || error != kFatal) Suffer(kLoading, nth, error);
      Suffer(0, nth, error);
    }
    Suffer(1, 1, error);
  }
  EXPECT_GT(failures_, 0);
}

INSTANTIATE_TEST_SUITE_P(Calls, CudaFaultsTest,
                         testing::Values("cublasLtMatmul", "cudaHostAlloc", "cudaLaunchKernel",
                                         "cudaMalloc", "cudaMemcpyAsync", "cudaMemsetAsync",
                                         "cudaStreamCreateWithPriority", "cudaStreamSynchronize",
                                         "cuMemCreate", "cuMemMap", "cuMemcpyBatchAsync"),
                         [](const auto& call) { return std::string(call.param); });

}  // namespace
}  // namespace thermocline
