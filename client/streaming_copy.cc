#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/units.h"
#include "client/client.h"
#include "client/lease_rep.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace thermocline {
inline namespace client_v1 {

#if defined(__SSE2__)
void StreamingCopy(std::span<std::byte> to, std::span<const std::byte> from) {
  TC_CHECK(to.size() == from.size());
  constexpr size_t kLine = 64;
  const size_t to_line = -reinterpret_cast<uintptr_t>(to.data()) % kLine;
  const size_t head = std::min(to_line, to.size());
  std::memcpy(to.data(), from.data(), head);
  const size_t lines = (to.size() - head) / kLine;
  auto* out = reinterpret_cast<__m128i*>(to.data() + head);
  const auto* in = reinterpret_cast<const __m128i*>(from.data() + head);
  for (size_t line = 0; line < lines; ++line, out += 4, in += 4) {
    const __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1);
    const __m128i c = _mm_loadu_si128(in + 2), d = _mm_loadu_si128(in + 3);
    _mm_stream_si128(out, a);
    _mm_stream_si128(out + 1, b);
    _mm_stream_si128(out + 2, c);
    _mm_stream_si128(out + 3, d);
  }
  _mm_sfence();  // before whatever says that it is there
  const size_t done = head + lines * kLine;
  std::memcpy(to.data() + done, from.data() + done, to.size() - done);
}
#else
void StreamingCopy(std::span<std::byte> to, std::span<const std::byte> from) {
  TC_CHECK(to.size() == from.size());
  std::memcpy(to.data(), from.data(), from.size());
}
#endif

void CopyOut(std::span<std::byte> to, std::span<const std::byte> from) {
  // A smaller copy is still in a cache when somebody reads it.
  constexpr size_t kLeastStreamed = 256 * KiB;
  if (from.size() >= kLeastStreamed) return StreamingCopy(to, from);
  TC_CHECK(to.size() == from.size());
  std::memcpy(to.data(), from.data(), from.size());
}

}  // namespace client_v1
}  // namespace thermocline
