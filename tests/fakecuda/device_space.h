// Addresses for device memory, and the way to the kernels: of the emulator where the program has
// one (device_space_emulated.cc), else of the fake's own (device_space_bare.cc: under
// ThreadSanitizer, which knows nothing of the emulator's fibers, there are no kernels). Internal.
#pragma once
#include <cstddef>

namespace thermocline::fakecuda {

/// Inaccessible addresses between gaps; `alignment` is a power of two, at least a page.
char* ReserveSpace(size_t bytes, size_t alignment);
void ReleaseSpace(char* begin, size_t bytes);
bool IsDeviceSpace(const void* pointer);

/// What kernels may touch.
void AddRange(char* begin, size_t bytes);
void RemoveRange(char* begin);

}  // namespace thermocline::fakecuda
