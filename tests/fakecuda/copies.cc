// Copies and fills. When a call comes back, and what it has read by then, is as CUDA documents it
// ("API synchronization behavior"): pageable sources are read before the call returns, pageable
// destinations are written when it returns, everything else happens when the stream's turn comes.
#include "tests/fakecuda/copies.h"

#include <fcntl.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <utility>

#include "tests/fakecuda/memory.h"

namespace thermocline::fakecuda {
namespace {

/// A copy or fill whose addresses are checked.
struct Ends {
  Place to = Place::kPageable;
  Place from = Place::kPageable;
  int error = 0;
  bool faults = false;  ///< when it is done, on an access that the mapping forbids
};

bool IsHost(Place place) { return place == Place::kPinned || place == Place::kPageable; }

Ends CheckEnds(const void* to, size_t to_bytes, const void* from, size_t from_bytes,
               cudaMemcpyKind kind) {
  Ends ends;
  ends.to = PlaceOf(to, to_bytes, true);
  ends.from = PlaceOf(from, from_bytes, false);
  ends.faults = ends.to == Place::kForbidden || ends.from == Place::kForbidden;
  const bool to_host = IsHost(ends.to), from_host = IsHost(ends.from);
  bool fits = to != nullptr && from != nullptr && ends.to != Place::kOutside &&
              ends.from != Place::kOutside;
  switch (kind) {
    case cudaMemcpyHostToHost:
      fits &= from_host && to_host;
      break;
    case cudaMemcpyHostToDevice:
      fits &= from_host && !to_host;
      break;
    case cudaMemcpyDeviceToHost:
      fits &= !from_host && to_host;
      break;
    case cudaMemcpyDeviceToDevice:
      fits &= !from_host && !to_host;
      break;
    case cudaMemcpyDefault:
      break;
    default:
      ends.error = cudaErrorInvalidMemcpyDirection;
      return ends;
  }
  if (!fits) ends.error = cudaErrorInvalidValue;
  return ends;
}

/// For whoever told us a file: whether the host's end of a copy is pinned.
void NoteCopy(const Ends& ends, size_t bytes) {
  static const char* const path = std::getenv("TC_FAKECUDA_COPIES");
  static const int file =
      path == nullptr ? -1 : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (file < 0 || IsHost(ends.to) == IsHost(ends.from)) return;
  const bool pinned = ends.to == Place::kPinned || ends.from == Place::kPinned;
  dprintf(file, "%s %zu\n", pinned ? "pinned" : "pageable", bytes);
}

struct Layout {
  size_t width, height, to_pitch, from_pitch;
};

void CopyRows(char* to, const char* from, const Layout& layout) {
  for (size_t row = 0; row < layout.height; ++row) {
    std::memcpy(to + row * layout.to_pitch, from + row * layout.from_pitch, layout.width);
  }
}

size_t Span(size_t pitch, const Layout& layout) {
  return (layout.height - 1) * pitch + layout.width;
}

/// `wait`: the call is one of those without "Async".
int Copy(const std::shared_ptr<Stream>& stream, int poison, void* to_pointer,
         const void* from_pointer, const Layout& layout, cudaMemcpyKind kind, bool wait) {
  if (layout.width == 0 || layout.height == 0) return cudaSuccess;
  if (layout.to_pitch < layout.width || layout.from_pitch < layout.width) {
    return cudaErrorInvalidPitchValue;
  }
  char* const to = static_cast<char*>(to_pointer);
  const char* from = static_cast<const char*>(from_pointer);
  const size_t from_bytes = Span(layout.from_pitch, layout);
  const Ends ends = CheckEnds(to, Span(layout.to_pitch, layout), from, from_bytes, kind);
  if (ends.error != 0) return ends.error;
  if (ends.faults) poison = cudaErrorIllegalAddress;
  NoteCopy(ends, layout.width * layout.height);
  if (ends.from == Place::kPageable && ends.to == Place::kDevice) {
    if (wait) Drain(stream);
    auto staged = std::make_shared<std::vector<char>>(from, from + from_bytes);
    Submit(stream, poison, [=] { CopyRows(to, staged->data(), layout); });
    return cudaSuccess;
  }
  Submit(stream, poison, [=] { CopyRows(to, from, layout); });
  const bool on_device = !IsHost(ends.to) && !IsHost(ends.from);
  const bool async = ends.to != Place::kPageable && ends.from != Place::kPageable;
  if ((wait && !on_device) || (!wait && !async)) {
    Drain(stream);
    return PoisonError();
  }
  return cudaSuccess;
}

int Fill(const std::shared_ptr<Stream>& stream, int poison, void* to, int value, size_t bytes) {
  if (bytes == 0) return cudaSuccess;
  const Place place = PlaceOf(to, bytes, true);
  if (place == Place::kForbidden) poison = cudaErrorIllegalAddress;
  if (place == Place::kOutside || place == Place::kPageable) return cudaErrorInvalidValue;
  Submit(stream, poison, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

Layout OneRow(size_t bytes) { return {bytes, 1, bytes, bytes}; }

}  // namespace

int CopyBatch(const std::shared_ptr<Stream>& stream, int poison, std::vector<Piece> pieces,
              const std::vector<SourceOrder>& orders) {
  std::vector<std::shared_ptr<std::vector<char>>> staged;
  for (const Piece& piece : pieces) {
    const Ends ends = CheckEnds(piece.to, piece.bytes, piece.from, piece.bytes, cudaMemcpyDefault);
    if (ends.error != 0) return ends.error;
    if (ends.faults) poison = cudaErrorIllegalAddress;
    NoteCopy(ends, piece.bytes);
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    Piece& piece = pieces[i];
    if (orders[i] != SourceOrder::kDuringCall || poison != 0) continue;
    const char* const from = static_cast<const char*>(piece.from);
    staged.push_back(std::make_shared<std::vector<char>>(from, from + piece.bytes));
    piece.from = staged.back()->data();
  }
  static std::atomic<uint32_t> seed = 1;
  std::shuffle(pieces.begin(), pieces.end(), std::minstd_rand(seed++));
  Submit(stream, poison, [pieces = std::move(pieces), staged = std::move(staged)] {
    for (const Piece& piece : pieces) std::memcpy(piece.to, piece.from, piece.bytes);
  });
  return cudaSuccess;
}

}  // namespace thermocline::fakecuda

using namespace thermocline::fakecuda;
using StreamPointer = std::shared_ptr<Stream>;

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t handle) {
  return ServeOnStream("cudaMemcpyAsync", handle, [&](const StreamPointer& stream, int poison) {
    return Copy(stream, poison, to, from, OneRow(bytes), kind, false);
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return ServeOnStream("cudaMemcpy", nullptr, [&](const StreamPointer& stream, int poison) {
    return Copy(stream, poison, to, from, OneRow(bytes), kind, true);
  });
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t handle) {
  return ServeOnStream("cudaMemcpy2DAsync", handle, [&](const StreamPointer& stream, int poison) {
    return Copy(stream, poison, to, from, {width, height, to_pitch, from_pitch}, kind, false);
  });
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t handle) {
  return ServeOnStream("cudaMemsetAsync", handle, [&](const StreamPointer& stream, int poison) {
    return Fill(stream, poison, to, value, bytes);
  });
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return ServeOnStream("cudaMemset", nullptr, [&](const StreamPointer& stream, int poison) {
    return Fill(stream, poison, to, value, bytes);
  });
}
