// cuda_transformer.h where the build has no CUDA.
#include "engine/cuda_transformer.h"

namespace thermocline {

namespace {
absl::Status BuiltWithout() {
  return absl::UnimplementedError(
      "built without CUDA; configure where deploy/setup.sh finds or fetches a toolkit");
}
}  // namespace

absl::StatusOr<std::unique_ptr<Transformer>> LoadOnCuda(const ModelFile&, int) {
  return BuiltWithout();
}
absl::Status CopyOffDevice(std::byte*, const std::byte*, uint64_t, int) { return BuiltWithout(); }

}  // namespace thermocline
