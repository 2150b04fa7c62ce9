// How well a kernel's accesses use the memory: the lanes of a warp at one instruction are one
// request; on global memory it costs the 32-byte sectors it touches, on shared memory one pass for
// each distinct word that a bank must give (of 128 bytes at a time, as the hardware does).
// The lanes of one request arrive one after the other; they are told from those of the next by
// counting how often each lane was at the instruction.
#pragma once
#include <cstddef>

namespace thermocline::simt {

/// By the running lane.
void CountAccess(const char* at, size_t bytes, bool shared, bool write, const void* instruction);
/// At the end of a block: sums up what its warps requested.
void FlushAccesses();

}  // namespace thermocline::simt
