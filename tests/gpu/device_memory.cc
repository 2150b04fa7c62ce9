// The tests' device memory on a GPU, in place of the emulator's: the same cases then run over what
// nvcc makes of the kernels. There is one schedule, the hardware's, and no checker: that is
// compute-sanitizer's part.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>

#include "kernels/simt/emulator.h"

namespace thermocline::simt {
namespace {

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s (%s)\n", what, cudaGetErrorString(error), cudaGetErrorName(error));
  std::abort();
}

}  // namespace

void SetSchedule(const Schedule&) {}
size_t SharedBytesOfDevice() { return 0; }
void SetSharedBytesOfDevice(size_t) {}  // the hardware has its own
bool IsChecked() { return false; }
std::vector<AccessSite> TakeAccessSites() { return {}; }
void CollectAccesses(bool) {}

void* AllocateDevice(size_t bytes) {
  void* memory = nullptr;
  Check(cudaMalloc(&memory, bytes > 0 ? bytes : 1), "cudaMalloc");
  FillDevice(memory, 0xff, bytes);
  return memory;
}

void FreeDevice(void* pointer) { Check(cudaFree(pointer), "cudaFree"); }

void CopyToDevice(void* to, const void* host, size_t bytes) {
  Check(cudaMemcpy(to, host, bytes, cudaMemcpyHostToDevice), "copy to the device");
}

void CopyFromDevice(void* host, const void* from, size_t bytes) {
  Check(cudaDeviceSynchronize(), "kernel");
  Check(cudaMemcpy(host, from, bytes, cudaMemcpyDeviceToHost), "copy from the device");
}

void FillDevice(void* at, int byte, size_t bytes) {
  Check(cudaMemset(at, byte, bytes), "cudaMemset");
}

}  // namespace thermocline::simt
