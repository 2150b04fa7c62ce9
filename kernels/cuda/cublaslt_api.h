// What Thermocline calls of NVIDIA's cuBLASLt, which is loaded at run time: its calls, handles and
// numbers as CUDA 13's cublasLt.h and cublas_api.h declare them, by names of our own, so that a
// build needs no cuBLAS, which is no part of the toolkit. tests/fakecuda/cublaslt_api_test.cc
// compares them with NVIDIA's headers where these are.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/simt/launch.h"

namespace thermocline::cublaslt {

// Opaque: the library creates and destroys them.
struct Context;
struct MatmulDesc;
struct MatrixLayout;
struct MatmulPreference;

enum Status : uint32_t {
  kSuccess = 0,
  kNotInitialized = 1,
  kAllocFailed = 3,
  kInvalidValue = 7,
  kExecutionFailed = 13,
  kNotSupported = 15,
};
enum DataType : uint32_t { kR32F = 0, kR16F = 2, kR16BF = 14 };
enum ComputeType : uint32_t { kCompute32F = 68 };
enum Operation : uint32_t { kOpN = 0, kOpT = 1 };
enum MatmulDescAttribute : uint32_t { kDescTransA = 3 };  ///< an Operation
enum MatmulPreferenceAttribute : uint32_t {
  kPrefMaxWorkspaceBytes = 1,  ///< uint64_t, the others uint32_t
  kPrefMinAlignmentABytes = 5,
  kPrefMinAlignmentBBytes = 6,
  kPrefMinAlignmentCBytes = 7,
  kPrefMinAlignmentDBytes = 8,
};

struct MatmulAlgo {
  uint64_t data[8];
};
struct MatmulHeuristicResult {
  MatmulAlgo algo;
  size_t workspace_size;
  Status state;
  float waves_count;
  int reserved[4];
};

/// The library's calls, each by the name that stands behind it.
struct Calls {
  // cublasLtCreate
  Status (*create)(Context** context);
  // cublasLtDestroy
  Status (*destroy)(Context* context);
  // cublasLtMatmulDescCreate
  Status (*desc_create)(MatmulDesc** desc, ComputeType compute, DataType scale);
  // cublasLtMatmulDescDestroy
  Status (*desc_destroy)(MatmulDesc* desc);
  // cublasLtMatmulDescSetAttribute
  Status (*desc_set)(MatmulDesc* desc, MatmulDescAttribute attribute, const void* value,
                     size_t bytes);
  // cublasLtMatrixLayoutCreate
  Status (*layout_create)(MatrixLayout** layout, DataType type, uint64_t rows, uint64_t columns,
                          int64_t leading);
  // cublasLtMatrixLayoutDestroy
  Status (*layout_destroy)(MatrixLayout* layout);
  // cublasLtMatmulPreferenceCreate
  Status (*preference_create)(MatmulPreference** preference);
  // cublasLtMatmulPreferenceDestroy
  Status (*preference_destroy)(MatmulPreference* preference);
  // cublasLtMatmulPreferenceSetAttribute
  Status (*preference_set)(MatmulPreference* preference, MatmulPreferenceAttribute attribute,
                           const void* value, size_t bytes);
  // cublasLtMatmulAlgoGetHeuristic
  Status (*get_heuristic)(Context* context, MatmulDesc* desc, MatrixLayout* a, MatrixLayout* b,
                          MatrixLayout* c, MatrixLayout* d, MatmulPreference* preference,
                          int wanted, MatmulHeuristicResult results[], int* found);
  // cublasLtMatmul
  Status (*matmul)(Context* context, MatmulDesc* desc, const void* alpha, const void* a,
                   MatrixLayout* a_layout, const void* b, MatrixLayout* b_layout, const void* beta,
                   const void* c, MatrixLayout* c_layout, void* d, MatrixLayout* d_layout,
                   const MatmulAlgo* algo, void* workspace, size_t workspace_bytes,
                   CudaStream stream);
};

}  // namespace thermocline::cublaslt
