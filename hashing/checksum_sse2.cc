// XXH3-64 for every x86-64 (and, in its portable form, other processors).
#define TC_CHECKSUM_FORM
#include "hashing/checksum_forms.h"

namespace thermocline::checksum_forms {

uint64_t SumSse2(const void* bytes, size_t count) { return Sum(bytes, count); }
uint64_t CopySse2(void* destination, const void* source, size_t count) {
  return CopyAndSum(destination, source, count);
}

}  // namespace thermocline::checksum_forms
