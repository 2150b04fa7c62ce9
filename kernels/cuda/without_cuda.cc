// kernels/cuda where the build has no toolkit: nothing can be created, so that only what creates
// has to answer.
#include "kernels/cuda/copies.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"

namespace thermocline::cuda {
namespace {

absl::Status BuiltWithout() {
  return absl::UnimplementedError(
      "built without CUDA; configure where deploy/setup.sh finds or fetches a toolkit");
}

}  // namespace

bool IsSticky(const absl::Status&) { return false; }
absl::Status LaunchStatus(CudaError, std::string_view) { return BuiltWithout(); }
absl::StatusOr<int> DeviceCount() { return BuiltWithout(); }
absl::StatusOr<DeviceInfo> Describe(int) { return BuiltWithout(); }
absl::Status UseDevice(int) { return BuiltWithout(); }
absl::StatusOr<DeviceScope> DeviceScope::Enter(int) { return BuiltWithout(); }
DeviceScope::~DeviceScope() = default;
absl::StatusOr<uint64_t> FreeBytes() { return BuiltWithout(); }
absl::Status SynchronizeDevice() { return BuiltWithout(); }

absl::Status CallAfter(CudaStream, std::function<void()>) { return BuiltWithout(); }

absl::StatusOr<Event> Event::Create(bool) { return BuiltWithout(); }
absl::StatusOr<Event> Event::Open(const EventHandle&) { return BuiltWithout(); }
Event::~Event() = default;
absl::StatusOr<EventHandle> Event::Export() const { return BuiltWithout(); }
absl::Status Event::Record(CudaStream) { return BuiltWithout(); }
absl::StatusOr<bool> Event::HasPassed() const { return BuiltWithout(); }
absl::Status Event::Synchronize() const { return BuiltWithout(); }

absl::StatusOr<Stream> Stream::Create(bool) { return BuiltWithout(); }
Stream::~Stream() = default;
absl::Status Stream::Wait(const Event&) { return BuiltWithout(); }
absl::Status Stream::Synchronize() const { return BuiltWithout(); }

absl::StatusOr<DeviceBuffer> DeviceBuffer::Allocate(uint64_t) { return BuiltWithout(); }
DeviceBuffer::~DeviceBuffer() = default;
absl::StatusOr<PinnedBuffer> PinnedBuffer::Allocate(uint64_t) { return BuiltWithout(); }
PinnedBuffer::~PinnedBuffer() = default;
absl::StatusOr<HostPin> HostPin::Register(std::byte*, uint64_t) { return BuiltWithout(); }
HostPin::~HostPin() = default;
absl::StatusOr<Slab> Slab::Create(int, uint64_t) { return BuiltWithout(); }
absl::StatusOr<Slab> Slab::Import(int, int, uint64_t) { return BuiltWithout(); }
Slab::~Slab() = default;
absl::StatusOr<UniqueFd> Slab::Export() const { return BuiltWithout(); }
absl::StatusOr<SlabMapping> SlabMapping::Map(const Slab&, Access) { return BuiltWithout(); }
SlabMapping::~SlabMapping() = default;

absl::Status CopyAsync(const Copy&, CudaStream) { return BuiltWithout(); }
absl::Status CopyBatchAsync(std::span<const Copy>, CudaStream, const CopyOptions&) {
  return BuiltWithout();
}
absl::Status FillAsync(std::byte*, uint8_t, uint64_t, CudaStream) { return BuiltWithout(); }

class CublasLt::Impl {};
absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Load() { return BuiltWithout(); }
CublasLt::~CublasLt() = default;
absl::Status CublasLt::Multiply(const MatrixProduct&, CudaStream) { return BuiltWithout(); }

}  // namespace thermocline::cuda
