// The device side of device.cuh under nvcc: PTX that CUDA C++ has no name for, and the launch.
#pragma once
#include <cuda_runtime.h>

#include <type_traits>

#define TC_SHARED(type, name, count) __shared__ type name[count]
#define TC_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace thermocline::simt {

/// 2^x in one instruction; what would be subnormal is 0.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// One instruction for 16 aligned bytes.
__device__ __forceinline__ uint4 Load16(const void* from) {
  return *static_cast<const uint4*>(from);
}

__device__ __forceinline__ uint2 Load8(const void* from) {
  return *static_cast<const uint2*>(from);
}

__device__ __forceinline__ void Store16(void* to, uint4 value) { *static_cast<uint4*>(to) = value; }

__device__ __forceinline__ void Store8(void* to, float2 value) {
  *static_cast<float2*>(to) = value;
}

/// 16 bytes that are read once, and not written by this kernel: through the read-only path, without
/// a place in L1.
__device__ __forceinline__ uint4 LoadOnce16(const void* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

__device__ __forceinline__ uint2 LoadOnce8(const void* from) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(from));
  return v;
}

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Copies 16 bytes from global to shared memory in the background, or zeros if !wanted (`from` must
/// be a valid address all the same).
__device__ __forceinline__ void CopyAsync16(void* to, const void* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)),
               "l"(from), "r"(wanted ? 16 : 0)
               : "memory");
}

/// Ends a group of copies; an empty group counts.
__device__ __forceinline__ void CopyAsyncCommit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits until at most `kGroups` of this thread's groups are under way. Others see the bytes after
/// a barrier.
template <int kGroups>
__device__ __forceinline__ void CopyAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

/// Four 8x8 matrices of 16-bit numbers; lane i names row i % 8 of matrix i / 8.
__device__ __forceinline__ void LoadMatrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

__device__ __forceinline__ void LoadMatricesTransposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

/// c[16][8] += a[16][16] * b[16][8] by the warp, fragments as PTX lays them out (mma.m16n8k16).
template <class T>
__device__ __forceinline__ void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                            uint32_t b1);

template <>
__device__ __forceinline__ void MultiplyAdd<Half>(float (&c)[4], const uint32_t (&a)[4],
                                                  uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void MultiplyAdd<Bfloat16>(float (&c)[4], const uint32_t (&a)[4],
                                                      uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Static shared memory that every device grants; more must be asked for.
inline constexpr size_t kPlainSharedBytes = 48 * 1024;

/// Dynamic shared memory that the thread's device grants a block: 227 KiB (sm_90, sm_100), 163
/// (sm_80), 99 (sm_86, sm_89, sm_120).
inline size_t MostSharedBytes() {
  thread_local int known = -1, bytes = 0;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return kPlainSharedBytes;
  if (device != known) {
    if (cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
        cudaSuccess) {
      return kPlainSharedBytes;
    }
    known = device;
  }
  return static_cast<size_t>(bytes);
}

/// Thread: any; ordered on `stream`; never synchronises. Errors: what the runtime says.
template <class Arguments>
CudaError Launch(void (*kernel)(Arguments), const LaunchShape& shape, CudaStream stream,
                 const std::type_identity_t<Arguments>& arguments) {
  const void* function = reinterpret_cast<const void*>(kernel);
  if (shape.shared_bytes > kPlainSharedBytes) {
    const cudaError_t error =
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return static_cast<CudaError>(error);
  }
  void* pointers[] = {const_cast<Arguments*>(&arguments)};
  return static_cast<CudaError>(cudaLaunchKernel(
      function, dim3(shape.grid.x, shape.grid.y, shape.grid.z),
      dim3(shape.block.x, shape.block.y, shape.block.z), pointers, shape.shared_bytes, stream));
}

}  // namespace thermocline::simt
