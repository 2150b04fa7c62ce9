// Zeroed memory for large tables that are read and written anywhere: on huge pages where the system
// has them, because of which a look-up costs one miss and not two.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <type_traits>
#include <utility>

#include "base/check.h"

namespace thermocline {

/// Thread: as an array. Owner: of the memory.
template <class T>
class LargeArray {
 public:
  static_assert(std::is_trivially_copyable_v<T>);

  explicit LargeArray(size_t size) : size_(size) {
    void* const data = mmap(nullptr, size * sizeof(T), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TC_CHECK(data != MAP_FAILED);
    (void)madvise(data, size * sizeof(T), MADV_HUGEPAGE);  // small pages do, too
    data_ = static_cast<T*>(data);
  }
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

}  // namespace thermocline
