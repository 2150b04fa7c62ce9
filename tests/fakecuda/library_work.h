// What shared libraries that stand in for NVIDIA's call in the program, which exports it: their
// work, too, takes its turn on the fake's streams.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>

extern "C" {

struct TcFakeCudaOperand {
  const void* pointer;
  size_t bytes;
  bool written;
};

/// Does `work(argument)` when the stream's turn comes, then `release(argument)`, which is called
/// also if the work is never done. An operand that is no device memory is an illegal access.
/// `name`: of the call, for counts and faults. Returns what the call answers.
[[gnu::visibility("default")]] cudaError_t tc_fakecuda_give_work(
    const char* name, cudaStream_t stream, const TcFakeCudaOperand* operands, size_t operand_count,
    void (*work)(void*), void (*release)(void*), void* argument);

}  // extern "C"
