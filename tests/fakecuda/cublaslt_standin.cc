// A library in libcublasLt's place, for programs that load it at run time (dlopen): the calls that
// a matrix product D = alpha op(A) op(B) + beta C takes, on the fake runtime's streams, by
// OpenBLAS. All lie by columns; A and B are f16, bf16 or f32, sums f32, C and D any of these. The
// arguments are checked as NVIDIA documents them; also that addresses are aligned as the preference
// promised when the algorithm was chosen, and that the algorithm gets the workspace that it asked
// for.
#include <cblas.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "kernels/cuda/cublaslt_api.h"
#include "kernels/simt/numbers.h"
#include "tests/fakecuda/library_work.h"

// What the opaque descriptors hold.
namespace thermocline::cublaslt {
struct Context {};
struct MatrixLayout {
  DataType type;
  uint64_t rows, columns;
  int64_t leading;  ///< the distance of columns, in numbers
};
struct MatmulDesc {
  ComputeType compute;
  DataType scale;
  Operation transpose_a;
};
struct MatmulPreference {
  uint64_t max_workspace_bytes;
  uint32_t alignment_a, alignment_b, alignment_c, alignment_d;
};
}  // namespace thermocline::cublaslt

using namespace thermocline::cublaslt;

namespace {

using thermocline::Bfloat16;
using thermocline::FromFloat;
using thermocline::Half;
using thermocline::ToFloat;

constexpr size_t kWorkspaceBytes = 64 * 1024;
constexpr uint32_t kDefaultAlignment = 256;

/// What the stand-in keeps in a MatmulAlgo.
struct Algorithm {
  uint64_t magic;
  uint64_t workspace_bytes;
  uint32_t alignment_a, alignment_b, alignment_c, alignment_d;
};
constexpr uint64_t kAlgorithmMagic = 0x74635f6c745f3031;
static_assert(sizeof(Algorithm) <= sizeof(MatmulAlgo));

template <class T>
Status Take(T& field, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return kInvalidValue;
  std::memcpy(&field, value, bytes);
  return kSuccess;
}

/// 0 for what the stand-in cannot multiply.
size_t NumberBytes(DataType type) {
  switch (type) {
    case kR16F:
    case kR16BF:
      return 2;
    case kR32F:
      return 4;
    default:
      return 0;
  }
}

size_t SpanBytes(const MatrixLayout& layout) {
  return ((layout.columns - 1) * static_cast<uint64_t>(layout.leading) + layout.rows) *
         NumberBytes(layout.type);
}

template <class T>
void WidenAs(const void* from, size_t count, float* to) {
  const T* const numbers = static_cast<const T*>(from);
  for (size_t i = 0; i < count; ++i) to[i] = ToFloat(numbers[i]);
}

/// The matrix without gaps.
std::vector<float> Widen(const void* matrix, const MatrixLayout& layout) {
  std::vector<float> wide(layout.rows * layout.columns);
  const size_t step = static_cast<size_t>(layout.leading) * NumberBytes(layout.type);
  for (uint64_t i = 0; i < layout.columns; ++i) {
    const char* const from = static_cast<const char*>(matrix) + i * step;
    float* const to = wide.data() + i * layout.rows;
    switch (layout.type) {
      case kR16F:
        WidenAs<Half>(from, layout.rows, to);
        break;
      case kR16BF:
        WidenAs<Bfloat16>(from, layout.rows, to);
        break;
      default:
        std::memcpy(to, from, layout.rows * sizeof(float));
    }
  }
  return wide;
}

template <class T>
void NarrowAs(const float* from, size_t count, void* to) {
  T* const numbers = static_cast<T*>(to);
  for (size_t i = 0; i < count; ++i) numbers[i] = FromFloat<T>(from[i]);
}

void Narrow(const std::vector<float>& wide, const MatrixLayout& layout, void* matrix) {
  const size_t step = static_cast<size_t>(layout.leading) * NumberBytes(layout.type);
  for (uint64_t i = 0; i < layout.columns; ++i) {
    char* const to = static_cast<char*>(matrix) + i * step;
    const float* const from = wide.data() + i * layout.rows;
    switch (layout.type) {
      case kR16F:
        NarrowAs<Half>(from, layout.rows, to);
        break;
      case kR16BF:
        NarrowAs<Bfloat16>(from, layout.rows, to);
        break;
      default:
        std::memcpy(to, from, layout.rows * sizeof(float));
    }
  }
}

/// A product whose arguments are checked, until its stream's turn comes.
struct Product {
  const void *a, *b, *c;
  void* d;
  MatrixLayout a_layout, b_layout, c_layout, d_layout;
  bool transpose_a;
  float alpha, beta;
  blasint inner;

  void Run() const {
    const std::vector<float> wide_a = Widen(a, a_layout), wide_b = Widen(b, b_layout);
    std::vector<float> wide_d =
        beta != 0 ? Widen(c, c_layout) : std::vector<float>(d_layout.rows * d_layout.columns);
    cblas_sgemm(CblasColMajor, transpose_a ? CblasTrans : CblasNoTrans, CblasNoTrans,
                static_cast<blasint>(d_layout.rows), static_cast<blasint>(d_layout.columns), inner,
                alpha, wide_a.data(), static_cast<blasint>(a_layout.rows), wide_b.data(),
                static_cast<blasint>(b_layout.rows), beta, wide_d.data(),
                static_cast<blasint>(d_layout.rows));
    Narrow(wide_d, d_layout, d);
  }
};

/// Whether the matrices fit each other, and the stand-in can do it; fills all but the addresses and
/// the factors.
Status Plan(const MatmulDesc& operation, const MatrixLayout& a, const MatrixLayout& b,
            const MatrixLayout& c, const MatrixLayout& d, Product& product) {
  if (operation.compute != kCompute32F || operation.scale != kR32F) {
    return kNotSupported;
  }
  for (const MatrixLayout* layout : {&a, &b, &c, &d}) {
    if (NumberBytes(layout->type) == 0) return kNotSupported;
    if (layout->rows == 0 || layout->columns == 0 ||
        layout->leading < static_cast<int64_t>(layout->rows)) {
      return kInvalidValue;
    }
  }
  if (a.type != b.type || c.type != d.type) return kNotSupported;
  const bool flip_a = operation.transpose_a != kOpN;
  const uint64_t inner = flip_a ? a.rows : a.columns;
  if ((flip_a ? a.columns : a.rows) != d.rows || b.columns != d.columns || b.rows != inner ||
      c.rows != d.rows || c.columns != d.columns) {
    return kInvalidValue;
  }
  product.a_layout = a;
  product.b_layout = b;
  product.c_layout = c;
  product.d_layout = d;
  product.transpose_a = flip_a;
  product.inner = static_cast<blasint>(inner);
  return kSuccess;
}

bool IsAligned(const void* pointer, uint32_t alignment) {
  return reinterpret_cast<uintptr_t>(pointer) % alignment == 0;
}

Context the_library;

}  // namespace

extern "C" {

Status cublasLtCreate(Context** context) {
  openblas_set_num_threads(1);  // sums in one order, whatever the machine
  *context = &the_library;
  return kSuccess;
}

Status cublasLtDestroy(Context*) { return kSuccess; }

Status cublasLtMatmulDescCreate(MatmulDesc** description, ComputeType compute, DataType scale) {
  *description = new MatmulDesc{compute, scale, kOpN};
  return kSuccess;
}

Status cublasLtMatmulDescDestroy(MatmulDesc* description) {
  delete description;
  return kSuccess;
}

Status cublasLtMatmulDescSetAttribute(MatmulDesc* description, MatmulDescAttribute attribute,
                                      const void* value, size_t bytes) {
  if (attribute != kDescTransA) return kNotSupported;
  return Take(description->transpose_a, value, bytes);
}

Status cublasLtMatrixLayoutCreate(MatrixLayout** layout, DataType type, uint64_t rows,
                                  uint64_t columns, int64_t leading) {
  *layout = new MatrixLayout{type, rows, columns, leading};
  return kSuccess;
}

Status cublasLtMatrixLayoutDestroy(MatrixLayout* layout) {
  delete layout;
  return kSuccess;
}

Status cublasLtMatmulPreferenceCreate(MatmulPreference** preference) {
  *preference = new MatmulPreference{0, kDefaultAlignment, kDefaultAlignment, kDefaultAlignment,
                                     kDefaultAlignment};
  return kSuccess;
}

Status cublasLtMatmulPreferenceDestroy(MatmulPreference* preference) {
  delete preference;
  return kSuccess;
}

Status cublasLtMatmulPreferenceSetAttribute(MatmulPreference* preference,
                                            MatmulPreferenceAttribute attribute, const void* value,
                                            size_t bytes) {
  switch (attribute) {
    case kPrefMaxWorkspaceBytes:
      return Take(preference->max_workspace_bytes, value, bytes);
    case kPrefMinAlignmentABytes:
      return Take(preference->alignment_a, value, bytes);
    case kPrefMinAlignmentBBytes:
      return Take(preference->alignment_b, value, bytes);
    case kPrefMinAlignmentCBytes:
      return Take(preference->alignment_c, value, bytes);
    case kPrefMinAlignmentDBytes:
      return Take(preference->alignment_d, value, bytes);
    default:
      return kNotSupported;
  }
}

Status cublasLtMatmulAlgoGetHeuristic(Context* context, MatmulDesc* operation, MatrixLayout* a,
                                      MatrixLayout* b, MatrixLayout* c, MatrixLayout* d,
                                      MatmulPreference* preference, int wanted,
                                      MatmulHeuristicResult results[], int* found) {
  if (context == nullptr) return kNotInitialized;
  if (wanted <= 0 || results == nullptr || found == nullptr || preference == nullptr) {
    return kInvalidValue;
  }
  *found = 0;
  Product product = {};
  const Status status = Plan(*operation, *a, *b, *c, *d, product);
  if (status != kSuccess) return status;
  const uint64_t workspace_bytes =
      std::min<uint64_t>(preference->max_workspace_bytes, kWorkspaceBytes);
  const Algorithm chosen = {kAlgorithmMagic,         workspace_bytes,
                            preference->alignment_a, preference->alignment_b,
                            preference->alignment_c, preference->alignment_d};
  results[0] = {.workspace_size = workspace_bytes, .state = kSuccess, .waves_count = 1};
  std::memcpy(&results[0].algo, &chosen, sizeof chosen);
  *found = 1;
  return kSuccess;
}

Status cublasLtMatmul(Context* context, MatmulDesc* operation, const void* alpha, const void* a,
                      MatrixLayout* a_layout, const void* b, MatrixLayout* b_layout,
                      const void* beta, const void* c, MatrixLayout* c_layout, void* d,
                      MatrixLayout* d_layout, const MatmulAlgo* algo, void* workspace,
                      size_t workspace_bytes, thermocline::CudaStream stream) {
  if (context == nullptr) return kNotInitialized;
  auto product = std::make_unique<Product>();
  const Status status = Plan(*operation, *a_layout, *b_layout, *c_layout, *d_layout, *product);
  if (status != kSuccess) return status;
  if (alpha == nullptr || beta == nullptr) return kInvalidValue;
  if (algo != nullptr) {
    Algorithm chosen;
    std::memcpy(&chosen, algo, sizeof chosen);
    if (chosen.magic != kAlgorithmMagic || workspace_bytes < chosen.workspace_bytes ||
        (chosen.workspace_bytes > 0 && workspace == nullptr) || !IsAligned(a, chosen.alignment_a) ||
        !IsAligned(b, chosen.alignment_b) || !IsAligned(c, chosen.alignment_c) ||
        !IsAligned(d, chosen.alignment_d)) {
      return kInvalidValue;
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
  return error == cudaSuccess ? kSuccess : kExecutionFailed;
}

}  // extern "C"

#define TC_SAME(member, name) \
  static_assert(std::is_same_v<decltype(Calls::member), decltype(&name)>)
TC_SAME(create, cublasLtCreate);
TC_SAME(destroy, cublasLtDestroy);
TC_SAME(desc_create, cublasLtMatmulDescCreate);
TC_SAME(desc_destroy, cublasLtMatmulDescDestroy);
TC_SAME(desc_set, cublasLtMatmulDescSetAttribute);
TC_SAME(layout_create, cublasLtMatrixLayoutCreate);
TC_SAME(layout_destroy, cublasLtMatrixLayoutDestroy);
TC_SAME(preference_create, cublasLtMatmulPreferenceCreate);
TC_SAME(preference_destroy, cublasLtMatmulPreferenceDestroy);
TC_SAME(preference_set, cublasLtMatmulPreferenceSetAttribute);
TC_SAME(get_heuristic, cublasLtMatmulAlgoGetHeuristic);
TC_SAME(matmul, cublasLtMatmul);
