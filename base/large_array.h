// Zeroed memory for large tables that are read and written anywhere: on huge pages where the system
// has them, because of which a look-up costs one miss and not two, and first use a tenth.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/check.h"

namespace thermocline {

inline void* MapLarge(size_t bytes) {
  void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TC_CHECK(data != MAP_FAILED);
  (void)madvise(data, bytes, MADV_HUGEPAGE);  // small pages do, too
  return data;
}

/// Costs memory only where it was written.
/// Thread: as an array. Owner: of the memory.
template <class T>
class LargeArray {
 public:
  static_assert(std::is_trivially_copyable_v<T>);

  explicit LargeArray(size_t size)
      : data_(static_cast<T*>(MapLarge(size * sizeof(T)))), size_(size) {}
  LargeArray(LargeArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
  LargeArray& operator=(LargeArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~LargeArray() {
    if (data_ != nullptr) munmap(data_, size_ * sizeof(T));
  }

  size_t size() const { return size_; }
  T& operator[](size_t index) { return data_[index]; }
  const T& operator[](size_t index) const { return data_[index]; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }

 private:
  T* data_ = nullptr;
  size_t size_;
};

/// Takes what is large from MapLarge, and the rest from the heap.
template <class T>
struct LargeAllocator {
  using value_type = T;
  static constexpr size_t kLeastBytes = size_t{2} << 20;  // a huge page

  LargeAllocator() = default;
  template <class U>
  LargeAllocator(const LargeAllocator<U>&) {}
  T* allocate(size_t count) {
    if (count < kLeastBytes / sizeof(T)) return std::allocator<T>().allocate(count);
    return static_cast<T*>(MapLarge(count * sizeof(T)));
  }
  void deallocate(T* data, size_t count) {
    if (count < kLeastBytes / sizeof(T)) {
      std::allocator<T>().deallocate(data, count);
    } else {
      munmap(data, count * sizeof(T));
    }
  }
  bool operator==(const LargeAllocator&) const { return true; }
};

template <class T>
using LargeVector = std::vector<T, LargeAllocator<T>>;

}  // namespace thermocline
