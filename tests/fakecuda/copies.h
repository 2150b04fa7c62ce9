// Copies on streams, of the runtime and of the driver. Internal.
#pragma once
#include <cstddef>
#include <memory>
#include <vector>

#include "tests/fakecuda/streams.h"

namespace thermocline::fakecuda {

struct Piece {
  void* to;
  const void* from;
  size_t bytes;
};

/// When a batch reads its sources.
enum class SourceOrder : uint8_t { kStream, kDuringCall, kAny };

/// The pieces in any order, as one piece of work. `orders`: one of each piece.
int CopyBatch(const std::shared_ptr<Stream>& stream, int poison, std::vector<Piece> pieces,
              const std::vector<SourceOrder>& orders);

}  // namespace thermocline::fakecuda
