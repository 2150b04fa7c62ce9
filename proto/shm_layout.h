// What daemon and client share in memory beside the arena and the catalog: one control area per
// session, mapped by that client and the daemon only. Each side treats what the other writes as
// untrusted. POD with fixed offsets: other languages read it too.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace thermocline {

/// Of the arena, the control area and the session protocol. Raised by any change to either. The
/// catalog has a version of its own (catalog/layout.h).
inline constexpr uint32_t kLayoutVersion = 2;
inline constexpr uint32_t kProtocolVersion = 2;

inline constexpr uint64_t kControlAreaMagic = 0x3141544c52544354;  // "TCTRLTA1"
inline constexpr uint64_t kControlAreaBytes = 12288;
inline constexpr uint32_t kControlPins = 256;  // a lease takes two of them, see catalog/reader.h
inline constexpr uint32_t kUseRecords = 1024;

/// A lease outlives the last sign of life of its client, or of its daemon, by at most this.
inline constexpr uint64_t kLeaseMilliseconds = 10'000;
inline constexpr uint64_t kHeartbeatMilliseconds = 500;

/// Times are CLOCK_BOOTTIME nanoseconds: it goes on while the machine sleeps, and both sides read
/// the same.
struct alignas(64) ControlArea {
  std::atomic<uint64_t> magic;
  std::atomic<uint64_t>
      epoch;  // written by the daemon: another value means another life of the daemon
  // Written by the daemon: now + kLeaseMilliseconds, every second while the heartbeat moves. A
  // reader of leased bytes checks *after* its last read that now < lease_until_ns; otherwise what
  // it read was a miss. It loads this before lease_generation: who sees the time extended then sees
  // the generation that was raised before it.
  alignas(64) std::atomic<uint64_t> lease_until_ns;
  // Written by the daemon: raised before the leases of a silent client end. A lease is good only
  // while this is what it was before the lease was asked for; otherwise a client that wakes from a
  // long stop would find lease_until extended again and trust slots that were reused meanwhile.
  std::atomic<uint64_t> lease_generation;
  // Written by the client: raised every kHeartbeatMilliseconds.
  alignas(64) std::atomic<uint64_t> heartbeat;
  // Written by the client: what its matches without a message came to, since the session began. Of
  // blocks, unless it says otherwise.
  alignas(64) std::atomic<uint64_t> lookups;
  std::atomic<uint64_t> warm_hits;
  std::atomic<uint64_t> absent;
  std::atomic<uint64_t> requested_tokens;
  std::atomic<uint64_t> hit_tokens;
  std::atomic<uint64_t> hit_bytes;
  // Written by the client: which places its matches ended at, for the policy alone. A ring that
  // overwrites what nobody has read: record n is uses[n % kUseRecords], uses_written is the next n.
  alignas(64) std::atomic<uint64_t> uses_written;
  // Written by the client, and by the daemon when it ends leases or moves one behind what was
  // committed: PlaceBits of catalog/layout.h, 0 none.
  alignas(64) std::atomic<uint64_t> pins[kControlPins];
  alignas(64) std::atomic<uint64_t> uses[kUseRecords];
};

static_assert(std::atomic<uint64_t>::is_always_lock_free);
static_assert(offsetof(ControlArea, magic) == 0);
static_assert(offsetof(ControlArea, epoch) == 8);
static_assert(offsetof(ControlArea, lease_until_ns) == 64);
static_assert(offsetof(ControlArea, lease_generation) == 72);
static_assert(offsetof(ControlArea, heartbeat) == 128);
static_assert(offsetof(ControlArea, lookups) == 192);
static_assert(offsetof(ControlArea, uses_written) == 256);
static_assert(offsetof(ControlArea, pins) == 320);
static_assert(offsetof(ControlArea, uses) == 320 + 8 * kControlPins);
static_assert(sizeof(ControlArea) <= kControlAreaBytes);

}  // namespace thermocline
