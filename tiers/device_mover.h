// The mover: the process that copies between host memory and the custodian's slabs. It is the only
// one of a daemon's with a CUDA context, and does nothing else, so that an error that no process
// survives costs a few copies: the mover ends, and the daemon starts another one.
//
// A daemon tells it by packets, one at a time, what to map and what to copy. Memory is named by
// numbers: pools and their chunks on the device's side, hosts (an arena, a staging area) on the
// other. Nothing that it is told is believed to lie within anything.
#pragma once
#include <cstdint>

#include "tiers/device_wire.h"

namespace thermocline {

enum class MoverVerb : uint32_t {
  kHello = 1,       // begins: device, chunk_bytes
  kMapChunk = 2,    // pool, chunk; its slab comes along
  kUnmapChunk = 3,  // pool, chunk
  kMapHost = 4,     // pool, host, bytes; its memory comes along
  kUnmapHost = 5,   // pool, host
  kPinHost = 6,     // pool, host, offset, bytes
  kCopyIn = 7,      // pool; `count` transfers follow
  kCopyOut = 8,
  kUnpinHost = 9,     // pool, host, offset
  kMapNewChunk = 10,  // as kMapChunk, and clears it
};

struct MoverRequest {
  uint32_t version = kDeviceWireVersion;
  MoverVerb verb = MoverVerb::kHello;
  uint32_t pool = 0;
  uint32_t chunk = 0;
  uint32_t host = 0;
  uint32_t count = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t chunk_bytes = 0;
  int64_t device = 0;
};

struct MoverTransfer {
  uint64_t device_offset = 0;
  uint64_t host_offset = 0;
  uint64_t bytes = 0;
  uint32_t host = 0;
  uint32_t reserved = 0;
};

inline constexpr uint32_t kMaxMoverTransfers = 1024;  // of one request
inline constexpr uint32_t kMaxMoverPools = 1024;

/// Serves a daemon at the other end of `socket` until that goes, and signs its `lock`. Answers the
/// exit code: 0, or 3 after an error of CUDA that this process cannot survive, which the daemon was
/// told of. Thread: the process's only one.
int RunDeviceMover(int socket, int lock);

}  // namespace thermocline
