#include "hashing/checksum.h"

#include "base/check.h"
#include "hashing/checksum_forms.h"

namespace thermocline {
namespace {

bool HasAvx2() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx2");
  return has;
#else
  return false;
#endif
}

}  // namespace

uint64_t Checksum(std::span<const std::byte> bytes) {
  return HasAvx2() ? checksum_forms::SumAvx2(bytes.data(), bytes.size())
                   : checksum_forms::SumSse2(bytes.data(), bytes.size());
}

uint64_t CopyAndChecksum(std::span<std::byte> destination, std::span<const std::byte> source) {
  TC_CHECK(destination.size() == source.size());
  return HasAvx2() ? checksum_forms::CopyAvx2(destination.data(), source.data(), source.size())
                   : checksum_forms::CopySse2(destination.data(), source.data(), source.size());
}

const char* ChecksumForm() { return HasAvx2() ? "avx2" : "sse2"; }

}  // namespace thermocline
