#include "tests/kernels/simt/probes.h"

#include "kernels/simt/device.cuh"

namespace thermocline {
namespace {

__device__ int Rank() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

/// counts[thread] = x + 10 y + 100 z of the thread, + 1000 times the same of the block.
__global__ void Indices(ProbeArgs args) {
  const uint32_t block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const uint32_t thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  args.counts[block * blockDim.x * blockDim.y * blockDim.z + thread] =
      threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z +
      1000 * (blockIdx.x + 10 * blockIdx.y + 100 * blockIdx.z);
}

template <bool kBarrier>
__global__ void ReverseByShared(ProbeArgs args) {
  TC_SHARED(float, values, 256);
  values[threadIdx.x] = args.in[Rank()];
  if (kBarrier) __syncthreads();
  args.out[Rank()] = values[blockDim.x - 1 - threadIdx.x];
}

/// out[4][32]: from lane 3 of each 8, xor 5, up 2, down 2 of each 16.
__global__ void Shuffles(ProbeArgs args) {
  const float mine = args.in[threadIdx.x];
  args.out[threadIdx.x] = __shfl_sync(args.mask, mine, 3, 8);
  args.out[32 + threadIdx.x] = __shfl_xor_sync(args.mask, mine, 5);
  args.out[64 + threadIdx.x] = __shfl_up_sync(args.mask, mine, 2);
  args.out[96 + threadIdx.x] = __shfl_down_sync(args.mask, mine, 2, 16);
}

/// Even and odd lanes vote apart.
__global__ void Votes(ProbeArgs args) {
  const uint32_t mask = threadIdx.x % 2 == 0 ? 0x55555555u : 0xaaaaaaaau;
  const int wanted = threadIdx.x < 8;
  args.counts[threadIdx.x] = __ballot_sync(mask, wanted);
  args.counts[32 + threadIdx.x] = __any_sync(mask, wanted) + 2 * __all_sync(mask, wanted);
}

/// Through shared memory, ordered within the warp alone.
template <bool kBarrier>
__global__ void WarpPrefixSum(ProbeArgs args) {
  TC_SHARED(float, sums, 32);
  sums[threadIdx.x] = args.in[threadIdx.x];
  for (int distance = 1; distance < 32; distance *= 2) {
    __syncwarp();
    const float before =
        static_cast<int>(threadIdx.x) >= distance ? sums[threadIdx.x - distance] : 0;
    if (kBarrier) __syncwarp();
    sums[threadIdx.x] += before;
  }
  args.out[threadIdx.x] = sums[threadIdx.x];
}

__global__ void Atomics(ProbeArgs args) {
  atomicAdd(&args.counts[0], 1u);
  atomicMax(&args.counts[1], static_cast<uint32_t>(Rank()));
  atomicAdd(args.out, 0.5f);
}

/// out[i] = in[i] through a ring of three shared stages of 32 x 4 numbers. kBroken 1: no wait.
template <int kBroken>
__global__ void Pipeline(ProbeArgs args) {
  constexpr int kStages = 3, kStage = 128;
  TC_DYNAMIC_SHARED(raw);
  float* const ring = reinterpret_cast<float*>(raw);
  const int stages = (args.length + kStage - 1) / kStage, mine = 4 * threadIdx.x;
  const auto fetch = [&](int stage) {
    if (stage < stages) {
      const int at = stage * kStage + mine;
      simt::CopyAsync16(ring + stage % kStages * kStage + mine,
                        args.in + (at < args.length ? at : 0), at < args.length);
    }
    simt::CopyAsyncCommit();
  };
  for (int stage = 0; stage < kStages - 1; ++stage) fetch(stage);
  for (int stage = 0; stage < stages; ++stage) {
    if (kBroken != 1) simt::CopyAsyncWait<kStages - 2>();
    __syncthreads();
    fetch(stage + kStages - 1);
    for (int i = 0; i < 4; ++i) {
      const int at = stage * kStage + 32 * i + static_cast<int>(threadIdx.x);
      if (at < args.length) {
        args.out[at] = ring[stage % kStages * kStage + 32 * i + threadIdx.x];
      }
    }
  }
  simt::CopyAsyncWait<0>();
}

/// out[16][8] = a[16][16] * b[16][8], a and b row-major halves.
__global__ void MatrixProduct(ProbeArgs args) {
  TC_SHARED(uint16_t, a, 256);
  TC_SHARED(uint16_t, b, 256);
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) {
    a[i] = args.a[i];
    b[i] = i % 16 < 8 ? args.b[i / 16 * 8 + i % 16] : 0;
  }
  __syncthreads();
  uint32_t fa[4], fb[4];
  float c[4] = {};
  simt::LoadMatrices(fa, a + lane % 16 * 16 + lane / 16 * 8);
  simt::LoadMatricesTransposed(fb, b + lane % 16 * 16 + lane / 16 * 8);
  simt::MultiplyAdd<Half>(c, fa, fb[0], fb[1]);
  for (int i = 0; i < 4; ++i) args.out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = c[i];
}

__global__ void Vectors(ProbeArgs args) {
  const uint4 loaded = simt::LoadOnce16(args.in + 4 * threadIdx.x);
  *reinterpret_cast<uint4*>(args.out + 4 * threadIdx.x) = loaded;
}

__global__ void DivergentBarrier(ProbeArgs args) {
  if (threadIdx.x < 16) __syncthreads();
  args.out[threadIdx.x] = __shfl_sync(kWholeWarp, 1.0f, 0);
}

__global__ void TwoBarriers(ProbeArgs) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void EarlyReturn(ProbeArgs) {
  if (threadIdx.x == 5) return;
  __syncthreads();
}

__global__ void ShuffleFromOutside(ProbeArgs args) {
  if (threadIdx.x < 8) args.out[threadIdx.x] = __shfl_sync(0xffu, 1.0f, 9);
}

__global__ void ShuffleDiverged(ProbeArgs args) {
  if (threadIdx.x < 8) args.out[threadIdx.x] = __shfl_sync(kWholeWarp, 1.0f, 0);
}

__global__ void PendingCopies(ProbeArgs args) {
  TC_SHARED(float, values, 128);
  simt::CopyAsync16(values + 4 * threadIdx.x, args.in + 4 * threadIdx.x, true);
  simt::CopyAsyncCommit();
}

__global__ void UnwrittenShared(ProbeArgs args) {
  TC_SHARED(float, values, 32);
  args.out[threadIdx.x] = values[threadIdx.x];
}

__global__ void BlocksShareOutput(ProbeArgs args) {
  args.out[threadIdx.x] = static_cast<float>(threadIdx.x);
}

__global__ void SharedOutOfBounds(ProbeArgs args) {
  TC_SHARED(float, values, 32);
  values[threadIdx.x + 1] = 0;
  args.out[threadIdx.x] = values[threadIdx.x + 1];
}

__global__ void GlobalOutOfBounds(ProbeArgs args) { args.out[threadIdx.x] = args.in[args.length]; }

__global__ void MisalignedVector(ProbeArgs args) {
  if (threadIdx.x == 0) {
    *reinterpret_cast<uint4*>(args.out) = *reinterpret_cast<const uint4*>(args.in + 1);
  }
}

__global__ void AtomicAndPlain(ProbeArgs args) {
  atomicAdd(&args.counts[0], 1u);
  args.out[Rank()] = static_cast<float>(args.counts[0]);
}

__global__ void StridedLoad(ProbeArgs args) {
  args.out[threadIdx.x] = args.in[threadIdx.x * args.length];
}

__global__ void BankConflict(ProbeArgs args) {
  TC_SHARED(float, values, 32 * 32);
  for (int i = 0; i < 32; ++i) values[i * 32 + threadIdx.x] = 1;
  __syncthreads();
  args.out[threadIdx.x] = values[threadIdx.x * 32 / args.length];
}

}  // namespace

CudaError RunProbe(Probe probe, const ProbeArgs& args, const LaunchShape& shape) {
  void (*const kernels[])(ProbeArgs) = {
      Indices,
      ReverseByShared<true>,
      Shuffles,
      Votes,
      WarpPrefixSum<true>,
      Atomics,
      Pipeline<0>,
      MatrixProduct,
      Vectors,
      DivergentBarrier,
      TwoBarriers,
      EarlyReturn,
      ShuffleFromOutside,
      ShuffleDiverged,
      PendingCopies,
      UnwrittenShared,
      Pipeline<1>,
      ReverseByShared<false>,
      WarpPrefixSum<false>,
      BlocksShareOutput,
      SharedOutOfBounds,
      GlobalOutOfBounds,
      GlobalOutOfBounds,  // of the host: the caller's pointer says so
      MisalignedVector,
      AtomicAndPlain,
      StridedLoad,
      BankConflict,
  };
  return simt::Launch(kernels[static_cast<int>(probe)], shape, nullptr, args);
}

}  // namespace thermocline
