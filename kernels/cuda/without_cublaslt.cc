// cublaslt.h where the build has no cublasLt.h.
#include "kernels/cuda/cublaslt.h"

namespace thermocline::cuda {

class CublasLt::Impl {};

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Load() {
  return absl::UnimplementedError(
      "built without cuBLASLt's header; configure where a CUDA toolkit has cublasLt.h");
}
CublasLt::~CublasLt() = default;
absl::Status CublasLt::Multiply(const MatrixProduct&, CudaStream) {
  return absl::UnimplementedError("built without cuBLASLt's header");
}

}  // namespace thermocline::cuda
