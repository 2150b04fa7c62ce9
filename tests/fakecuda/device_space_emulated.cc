// Device memory in the emulator's address space, and kernels on streams.
#include <utility>

#include "kernels/simt/emulator_state.h"
#include "kernels/simt/stream_device.h"
#include "tests/fakecuda/device_space.h"
#include "tests/fakecuda/streams.h"

namespace thermocline::fakecuda {
namespace {

CudaError Launch(CudaStream handle, std::function<void()> grid) {
  return static_cast<CudaError>(ServeOnStream(
      "cudaLaunchKernel", handle, [&](const std::shared_ptr<Stream>& stream, int poison) {
        Submit(stream, poison, std::move(grid));
        return cudaSuccess;
      }));
}

[[maybe_unused]] const bool hooked = (simt::SetLaunchHook(&Launch), true);

}  // namespace

char* ReserveSpace(size_t bytes, size_t alignment) {
  return simt::ReserveDeviceSpace(bytes, alignment);
}

void ReleaseSpace(char* begin, size_t) { simt::ReleaseDeviceSpace(begin); }
bool IsDeviceSpace(const void* pointer) { return simt::InDeviceArena(pointer); }
void AddRange(char* begin, size_t bytes) { simt::AddDeviceRange(begin, bytes); }
void RemoveRange(char* begin) { simt::RemoveDeviceRange(begin); }

}  // namespace thermocline::fakecuda
