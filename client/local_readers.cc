#include "client/local_readers.h"

#include <utility>

namespace thermocline {
inline namespace client_v1 {

std::unique_ptr<LocalReader> LocalReaders::Take() {
  MutexLock lock(mutex_);
  if (!free_.empty()) {
    std::unique_ptr<LocalReader> reader = std::move(free_.back());
    free_.pop_back();
    return reader;
  }
  if (made_ + 2 > kControlPins) return nullptr;
  const Pins pins = Pins(area_.pins).subspan(made_, 2);
  made_ += 2;
  return std::unique_ptr<LocalReader>(new LocalReader{
      Reader(catalog_, pins), made_ - 2 + LocalReader::kLeasePin, pins[LocalReader::kLeasePin]});
}

void LocalReaders::GiveBack(std::unique_ptr<LocalReader> reader) {
  reader->reader.Unpin(LocalReader::kLeasePin);
  MutexLock lock(mutex_);
  free_.push_back(std::move(reader));
}

void LocalReaders::Count(std::span<const Place> ends, const Outcome& outcome) {
  const auto add = [](std::atomic<uint64_t>& counter, uint64_t count) {
    counter.fetch_add(count, std::memory_order_relaxed);
  };
  add(area_.lookups, 1);
  add(area_.warm_hits, outcome.warm_hits);
  add(area_.absent, outcome.absent);
  add(area_.requested_tokens, outcome.requested_tokens);
  add(area_.hit_tokens, outcome.hit_tokens);
  add(area_.hit_bytes, outcome.hit_bytes);
  for (const Place end : ends) {
    if (end.count == 0) continue;
    const uint64_t use = area_.uses_written.fetch_add(1, std::memory_order_acq_rel);
    area_.uses[use % kUseRecords].store(PlaceBits(end), std::memory_order_relaxed);
  }
}

}  // namespace client_v1
}  // namespace thermocline
