// Whatever a client writes into its ring: the daemon takes out commits, or says that there is
// garbage, and never looks beyond what was written. The first 8 bytes say how much that was.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "base/check.h"
#include "daemon/commit_steps.h"
#include "daemon/put_ring.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thermocline;
  if (size < 8) return 0;
  uint64_t written;
  std::memcpy(&written, data, sizeof written);
  static const auto area = std::make_shared<ControlArea>();
  const size_t bytes = std::min<size_t>(size - 8, kPutRingBytes);
  std::memcpy(area->puts, data + 8, bytes);
  std::memset(area->puts + bytes, 0, kPutRingBytes - bytes);
  area->puts_written = written;
  PutRing ring(area);
  uint64_t taken = 0;
  while (true) {
    const auto next = ring.Next();
    if (!next.ok() || !next->has_value()) break;
    taken += 8 + ((*next)->bytes.size() + 7) / 8 * 8;
    TC_CHECK(taken <= kPutRingBytes && taken <= written);
    v1::CommitRequest request;
    if (!request.ParseFromString((*next)->bytes)) continue;
    CommitSteps::Of(request).status().IgnoreError();
    ring.Tell({});
  }
  return 0;
}
