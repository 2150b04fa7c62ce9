// A library in libcublasLt's place, for programs that load it at run time (dlopen): the calls that
// a matrix product D = alpha op(A) op(B) + beta C takes, on the fake runtime's streams, by
// OpenBLAS. A and B are f16, bf16 or f32, sums f32, C and D any of these. The arguments are checked
// as NVIDIA documents them; also that addresses are aligned as the preference promised when the
// algorithm was chosen, and that the algorithm gets the workspace that it asked for.
#include <cblas.h>
#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "kernels/simt/numbers.h"
#include "tests/fakecuda/library_work.h"

namespace {

using thermocline::Bfloat16;
using thermocline::FromFloat;
using thermocline::Half;
using thermocline::ToFloat;

constexpr size_t kWorkspaceBytes = 64 * 1024;
constexpr uint32_t kDefaultAlignment = 256;

/// What the opaque descriptors hold.
struct Layout {
  cudaDataType type;
  cublasLtOrder_t order;
  uint64_t rows, columns;
  int64_t leading;  ///< the distance of columns, or of rows in row order, in numbers

  bool transposed() const { return order == CUBLASLT_ORDER_ROW; }
  /// As it lies: runs of numbers side by side.
  uint64_t run() const { return transposed() ? columns : rows; }
  uint64_t run_count() const { return transposed() ? rows : columns; }
};
struct Operation {
  cublasComputeType_t compute;
  cudaDataType scale;
  cublasOperation_t transpose_a, transpose_b;
};
struct Preference {
  uint64_t max_workspace_bytes;
  uint32_t alignment_a, alignment_b, alignment_c, alignment_d;
};
struct Algorithm {
  uint64_t magic;
  uint64_t workspace_bytes;
  uint32_t alignment_a, alignment_b, alignment_c, alignment_d;
};
constexpr uint64_t kAlgorithmMagic = 0x74635f6c745f3031;

/// NVIDIA's opaque structures are large enough for ours, which lie at their beginning.
template <class T, class Opaque>
T& As(Opaque* opaque) {
  static_assert(sizeof(T) <= sizeof(Opaque));
  return *reinterpret_cast<T*>(opaque);
}
template <class T, class Opaque>
const T& As(const Opaque* opaque) {
  static_assert(sizeof(T) <= sizeof(Opaque));
  return *reinterpret_cast<const T*>(opaque);
}

template <class T>
cublasStatus_t Take(T& field, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

/// 0 for what the stand-in cannot multiply.
size_t NumberBytes(cudaDataType type) {
  switch (type) {
    case CUDA_R_16F:
    case CUDA_R_16BF:
      return 2;
    case CUDA_R_32F:
      return 4;
    default:
      return 0;
  }
}

size_t SpanBytes(const Layout& layout) {
  return ((layout.run_count() - 1) * static_cast<uint64_t>(layout.leading) + layout.run()) *
         NumberBytes(layout.type);
}

template <class T>
void WidenAs(const void* from, size_t count, float* to) {
  const T* const numbers = static_cast<const T*>(from);
  for (size_t i = 0; i < count; ++i) to[i] = ToFloat(numbers[i]);
}

/// The matrix without gaps, in the order that it lies in.
std::vector<float> Widen(const void* matrix, const Layout& layout) {
  std::vector<float> wide(layout.run() * layout.run_count());
  const size_t step = static_cast<size_t>(layout.leading) * NumberBytes(layout.type);
  for (uint64_t i = 0; i < layout.run_count(); ++i) {
    const char* const from = static_cast<const char*>(matrix) + i * step;
    float* const to = wide.data() + i * layout.run();
    switch (layout.type) {
      case CUDA_R_16F:
        WidenAs<Half>(from, layout.run(), to);
        break;
      case CUDA_R_16BF:
        WidenAs<Bfloat16>(from, layout.run(), to);
        break;
      default:
        std::memcpy(to, from, layout.run() * sizeof(float));
    }
  }
  return wide;
}

template <class T>
void NarrowAs(const float* from, size_t count, void* to) {
  T* const numbers = static_cast<T*>(to);
  for (size_t i = 0; i < count; ++i) numbers[i] = FromFloat<T>(from[i]);
}

void Narrow(const std::vector<float>& wide, const Layout& layout, void* matrix) {
  const size_t step = static_cast<size_t>(layout.leading) * NumberBytes(layout.type);
  for (uint64_t i = 0; i < layout.run_count(); ++i) {
    char* const to = static_cast<char*>(matrix) + i * step;
    const float* const from = wide.data() + i * layout.run();
    switch (layout.type) {
      case CUDA_R_16F:
        NarrowAs<Half>(from, layout.run(), to);
        break;
      case CUDA_R_16BF:
        NarrowAs<Bfloat16>(from, layout.run(), to);
        break;
      default:
        std::memcpy(to, from, layout.run() * sizeof(float));
    }
  }
}

/// A product whose arguments are checked, until its stream's turn comes.
struct Product {
  const void *a, *b, *c;
  void* d;
  Layout a_layout, b_layout, c_layout, d_layout;
  bool transpose_a, transpose_b;
  float alpha, beta;
  blasint inner;

  void Run() const {
    const std::vector<float> wide_a = Widen(a, a_layout), wide_b = Widen(b, b_layout);
    std::vector<float> wide_d =
        beta != 0 ? Widen(c, c_layout) : std::vector<float>(d_layout.rows * d_layout.columns);
    cblas_sgemm(CblasColMajor, transpose_a ? CblasTrans : CblasNoTrans,
                transpose_b ? CblasTrans : CblasNoTrans, static_cast<blasint>(d_layout.rows),
                static_cast<blasint>(d_layout.columns), inner, alpha, wide_a.data(),
                static_cast<blasint>(a_layout.run()), wide_b.data(),
                static_cast<blasint>(b_layout.run()), beta, wide_d.data(),
                static_cast<blasint>(d_layout.rows));
    Narrow(wide_d, d_layout, d);
  }
};

/// Whether the matrices fit each other, and the stand-in can do it; fills all but the addresses and
/// the factors.
cublasStatus_t Plan(const Operation& operation, const Layout& a, const Layout& b, const Layout& c,
                    const Layout& d, Product& product) {
  if (operation.compute != CUBLAS_COMPUTE_32F || operation.scale != CUDA_R_32F) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  for (const Layout* layout : {&a, &b, &c, &d}) {
    if (NumberBytes(layout->type) == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (layout->order != CUBLASLT_ORDER_COL && layout->order != CUBLASLT_ORDER_ROW) {
      return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (layout->rows == 0 || layout->columns == 0 ||
        layout->leading < static_cast<int64_t>(layout->run())) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  }
  if (a.type != b.type || c.type != d.type || c.transposed() || d.transposed()) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  const bool flip_a = operation.transpose_a != CUBLAS_OP_N;
  const bool flip_b = operation.transpose_b != CUBLAS_OP_N;
  const uint64_t inner = flip_a ? a.rows : a.columns;
  if ((flip_a ? a.columns : a.rows) != d.rows || (flip_b ? b.rows : b.columns) != d.columns ||
      (flip_b ? b.columns : b.rows) != inner || c.rows != d.rows || c.columns != d.columns) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  product.a_layout = a;
  product.b_layout = b;
  product.c_layout = c;
  product.d_layout = d;
  product.transpose_a = flip_a != a.transposed();
  product.transpose_b = flip_b != b.transposed();
  product.inner = static_cast<blasint>(inner);
  return CUBLAS_STATUS_SUCCESS;
}

bool IsAligned(const void* pointer, uint32_t alignment) {
  return reinterpret_cast<uintptr_t>(pointer) % alignment == 0;
}

int a_library;  // a handle's target

}  // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  openblas_set_num_threads(1);  // sums in one order, whatever the machine
  *handle = reinterpret_cast<cublasLtHandle_t>(&a_library);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }

size_t cublasLtGetVersion() { return 130000; }

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "an unknown cuBLAS status";
  }
}

const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
  *description = new cublasLtMatmulDescOpaque_t{};
  As<Operation>(*description) = {compute, scale, CUBLAS_OP_N, CUBLAS_OP_N};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete description;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
  auto& operation = As<Operation>(description);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return Take(operation.transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return Take(operation.transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
      return Take(operation.scale, value, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t leading) {
  *layout = new cublasLtMatrixLayoutOpaque_t{};
  As<Layout>(*layout) = {type, CUBLASLT_ORDER_COL, rows, columns, leading};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t opaque,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, size_t bytes) {
  auto& layout = As<Layout>(opaque);
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
      return Take(layout.type, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return Take(layout.order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return Take(layout.rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return Take(layout.columns, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return Take(layout.leading, value, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t{};
  As<Preference>(*preference) = {0, kDefaultAlignment, kDefaultAlignment, kDefaultAlignment,
                                 kDefaultAlignment};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t opaque,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
  auto& preference = As<Preference>(opaque);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return Take(preference.max_workspace_bytes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return Take(preference.alignment_a, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return Take(preference.alignment_b, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return Take(preference.alignment_c, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return Take(preference.alignment_d, value, bytes);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                                              cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t opaque, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int* found) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (wanted <= 0 || results == nullptr || found == nullptr || opaque == nullptr) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  *found = 0;
  Product product = {};
  const cublasStatus_t status = Plan(As<Operation>(operation), As<Layout>(a), As<Layout>(b),
                                     As<Layout>(c), As<Layout>(d), product);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const auto& preference = As<Preference>(opaque);
  const uint64_t workspace_bytes =
      std::min<uint64_t>(preference.max_workspace_bytes, kWorkspaceBytes);
  results[0] = {};
  As<Algorithm>(&results[0].algo) = {kAlgorithmMagic,        workspace_bytes,
                                     preference.alignment_a, preference.alignment_b,
                                     preference.alignment_c, preference.alignment_d};
  results[0].workspaceSize = workspace_bytes;
  results[0].state = CUBLAS_STATUS_SUCCESS;
  results[0].wavesCount = 1;
  *found = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  auto product = std::make_unique<Product>();
  const cublasStatus_t status =
      Plan(As<Operation>(operation), As<Layout>(a_layout), As<Layout>(b_layout),
           As<Layout>(c_layout), As<Layout>(d_layout), *product);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  if (alpha == nullptr || beta == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  if (algo != nullptr) {
    const auto& chosen = As<Algorithm>(algo);
    if (chosen.magic != kAlgorithmMagic || workspace_bytes < chosen.workspace_bytes ||
        (chosen.workspace_bytes > 0 && workspace == nullptr) || !IsAligned(a, chosen.alignment_a) ||
        !IsAligned(b, chosen.alignment_b) || !IsAligned(c, chosen.alignment_c) ||
        !IsAligned(d, chosen.alignment_d)) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
  }
  product->a = a;
  product->b = b;
  product->c = c;
  product->d = d;
  std::memcpy(&product->alpha, alpha, sizeof(float));
  std::memcpy(&product->beta, beta, sizeof(float));
  const TcFakeCudaOperand operands[] = {
      {a, SpanBytes(product->a_layout), false},
      {b, SpanBytes(product->b_layout), false},
      {d, SpanBytes(product->d_layout), true},
      {workspace_bytes > 0 ? workspace : d, 1, true},
      {product->beta != 0 ? c : d, SpanBytes(product->c_layout), false},
  };
  const cudaError_t error = tc_fakecuda_give_work(
      "cublasLtMatmul", stream, operands, std::size(operands),
      [](void* work) { static_cast<const Product*>(work)->Run(); },
      [](void* work) { delete static_cast<Product*>(work); }, product.release());
  return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
