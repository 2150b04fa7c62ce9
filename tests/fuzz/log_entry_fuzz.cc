// Entries of the log, as a disk may hand them out: key and value of any bytes. Nothing but what was
// sealed is taken, whatever lies there, and what is taken reads the same again.
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "base/check.h"
#include "tiers/block_envelope.h"
#include "tiers/log_format.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thermocline;
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto key = bytes.first(std::min(size, sizeof(EntryKey)));
  const auto value = bytes.subspan(key.size());
  (void)ParseSegmentKey(bytes.first(std::min(size, sizeof(SegmentKey))));
  const auto entry = ReadEntry(key, value);
  if (entry.ok()) {
    TC_CHECK(entry->record.size() + kEntryHeadBytes == value.size());
    (void)BlockEnvelope().DecodeRecord(entry->ref, entry->record);
  }
  // The same bytes as a record, under a head that fits: the parser behind it sees them, too.
  if (key.size() < sizeof(EntryKey)) return 0;
  const BlockRef ref = *ParseEntryKey(key);
  std::string sealed(kEntryHeadBytes, '\0');
  sealed.append(reinterpret_cast<const char*>(value.data()), value.size());
  const FilePlace place{static_cast<uint32_t>(size), 7};
  SealEntry({ref, size, place}, sealed);
  const auto again = ReadEntry(key, std::as_bytes(std::span(sealed)));
  TC_CHECK(again.ok());
  TC_CHECK(again->ref == ref);
  TC_CHECK(again->sequence == size);
  TC_CHECK(again->place == place);
  (void)BlockEnvelope().DecodeRecord(ref, again->record);
  return 0;
}
