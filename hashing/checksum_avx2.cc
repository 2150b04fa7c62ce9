// XXH3-64 for processors with AVX2.
#define TC_CHECKSUM_FORM
#include "hashing/checksum_forms.h"

namespace thermocline::checksum_forms {

uint64_t SumAvx2(const void* bytes, size_t count) { return Sum(bytes, count); }
uint64_t CopyAvx2(void* destination, const void* source, size_t count) {
  return CopyAndSum(destination, source, count);
}

}  // namespace thermocline::checksum_forms
