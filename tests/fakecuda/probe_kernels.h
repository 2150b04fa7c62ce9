// A kernel for the fake's own tests.
#pragma once
#include "kernels/simt/launch.h"

namespace thermocline {

struct AddArgs {
  int* numbers = nullptr;
  int count = 0;
  int value = 0;
};
/// Adds to each of the numbers.
CudaError LaunchAdd(const AddArgs& args, CudaStream stream);

}  // namespace thermocline
