// A CUDA runtime for machines without a GPU: link-time, against NVIDIA's own headers. Programs that
// link tc_fakecuda in the runtime's place behave as on one device, and can be told to suffer.
//
// What is real: streams are threads, so that what nothing orders may happen in any order; device
// memory is memfds, so that slabs, and memory and events known by IPC handles, cross processes and
// live until the last mapping goes; kernels are the product's own (kernels/simt), run on the
// stream; every argument is checked as NVIDIA documents it. What is not: speed, the host can read
// device memory by its address, and each process has an account of device memory of its own (a
// slab counts where it was created). What waits for an event of a process that died waits for ever.
//
// Processes that cannot be told by calls are told by the environment, read once at the first call:
//   TC_FAKECUDA         faults, e.g. "cudaMemcpyAsync:3=700;cuMemCreate:2+=2": the third call fails
//                       with 700, every one from the second on with 2
//   TC_FAKECUDA_DRIVER  the driver's CUDA version (13000), 0: no driver (error 35 from every call)
//   TC_FAKECUDA_VRAM    bytes of device memory (1 GiB)
//   TC_FAKECUDA_PIN     most bytes of one registration of host memory (no limit)
//   TC_FAKECUDA_DELAY   microseconds before each piece of work on every stream; "2:5000": on the
//                       second stream that the process creates alone; several apart by ";"
//   TC_FAKECUDA_COPIES  a file, to which each copy between host and device adds a line: "pinned" or
//                       "pageable", as the host's end is, and its bytes
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/simt/launch.h"

namespace thermocline::fakecuda {

struct Device {
  int driver_version = 13000;  ///< 0: there is none
  size_t vram_bytes = size_t{1} << 30;
  size_t max_registration_bytes = SIZE_MAX;
};

/// False where a program was linked for a GPU, which cannot be told to suffer.
bool IsThere();

/// In place of the environment's. Not while other threads use CUDA.
void SetDevice(const Device& device);

/// The `nth` call (from 1 on, counted from this one) of the runtime's or the driver's function
/// `name` fails with `error`, and with `repeatedly` all that follow. What corrupts a context
/// (IsSticky) strikes where it does on a GPU: calls that give work to a stream succeed, the work
/// fails when its turn comes, and every call after that answers the error. Kernels are launched by
/// "cudaLaunchKernel".
void FailCall(std::string_view name, int nth, int error, bool repeatedly = false);

/// How often the process has called the function.
int CallCount(std::string_view name);

/// Whether CUDA documents that after this error the process must end.
bool IsSticky(int error);

/// Before each piece of its work a stream waits so long; null: all streams, those to come, too.
void SetDelay(CudaStream stream, int64_t microseconds);

/// No faults, delays, counts, nor a corrupted context: as a new process. Streams must be idle, but
/// for those of a corrupted context, which it waits for.
void Restart();

/// Device memory this process has created and that it still keeps: by a handle, a mapping or a
/// pointer.
size_t UsedBytes();

}  // namespace thermocline::fakecuda
