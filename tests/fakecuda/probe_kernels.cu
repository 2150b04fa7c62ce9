#include "kernels/simt/device.cuh"
#include "tests/fakecuda/probe_kernels.h"

namespace thermocline {
namespace {

constexpr uint32_t kThreads = 64;

__global__ void Add(const __grid_constant__ AddArgs args) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < args.count) args.numbers[i] += args.value;
}

}  // namespace

CudaError LaunchAdd(const AddArgs& args, CudaStream stream) {
  const uint32_t blocks = (static_cast<uint32_t>(args.count) + kThreads - 1) / kThreads;
  return simt::Launch(Add, {.grid = {blocks}, .block = {kThreads}}, stream, args);
}

}  // namespace thermocline
