// What the cold tier would be if blocks were simply put into RocksDB: values in tables (plain), or
// in blob files beside them (BlobDB), under keys that are hashes. No log (the write returns after a
// flush), no compression, Bloom filters, checksums verified: as favourable as could be measured.
#pragma once
#include <memory>
#include <string>

#include "bench/cold_store.h"

namespace thermocline::bench {

struct RocksForm {
  std::string name;
  bool blobs = false;
  bool direct = false;  // O_DIRECT for reads, flushes and compactions
};

absl::StatusOr<std::unique_ptr<ColdStore>> OpenRocks(const ColdBlocks& blocks,
                                                     const RocksForm& form,
                                                     const std::string& directory);

}  // namespace thermocline::bench
