// The declarations that the product makes of cuBLASLt, against NVIDIA's: that this compiles is the
// test.
#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <type_traits>

#include "kernels/cuda/cublaslt_api.h"

namespace thermocline::cublaslt {
namespace {

/// What stands for what, beside equal types and enumerations of one size.
template <class Ours, class Theirs>
constexpr bool kStandsFor = std::is_same_v<Ours, Theirs> ||
                            (std::is_enum_v<Ours> && std::is_enum_v<Theirs> &&
                             sizeof(Ours) == sizeof(Theirs));
template <>
constexpr bool kStandsFor<Context*, cublasLtHandle_t> = true;
template <>
constexpr bool kStandsFor<MatmulDesc*, cublasLtMatmulDesc_t> = true;
template <>
constexpr bool kStandsFor<MatrixLayout*, cublasLtMatrixLayout_t> = true;
template <>
constexpr bool kStandsFor<MatmulPreference*, cublasLtMatmulPreference_t> = true;
template <>
constexpr bool kStandsFor<Context**, cublasLtHandle_t*> = true;
template <>
constexpr bool kStandsFor<MatmulDesc**, cublasLtMatmulDesc_t*> = true;
template <>
constexpr bool kStandsFor<MatrixLayout**, cublasLtMatrixLayout_t*> = true;
template <>
constexpr bool kStandsFor<MatmulPreference**, cublasLtMatmulPreference_t*> = true;
template <>
constexpr bool kStandsFor<const MatmulAlgo*, const cublasLtMatmulAlgo_t*> = true;
template <>
constexpr bool kStandsFor<MatmulHeuristicResult*, cublasLtMatmulHeuristicResult_t*> = true;

template <class... Ours, class... Theirs>
constexpr bool Fits(Status (*)(Ours...), cublasStatus_t (*)(Theirs...)) {
  static_assert(sizeof...(Ours) == sizeof...(Theirs));
  return (kStandsFor<Ours, Theirs> && ...);
}

#define TC_FITS(member, name) static_assert(Fits(decltype(Calls::member){}, decltype(&::name){}))
TC_FITS(create, cublasLtCreate);
TC_FITS(destroy, cublasLtDestroy);
TC_FITS(desc_create, cublasLtMatmulDescCreate);
TC_FITS(desc_destroy, cublasLtMatmulDescDestroy);
TC_FITS(desc_set, cublasLtMatmulDescSetAttribute);
TC_FITS(layout_create, cublasLtMatrixLayoutCreate);
TC_FITS(layout_destroy, cublasLtMatrixLayoutDestroy);
TC_FITS(preference_create, cublasLtMatmulPreferenceCreate);
TC_FITS(preference_destroy, cublasLtMatmulPreferenceDestroy);
TC_FITS(preference_set, cublasLtMatmulPreferenceSetAttribute);
TC_FITS(get_heuristic, cublasLtMatmulAlgoGetHeuristic);
TC_FITS(matmul, cublasLtMatmul);

#define TC_EQUAL(ours, theirs) static_assert(static_cast<int>(ours) == static_cast<int>(theirs))
TC_EQUAL(kSuccess, CUBLAS_STATUS_SUCCESS);
TC_EQUAL(kNotInitialized, CUBLAS_STATUS_NOT_INITIALIZED);
TC_EQUAL(kAllocFailed, CUBLAS_STATUS_ALLOC_FAILED);
TC_EQUAL(kInvalidValue, CUBLAS_STATUS_INVALID_VALUE);
TC_EQUAL(kExecutionFailed, CUBLAS_STATUS_EXECUTION_FAILED);
TC_EQUAL(kNotSupported, CUBLAS_STATUS_NOT_SUPPORTED);
TC_EQUAL(kR32F, CUDA_R_32F);
TC_EQUAL(kR16F, CUDA_R_16F);
TC_EQUAL(kR16BF, CUDA_R_16BF);
TC_EQUAL(kCompute32F, CUBLAS_COMPUTE_32F);
TC_EQUAL(kOpN, CUBLAS_OP_N);
TC_EQUAL(kOpT, CUBLAS_OP_T);
TC_EQUAL(kDescTransA, CUBLASLT_MATMUL_DESC_TRANSA);
TC_EQUAL(kPrefMaxWorkspaceBytes, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
TC_EQUAL(kPrefMinAlignmentABytes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
TC_EQUAL(kPrefMinAlignmentBBytes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
TC_EQUAL(kPrefMinAlignmentCBytes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
TC_EQUAL(kPrefMinAlignmentDBytes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);

using TheirResult = cublasLtMatmulHeuristicResult_t;
TC_EQUAL(sizeof(MatmulAlgo), sizeof(cublasLtMatmulAlgo_t));
TC_EQUAL(alignof(MatmulAlgo), alignof(cublasLtMatmulAlgo_t));
TC_EQUAL(sizeof(MatmulHeuristicResult), sizeof(TheirResult));
TC_EQUAL(offsetof(MatmulHeuristicResult, algo), offsetof(TheirResult, algo));
TC_EQUAL(offsetof(MatmulHeuristicResult, workspace_size), offsetof(TheirResult, workspaceSize));
TC_EQUAL(offsetof(MatmulHeuristicResult, state), offsetof(TheirResult, state));
TC_EQUAL(offsetof(MatmulHeuristicResult, waves_count), offsetof(TheirResult, wavesCount));
TC_EQUAL(CUBLAS_VER_MAJOR, CUDART_VERSION / 1000);  // by which the library's name is made

}  // namespace
}  // namespace thermocline::cublaslt
