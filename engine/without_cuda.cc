// cuda_transformer.h where the build has no CUDA.
#include "engine/cuda_transformer.h"

namespace thermocline {

absl::StatusOr<std::unique_ptr<Transformer>> LoadOnCuda(const ModelFile&, int) {
  return absl::UnimplementedError(
      "built without CUDA; configure where deploy/setup.sh finds or fetches a toolkit");
}

}  // namespace thermocline
