// Memory for weights, KV and scratch: page-aligned, in huge pages where the kernel grants them.
// Streaming a hundred megabytes of weights through 4 KiB pages costs decode half its speed.
#pragma once
#include <cstddef>

#include "base/status.h"

namespace thermocline {

/// Owner: unmaps in its destructor. Contents start as zeros.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  ~AlignedBuffer();

  /// Errors: ResourceExhausted when the system refuses `bytes`.
  static absl::StatusOr<AlignedBuffer> Make(size_t bytes);

  std::byte* data() const { return data_; }
  float* floats() const { return reinterpret_cast<float*>(data_); }
  size_t size_bytes() const { return size_bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace thermocline
