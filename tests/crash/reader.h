// Reads leased blocks in place and compares every byte with the only legal content. What was read
// counts when the lease says afterwards that it was still valid; then one wrong byte is a
// violation.
#pragma once
#include <cstdint>
#include <string>

#include "client/client.h"
#include "tests/crash/contents.h"
#include "tests/crash/ledger.h"

namespace thermocline::crash {

class BlockReader {
 public:
  BlockReader(const World& world, Ledger& ledger, std::string who)
      : world_(world), ledger_(ledger), who_(std::move(who)) {}

  /// Reads every block of the lease that is readable in place now. False when a wrong byte was
  /// read through a valid lease.
  bool Check(Lease& lease, size_t space, const Path& path);
  /// One place of it, all parts.
  bool CheckPlace(Lease& lease, size_t space, const Path& path, uint32_t depth);

 private:
  bool CheckBlock(Lease& lease, size_t space, const Path& path, BlockInfo block);
  void CheckShape(const Lease& lease, size_t space, const Path& path);

  const World& world_;
  Ledger& ledger_;
  const std::string who_;
};

}  // namespace thermocline::crash
