// The emulator's side of a fake CUDA runtime (tests/fakecuda): launches wait their turn on a
// stream, and device memory is whatever the runtime maps into the emulator's address space, where
// kernels, and the checker, find it.
#pragma once
#include <cstddef>
#include <functional>

#include "kernels/simt/launch.h"

namespace thermocline::simt {

/// Gets each launch of a valid shape, to run `grid` once, on any thread; the kernel's arguments are
/// in it. What it returns is the launch's answer.
using LaunchHook = CudaError (*)(CudaStream stream, std::function<void()> grid);

/// For all threads, before the first launch. Without a hook a kernel has ended when its launch
/// returns.
void SetLaunchHook(LaunchHook hook);

/// Addresses of emulated global memory with nothing behind them yet, between gaps. Aborts when none
/// are left; `alignment` is a power of two, at least a page. Thread: any.
char* ReserveDeviceSpace(size_t bytes, size_t alignment);
/// What was mapped there goes.
void ReleaseDeviceSpace(char* begin);

/// From now on kernels may touch [begin, begin + bytes), which lies in reserved space.
void AddDeviceRange(char* begin, size_t bytes);
void RemoveDeviceRange(char* begin);

}  // namespace thermocline::simt
