#include "tests/fakecuda/library_work.h"

#include <memory>

#include "tests/fakecuda/memory.h"
#include "tests/fakecuda/streams.h"

using namespace thermocline::fakecuda;

cudaError_t tc_fakecuda_give_work(const char* name, cudaStream_t handle,
                                  const TcFakeCudaOperand* operands, size_t operand_count,
                                  void (*work)(void*), void (*release)(void*), void* argument) {
  const std::shared_ptr<void> owned(argument, release);
  return ServeOnStream(name, handle, [&](const std::shared_ptr<Stream>& stream, int poison) {
    for (size_t i = 0; i < operand_count && poison == 0; ++i) {
      const TcFakeCudaOperand& operand = operands[i];
      const Place place = PlaceOf(operand.pointer, operand.bytes, operand.written);
      if (place != Place::kDevice && place != Place::kPinned) poison = cudaErrorIllegalAddress;
    }
    Submit(stream, poison, [owned, work] { work(owned.get()); });
    return cudaSuccess;
  });
}
