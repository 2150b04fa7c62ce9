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
inline constexpr uint32_t kLayoutVersion = 5;
inline constexpr uint32_t kProtocolVersion = 3;

inline constexpr uint64_t kControlAreaMagic = 0x3141544c52544354;  // "TCTRLTA1"
inline constexpr uint64_t kControlAreaBytes = 299008;
inline constexpr uint32_t kControlPins = 256;  // a lease takes two of them, see catalog/reader.h
inline constexpr uint32_t kUseRecords = 1024;
inline constexpr uint32_t kPutRingBytes = 256 * 1024;  // a power of two
inline constexpr uint32_t kPutAnswers = 64;
inline constexpr uint32_t kPutItems = 512;  // of one commit
inline constexpr uint32_t kPutGrants = 23;  // slots granted with its answer
inline constexpr uint32_t kAheadSlots = 1024;
// By this and the commit's number the grant of those is called.
inline constexpr uint64_t kPutGrant = uint64_t{1} << 63;
inline constexpr uint32_t kSleeps = 1, kDozes = 2;

/// A lease outlives the last sign of life of its client, or of its daemon, by at most this.
inline constexpr uint64_t kLeaseMilliseconds = 10'000;
inline constexpr uint64_t kHeartbeatMilliseconds = 500;

/// What stands before a commit in the ring.
struct PutFrame {
  uint32_t commit_bytes;
  uint16_t slots_wanted;  // for later, at most kPutGrants
  uint16_t part;          // of the commit's space, whose they are
};
static_assert(sizeof(PutFrame) == 8);

/// How a commit that was put into the ring went. Written by the daemon before puts_answered comes
/// to it, and not read afterwards once as many more have been answered as there are of these.
struct PutAnswer {
  uint32_t code;   // canonical status code, 0 OK
  uint32_t depth;  // of the path now, when OK
  // A bit for each item, in their order, that is set when its slot is still the client's: it was
  // not published, or another client's block was there before.
  uint64_t kept[kPutItems / 64];
  union {
    char message[8 * kPutGrants];  // of an error; ends with 0
    uint64_t granted[kPutGrants];  // else, of the slots that it asked for; 0 ends them
  };
};
static_assert(sizeof(PutAnswer) == 256);

/// A slot that is held in advance: the page where it begins, and of its grant as much as tells it
/// from one by which the client has the same slot anew.
inline constexpr uint64_t AheadBits(uint64_t offset, uint64_t grant) {
  return (grant & kPutGrant) | (grant << 33 >> 1) | offset / 4096;
}
inline constexpr uint64_t AheadOffset(uint64_t bits) { return (bits & 0xffffffff) * 4096; }

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
  // Commits on their way to the daemon: a ring of frames, each a PutFrame, a v1::CommitRequest and
  // padding to a multiple of 8. Byte n of all that was ever written is
  // puts[n % kPutRingBytes]. The daemon publishes them in their order and answers in it: the n-th,
  // from 1, in put_answers[n % kPutAnswers]. A client leaves at most kPutAnswers unanswered.
  alignas(64) std::atomic<uint64_t> puts_written;  // by the client
  // Commits whose answers the client has taken, with the slots that they granted: it swaps n - 1
  // for n before it takes those of the n-th. Swapped by the daemon for all that were answered, when
  // it takes back what a silent client holds in advance.
  std::atomic<uint64_t> answers_taken;
  // Written by the daemon: bytes taken out, and (a futex) commits answered, modulo 2^32.
  alignas(64) std::atomic<uint64_t> puts_read;
  std::atomic<uint32_t> puts_answered;
  // Raised by the daemon when it is short of slots: those that a client holds in advance should
  // come back.
  std::atomic<uint32_t> slots_recalled;
  // Who sleeps says so, fences, looks once more, and sleeps; who has written fences and looks here.
  // To wake the daemon takes a frame on the session's socket; kDozes says that it will look again
  // soon by itself.
  alignas(64) std::atomic<uint32_t> daemon_sleeps;
  std::atomic<uint32_t> client_sleepers;  // on puts_answered
  alignas(64) PutAnswer put_answers[kPutAnswers];
  alignas(64) std::byte puts[kPutRingBytes];
  // AheadBits of the slots that the client holds in advance of need, in any order; 0 none. Written
  // by the client. Whoever swaps one for 0 has the slot: the client before it hands it out, or the
  // daemon, which frees those of a silent client.
  alignas(64) std::atomic<uint64_t> ahead[kAheadSlots];
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
static_assert(offsetof(ControlArea, puts_written) == 10560);
static_assert(offsetof(ControlArea, answers_taken) == 10568);
static_assert(offsetof(ControlArea, puts_read) == 10624);
static_assert(offsetof(ControlArea, puts_answered) == 10632);
static_assert(offsetof(ControlArea, slots_recalled) == 10636);
static_assert(offsetof(ControlArea, daemon_sleeps) == 10688);
static_assert(offsetof(ControlArea, client_sleepers) == 10692);
static_assert(offsetof(ControlArea, put_answers) == 10752);
static_assert(offsetof(ControlArea, puts) == 10752 + 256 * kPutAnswers);
static_assert(offsetof(ControlArea, ahead) == 289280);
static_assert(sizeof(ControlArea) <= kControlAreaBytes);

}  // namespace thermocline
