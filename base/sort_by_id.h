// Sorting by id: a radix sort, least digit first, that passes over digits in which all agree. Ids
// are an epoch and a counter, so that of 64 bits two or three digits are left.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace thermocline {

/// Sorts a vector by `item.id`, ascending and stable. Items are small and trivially copyable.
/// Cost: reads those that are in order once; else takes the memory for a second copy.
template <class Items>
void SortById(Items& items) {
  using Item = typename Items::value_type;
  const auto by_id = [](const Item& a, const Item& b) { return a.id < b.id; };
  if (std::is_sorted(items.begin(), items.end(), by_id)) return;
  constexpr uint32_t kDigitBits = 11;
  constexpr uint32_t kDigits = (64 + kDigitBits - 1) / kDigitBits;
  constexpr uint64_t kMask = (uint64_t{1} << kDigitBits) - 1;
  std::vector<std::array<size_t, kMask + 1>> counts(kDigits);
  for (const Item& item : items) {
    for (uint32_t digit = 0; digit < kDigits; ++digit) {
      ++counts[digit][item.id >> digit * kDigitBits & kMask];
    }
  }
  Items sorted(items.size());
  for (uint32_t digit = 0; digit < kDigits; ++digit) {
    auto& places = counts[digit];
    if (places[items[0].id >> digit * kDigitBits & kMask] == items.size()) continue;
    size_t next = 0;
    for (size_t& place : places) next += std::exchange(place, next);
    for (const Item& item : items) {
      sorted[places[item.id >> digit * kDigitBits & kMask]++] = item;
    }
    items.swap(sorted);
  }
}

}  // namespace thermocline
