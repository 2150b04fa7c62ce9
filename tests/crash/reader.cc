#include "tests/crash/reader.h"

#include <vector>

namespace thermocline::crash {

bool BlockReader::Check(Lease& lease, size_t space, const Path& path) {
  CheckShape(lease, space, path);
  const std::vector<BlockInfo> blocks(lease.blocks().begin(), lease.blocks().end());
  bool right = true;
  for (const BlockInfo& block : blocks) right = CheckBlock(lease, space, path, block) && right;
  if (!lease.StillValid()) ++ledger_.counters().ended_leases;
  return right;
}

bool BlockReader::CheckPlace(Lease& lease, size_t space, const Path& path, uint32_t depth) {
  bool right = true;
  for (uint32_t part = 0; part < world_.spaces()[space].parts.size(); ++part) {
    const BlockInfo* block = lease.Find(depth, part);
    if (block != nullptr) right = CheckBlock(lease, space, path, *block) && right;
  }
  return right;
}

bool BlockReader::CheckBlock(Lease& lease, size_t space, const Path& path, BlockInfo block) {
  Counters& counters = ledger_.counters();
  if (block.depth >= path.size()) {
    ledger_.AddViolation(who_ + ": a block beyond the path that was asked for, place " +
                         std::to_string(block.depth));
    return false;
  }
  const auto bytes = lease.View(block.depth, block.part);
  if (bytes.empty()) {
    ++counters.unreadable_blocks;
    return true;
  }
  const auto wrong = FirstWrongByte(bytes, world_.Seed(space, path, block.depth, block.part));
  ++counters.checked_blocks;
  counters.checked_bytes += bytes.size();
  if (!wrong) return true;
  if (!lease.StillValid()) {
    ++counters.late_reads;
    return true;
  }
  ledger_.AddViolation(who_ + ": WRONG BYTE at offset " + std::to_string(*wrong) + " of " +
                       Describe(space, path, block.depth, block.part) + " (id " +
                       std::to_string(block.id) + ", " + BlockTierName(block.tier) +
                       "), and the lease was valid");
  return false;
}

// A lease of n places has every block that is due there.
void BlockReader::CheckShape(const Lease& lease, size_t space, const Path& path) {
  const SpaceSpec& spec = world_.spaces()[space];
  const uint32_t block_places = spec.block_tokens / 16;
  const uint32_t blocks = lease.depth() / block_places;
  for (uint32_t part = 0; part < spec.parts.size(); ++part) {
    const uint32_t window = spec.parts[part].window_tokens / spec.block_tokens;
    const uint32_t first = window == 0 || blocks < window ? 0 : blocks - window;
    for (uint32_t block = first; block < blocks; ++block) {
      const uint32_t depth = (block + 1) * block_places - 1;
      if (lease.Find(depth, part) != nullptr) continue;
      ledger_.AddViolation(who_ + ": a lease of " + std::to_string(lease.depth()) +
                           " places lacks " + Describe(space, path, depth, part));
      return;
    }
  }
}

}  // namespace thermocline::crash
