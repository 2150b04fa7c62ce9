// Matrix products on a GPU by NVIDIA's cuBLASLt, which is loaded when it is first needed: half a
// gigabyte that a program must start without.
#pragma once
#include <cstdint>
#include <memory>

#include "base/status.h"
#include "kernels/simt/launch.h"
#include "kernels/simt/numbers.h"

namespace thermocline::cuda {

/// y = x * weights^T, or y += that, summed in float32.
/// Shape:  x [rows][inputs], weights [outputs][inputs] of `type`; y [rows][outputs] of `type`, or
///         float32. Rows of x and y x_stride and y_stride numbers apart, those of weights
///         `inputs`.
/// Units:  pointers and the distances of rows multiples of 16 bytes. No rows: nothing is done.
struct MatrixProduct {
  void* y = nullptr;
  const void* x = nullptr;
  const void* weights = nullptr;
  int rows = 0;
  int outputs = 0;
  int inputs = 0;
  int64_t x_stride = 0;
  int64_t y_stride = 0;
  NumberType type = NumberType::kF16;
  bool float_result = false;
  bool add = false;
};

/// Thread: one at a time, on streams of one device, one of them at a time: products share a
///         workspace.
class CublasLt {
 public:
  /// Loads libcublasLt of the major version of CUDA that this program was built with, or the file
  /// that the environment variable THERMOCLINE_CUBLASLT names, for the thread's device. Errors:
  /// Unavailable where it is not to be had; Unimplemented when built without CUDA.
  static absl::StatusOr<std::unique_ptr<CublasLt>> Load();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  /// Ordered on `stream`; never synchronises. How a shape is best multiplied is asked once.
  /// Errors: InvalidArgument for what is not as MatrixProduct says or a shape that the library
  ///         refuses, else as CUDA has it, of earlier work, too.
  absl::Status Multiply(const MatrixProduct& product, CudaStream stream);

 private:
  class Impl;
  explicit CublasLt(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace thermocline::cuda
