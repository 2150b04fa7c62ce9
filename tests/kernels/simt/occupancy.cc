// Thread blocks that a multiprocessor holds, by NVIDIA's own calculation (cuda_occupancy.h, which
// needs no GPU): for ptx_gate.py. Each line of input is: compute capability as 90, registers of a
// thread, threads of a block, static and dynamic shared bytes; each line of output the blocks.
#include <cuda_occupancy.h>

#include <cstdio>

namespace {

/// From the CUDA C++ Programming Guide's tables of compute capabilities.
cudaOccDeviceProp Properties(int capability) {
  cudaOccDeviceProp p;
  p.computeMajor = capability / 10;
  p.computeMinor = capability % 10;
  p.maxThreadsPerBlock = 1024;
  p.maxThreadsPerMultiprocessor = 2048;
  p.regsPerBlock = 65536;
  p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  const size_t kib = capability == 80 ? 164 : 228;
  p.sharedMemPerMultiprocessor = kib * 1024;
  p.reservedSharedMemPerBlock = 1024;
  p.sharedMemPerBlock = 48 * 1024;
  p.sharedMemPerBlockOptin = (kib - 1) * 1024;
  p.numSms = 1;
  return p;
}

}  // namespace

int main() {
  int capability, registers, threads, fixed, dynamic;
  while (std::scanf("%d %d %d %d %d", &capability, &registers, &threads, &fixed, &dynamic) == 5) {
    const cudaOccDeviceProp properties = Properties(capability);
    cudaOccFuncAttributes attributes;
    attributes.maxThreadsPerBlock = threads;
    attributes.numRegs = registers;
    attributes.sharedSizeBytes = fixed;
    attributes.partitionedGCConfig = PARTITIONED_GC_OFF;
    attributes.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    attributes.maxDynamicSharedSizeBytes = dynamic;
    const cudaOccDeviceState state;
    cudaOccResult result;
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &properties, &attributes, &state, threads,
                                                dynamic) != CUDA_OCC_SUCCESS) {
      std::fprintf(stderr, "occupancy: no answer for compute capability %d\n", capability);
      return 1;
    }
    std::printf("%d\n", result.activeBlocksPerMultiprocessor);
  }
  return 0;
}
