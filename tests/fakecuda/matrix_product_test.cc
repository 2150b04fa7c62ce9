// The product's matrix products (kernels/cuda/cublaslt.h) over the stand-in for cuBLASLt: results,
// what is refused before the library sees it, and errors of the device.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "kernels/cuda/copies.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"
#include "kernels/simt/numbers.h"
#include "tests/fakecuda/fake_cuda.h"

namespace thermocline {
namespace {

constexpr int kInputs = 16, kOutputs = 8, kRows = 3;
constexpr uint64_t kBytes = 4096;

class MatrixProductTest : public testing::Test {
 protected:
  void SetUp() override {
    fakecuda::Restart();
    fakecuda::SetDevice({});
    setenv("THERMOCLINE_CUBLASLT", TC_CUBLASLT_STANDIN, 1);
    stream_ = Get(cuda::Stream::Create());
    x_ = Get(cuda::DeviceBuffer::Allocate(kBytes));
    weights_ = Get(cuda::DeviceBuffer::Allocate(kBytes));
    y_ = Get(cuda::DeviceBuffer::Allocate(kBytes));
    host_ = Get(cuda::PinnedBuffer::Allocate(kBytes));
    products_ = Get(cuda::CublasLt::Load());
    // x[row][i] = row + 1, weights[output][i] = output: y[row][output] = 16 (row + 1) output.
    Fill(x_, kRows, [](int row) { return static_cast<float>(row + 1); });
    Fill(weights_, kOutputs, [](int output) { return static_cast<float>(output); });
  }
  void TearDown() override {
    products_.reset();
    stream_.reset();
    for (cuda::DeviceBuffer* const buffer : {&x_, &weights_, &y_}) *buffer = {};
    host_ = {};
    fakecuda::Restart();
  }

  template <class T>
  static T Get(absl::StatusOr<T> value) {
    EXPECT_TRUE(value.ok()) << value.status();
    return *std::move(value);
  }

  template <class Value>
  void Fill(const cuda::DeviceBuffer& to, int rows, Value value) {
    Half* const numbers = reinterpret_cast<Half*>(host_.data());
    for (int i = 0; i < rows * kInputs; ++i) numbers[i] = FromFloat<Half>(value(i / kInputs));
    Copy(to.data(), host_.data());
  }
  void Copy(std::byte* to, const std::byte* from) {
    ASSERT_TRUE(cuda::CopyAsync({.to = to, .from = from, .bytes = kBytes}, stream_->get()).ok());
    ASSERT_TRUE(stream_->Synchronize().ok());
  }

  cuda::MatrixProduct Product() const {
    return {.y = y_.data(),
            .x = x_.data(),
            .weights = weights_.data(),
            .rows = kRows,
            .outputs = kOutputs,
            .inputs = kInputs,
            .x_stride = kInputs,
            .y_stride = kOutputs,
            .float_result = true};
  }
  absl::Status Multiply(const cuda::MatrixProduct& product) {
    return products_->Multiply(product, stream_->get());
  }
  void ExpectRefused(const cuda::MatrixProduct& product, const std::string& why) {
    const absl::Status status = Multiply(product);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_NE(std::string(status.message()).find(why), std::string::npos) << status;
    EXPECT_EQ(fakecuda::CallCount("cublasLtMatmul"), 0);
  }

  std::optional<cuda::Stream> stream_;
  cuda::DeviceBuffer x_, weights_, y_;
  cuda::PinnedBuffer host_;
  std::unique_ptr<cuda::CublasLt> products_;
};

TEST_F(MatrixProductTest, RowsTimesRowsOfWeights) {
  cuda::MatrixProduct product = Product();
  for (const bool add : {false, true}) {
    product.add = add;
    ASSERT_TRUE(Multiply(product).ok());
    Copy(host_.data(), y_.data());
    const float* const y = reinterpret_cast<const float*>(host_.data());
    for (int row = 0; row < kRows; ++row) {
      for (int output = 0; output < kOutputs; ++output) {
        const int wanted = kInputs * (row + 1) * output * (add ? 2 : 1);
        EXPECT_EQ(y[row * kOutputs + output], static_cast<float>(wanted)) << row << ' ' << output;
      }
    }
  }
}

TEST_F(MatrixProductTest, NoRowsAreNothingToDo) {
  cuda::MatrixProduct product = Product();
  product.rows = 0;
  EXPECT_TRUE(Multiply(product).ok());
  EXPECT_EQ(fakecuda::CallCount("cublasLtMatmul"), 0);
}

TEST_F(MatrixProductTest, WhatIsNotAlignedIsRefusedByName) {
  const cuda::MatrixProduct good = Product();
  cuda::MatrixProduct product = good;
  product.y = y_.data() + 8;
  ExpectRefused(product, "product's y");
  product = good;
  product.y_stride = kOutputs + 2;
  ExpectRefused(product, "product's y");
  product = good;
  product.x = x_.data() + 2;
  ExpectRefused(product, "product's x");
  product = good;
  product.x_stride = kInputs + 4;
  ExpectRefused(product, "distance of 40 bytes");
  product = good;
  product.weights = weights_.data() + 4;
  ExpectRefused(product, "product's weights");
  product = good;
  product.inputs = 12;
  ExpectRefused(product, "product's weights");
  product = good;
  product.rows = -1;
  ExpectRefused(product, "-1 rows");
  product = good;
  product.outputs = 0;
  ExpectRefused(product, "0 outputs");
}

TEST_F(MatrixProductTest, ADeadContextIsToldFromAFailure) {
  fakecuda::FailCall("cublasLtMatmul", 1, 2);
  const absl::Status once = Multiply(Product());
  EXPECT_EQ(once.code(), absl::StatusCode::kResourceExhausted) << once;
  EXPECT_FALSE(cuda::IsSticky(once)) << once;
  EXPECT_TRUE(Multiply(Product()).ok());
  ASSERT_TRUE(stream_->Synchronize().ok());

  fakecuda::FailCall("cublasLtMatmul", 1, 700);
  EXPECT_TRUE(Multiply(Product()).ok()) << "the call is fine, the work is not";
  EXPECT_TRUE(cuda::IsSticky(stream_->Synchronize()));
  const absl::Status dead = Multiply(Product());
  EXPECT_TRUE(cuda::IsSticky(dead)) << dead;
  EXPECT_NE(std::string(dead.message()).find("cublasLtMatmul"), std::string::npos) << dead;
}

TEST(CudaErrorTest, ErrorsAfterWhichAProcessMustEndAreToldFromOthers) {
  for (const int fatal : {214, 226, 700, 719, 721, 810, 999}) {
    EXPECT_TRUE(cuda::IsSticky(cuda::LaunchStatus(static_cast<CudaError>(fatal), "a kernel")))
        << fatal;
  }
  for (const int passing : {1, 2, 35, 100, 101, 600}) {
    EXPECT_FALSE(cuda::IsSticky(cuda::LaunchStatus(static_cast<CudaError>(passing), "a kernel")))
        << passing;
  }
}

}  // namespace
}  // namespace thermocline
