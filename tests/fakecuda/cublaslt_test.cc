// The stand-in for cuBLASLt, called as NVIDIA's header declares the real one, against float64.
#include <cublasLt.h>
#include <dlfcn.h>

#include <cmath>
#include <random>

#include "kernels/simt/numbers.h"
#include "tests/fakecuda/fake_cuda_test_util.h"

namespace thermocline::fakecuda {
namespace {

template <class T>
constexpr cudaDataType kTypeOf = std::is_same_v<T, Half>       ? CUDA_R_16F
                                 : std::is_same_v<T, Bfloat16> ? CUDA_R_16BF
                                                               : CUDA_R_32F;

/// A call of the library, by its name.
#define TC_LT(name) Call(decltype(&::name){}, #name)

class CublasLtTest : public FakeCudaTest {
 protected:
  void SetUp() override {
    FakeCudaTest::SetUp();
    library_ = dlopen(TC_CUBLASLT_STANDIN, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << dlerror();
    ASSERT_EQ(Call(&cublasLtCreate, "cublasLtCreate")(&handle_), CUBLAS_STATUS_SUCCESS);
    stream_ = NewStream();
  }

  void TearDown() override {
    for (const auto layout : layouts_) TC_LT(cublasLtMatrixLayoutDestroy)(layout);
    for (const auto operation : operations_) TC_LT(cublasLtMatmulDescDestroy)(operation);
    EXPECT_EQ(TC_LT(cublasLtDestroy)(handle_), CUBLAS_STATUS_SUCCESS);
    FakeCudaTest::TearDown();
  }

  template <class Function>
  Function Call(Function, const char* name) {
    return reinterpret_cast<Function>(dlsym(library_, name));
  }

  struct Matrix {
    uint64_t rows, columns;
    int64_t leading;

    uint64_t size() const { return columns * static_cast<uint64_t>(leading); }
    uint64_t index(uint64_t row, uint64_t column) const { return column * leading + row; }
  };

  cublasLtMatrixLayout_t NewLayout(cudaDataType type, const Matrix& matrix) {
    cublasLtMatrixLayout_t layout = nullptr;
    EXPECT_EQ(TC_LT(cublasLtMatrixLayoutCreate)(&layout, type, matrix.rows, matrix.columns,
                                                matrix.leading),
              CUBLAS_STATUS_SUCCESS);
    layouts_.push_back(layout);
    return layout;
  }

  template <class T>
  std::vector<T> Random(const Matrix& matrix) {
    std::uniform_real_distribution<float> number(-1, 1);
    std::vector<T> values(matrix.size());
    for (T& value : values) value = FromFloat<T>(number(random_));
    return values;
  }

  template <class T>
  T* ToDevice(const std::vector<T>& host) {
    T* const device = NewDeviceArray<T>(host.size());
    EXPECT_EQ(cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyDefault),
              cudaSuccess);
    return device;
  }

  /// D = alpha op(A) B + beta C, against float64.
  template <class In, class Out>
  void CheckProduct(const Matrix& a, bool transpose_a, const Matrix& b, const Matrix& d,
                    float alpha, float beta) {
    const std::vector<In> host_a = Random<In>(a), host_b = Random<In>(b);
    std::vector<Out> host_d = Random<Out>(d);
    Out* const device_d = ToDevice(host_d);
    const auto a_layout = NewLayout(kTypeOf<In>, a), b_layout = NewLayout(kTypeOf<In>, b);
    const auto d_layout = NewLayout(kTypeOf<Out>, d);
    const cublasLtMatmulDesc_t operation = NewOperation(transpose_a);
    const auto [algo, bytes] = Choose(operation, a_layout, b_layout, d_layout);
    char* const workspace = NewDeviceArray<char>(bytes);
    EXPECT_EQ(TC_LT(cublasLtMatmul)(handle_, operation, &alpha, ToDevice(host_a), a_layout,
                                    ToDevice(host_b), b_layout, &beta, device_d, d_layout, device_d,
                                    d_layout, &algo, workspace, bytes, stream_),
              CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
    std::vector<Out> result(host_d.size());
    ASSERT_EQ(cudaMemcpy(result.data(), device_d, result.size() * sizeof(Out), cudaMemcpyDefault),
              cudaSuccess);
    const uint64_t inner = transpose_a ? a.rows : a.columns;
    double worst = 0;
    for (uint64_t row = 0; row < d.rows; ++row) {
      for (uint64_t column = 0; column < d.columns; ++column) {
        double sum = 0;
        for (uint64_t k = 0; k < inner; ++k) {
          sum += double{ToFloat(host_a[transpose_a ? a.index(k, row) : a.index(row, k)])} *
                 ToFloat(host_b[b.index(k, column)]);
        }
        sum = alpha * sum + beta * double{ToFloat(host_d[d.index(row, column)])};
        worst = std::max(worst, std::abs(sum - ToFloat(result[d.index(row, column)])));
      }
    }
    EXPECT_LE(worst, sizeof(Out) == 4 ? 1e-4 : 4e-2);
  }

  cublasLtMatmulDesc_t NewOperation(bool transpose_a) {
    cublasLtMatmulDesc_t operation = nullptr;
    EXPECT_EQ(TC_LT(cublasLtMatmulDescCreate)(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
              CUBLAS_STATUS_SUCCESS);
    const cublasOperation_t transpose = transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    EXPECT_EQ(TC_LT(cublasLtMatmulDescSetAttribute)(operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                    &transpose, sizeof transpose),
              CUBLAS_STATUS_SUCCESS);
    operations_.push_back(operation);
    return operation;
  }

  std::pair<cublasLtMatmulAlgo_t, size_t> Choose(cublasLtMatmulDesc_t operation,
                                                 cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                                 cublasLtMatrixLayout_t d) {
    cublasLtMatmulPreference_t preference = nullptr;
    EXPECT_EQ(TC_LT(cublasLtMatmulPreferenceCreate)(&preference), CUBLAS_STATUS_SUCCESS);
    const uint64_t most = kMiB;
    EXPECT_EQ(TC_LT(cublasLtMatmulPreferenceSetAttribute)(
                  preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most),
              CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    EXPECT_EQ(TC_LT(cublasLtMatmulAlgoGetHeuristic)(handle_, operation, a, b, d, d, preference, 1,
                                                    &result, &found),
              CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(found, 1);
    EXPECT_EQ(TC_LT(cublasLtMatmulPreferenceDestroy)(preference), CUBLAS_STATUS_SUCCESS);
    EXPECT_GT(result.workspaceSize, 0u);
    return {result.algo, result.workspaceSize};
  }

  void* library_ = nullptr;
  cublasLtHandle_t handle_ = nullptr;
  cudaStream_t stream_ = nullptr;
  std::mt19937 random_{1};
  std::vector<cublasLtMatrixLayout_t> layouts_;
  std::vector<cublasLtMatmulDesc_t> operations_;
};

TEST_F(CublasLtTest, MultipliesWhateverLiesHow) {
  // Weights [37][65] as models store them (rows of inputs side by side): transposed in columns.
  const Matrix weights{65, 37, 72}, inputs{65, 5, 65}, outputs{37, 5, 40};
  CheckProduct<Half, Half>(weights, true, inputs, outputs, 1, 0);
  CheckProduct<Half, float>(weights, true, inputs, outputs, 1, 0);
  CheckProduct<Bfloat16, Bfloat16>(weights, true, inputs, outputs, 1, 0);
  CheckProduct<Half, float>(weights, true, inputs, outputs, 0.5f, 2);
  CheckProduct<float, float>(weights, true, inputs, outputs, 1, 1);
  CheckProduct<Half, float>({37, 65, 37}, false, inputs, {37, 5, 37}, 1, 0);
}

TEST_F(CublasLtTest, TakesItsTurnOnTheStream) {
  const Matrix one{1, 1, 1};
  float *const a = NewDeviceArray<float>(1), *const d = NewDeviceArray<float>(1);
  float* const three = NewPinnedArray<float>(1);
  *three = 3;
  const float alpha = 1, beta = 0;
  const auto layout = NewLayout(CUDA_R_32F, one);
  Gate gate(stream_);
  EXPECT_EQ(cudaMemcpyAsync(a, three, 4, cudaMemcpyDefault, stream_), cudaSuccess);
  EXPECT_EQ(TC_LT(cublasLtMatmul)(handle_, NewOperation(false), &alpha, a, layout, a, layout, &beta,
                                  d, layout, d, layout, nullptr, nullptr, 0, stream_),
            CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cudaStreamQuery(stream_), cudaErrorNotReady);
  gate.Open();
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  EXPECT_EQ(Read(d), 9);
  EXPECT_EQ(CallCount("cublasLtMatmul"), 1);
}

TEST_F(CublasLtTest, RefusesWhatCublasRefuses) {
  const Matrix matrix{8, 8, 8};
  const auto layout = NewLayout(CUDA_R_16F, matrix), other = NewLayout(CUDA_R_16F, {8, 4, 8});
  const cublasLtMatmulDesc_t operation = NewOperation(false);
  Half* const numbers = NewDeviceArray<Half>(128);
  const float alpha = 1, beta = 0;
  const auto [algo, bytes] = Choose(operation, layout, layout, layout);
  char* const workspace = NewDeviceArray<char>(bytes);
  const auto multiply = [&, &chosen = algo](const Half* a, cublasLtMatrixLayout_t b_layout,
                                            size_t workspace_bytes) {
    return TC_LT(cublasLtMatmul)(handle_, operation, &alpha, a, layout, numbers, b_layout, &beta,
                                 numbers, layout, numbers, layout, &chosen, workspace,
                                 workspace_bytes, stream_);
  };
  EXPECT_EQ(multiply(numbers, layout, bytes), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(multiply(numbers, other, bytes), CUBLAS_STATUS_INVALID_VALUE) << "shapes";
  EXPECT_EQ(multiply(numbers, layout, 0), CUBLAS_STATUS_INVALID_VALUE) << "workspace";
  EXPECT_EQ(multiply(numbers + 1, layout, bytes), CUBLAS_STATUS_INVALID_VALUE) << "alignment";
  alignas(256) Half host[64] = {};
  EXPECT_EQ(multiply(host, layout, bytes), CUBLAS_STATUS_SUCCESS) << "nobody looks yet";
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorIllegalAddress);
}

}  // namespace
}  // namespace thermocline::fakecuda
