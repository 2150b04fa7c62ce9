// The two builds of the checksum, and their one body. checksum_avx2.cc is compiled with -mavx2:
// nothing but C functions and internal linkage may be used there, or the linker could keep its AVX2
// copy of a shared inline function for processors that lack AVX2.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace thermocline::checksum_forms {

uint64_t SumAvx2(const void* bytes, size_t count);
uint64_t CopyAvx2(void* destination, const void* source, size_t count);
uint64_t SumSse2(const void* bytes, size_t count);
uint64_t CopySse2(void* destination, const void* source, size_t count);

}  // namespace thermocline::checksum_forms

#if defined(TC_CHECKSUM_FORM)
#define XXH_INLINE_ALL
#include <string.h>
#include <xxhash.h>

namespace {

constexpr size_t kPieceBytes = 16 * 1024;

uint64_t Sum(const void* bytes, size_t count) { return XXH3_64bits(bytes, count); }

uint64_t CopyAndSum(void* destination, const void* source, size_t count) {
  if (count <= kPieceBytes) {
    memcpy(destination, source, count);
    return XXH3_64bits(destination, count);
  }
  XXH3_state_t state;
  XXH3_INITSTATE(&state);
  XXH3_64bits_reset(&state);
  char* to = static_cast<char*>(destination);
  const char* from = static_cast<const char*>(source);
  while (count > 0) {
    const size_t piece = count < kPieceBytes ? count : kPieceBytes;
    memcpy(to, from, piece);
    XXH3_64bits_update(&state, to, piece);
    to += piece;
    from += piece;
    count -= piece;
  }
  return XXH3_64bits_digest(&state);
}

}  // namespace
#endif
