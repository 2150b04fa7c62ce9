// What the tier stack writes down of spaces, of the places in them and of those who use them.
#pragma once
#include <absl/container/inlined_vector.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/process.h"
#include "catalog/reader.h"
#include "hashing/block_header.h"
#include "hashing/space.h"
#include "proto/shm_layout.h"
#include "tiers/stack_limits.h"

namespace thermocline {

/// Names for the stack alone, which derives from it: clients have spaces and leases of their own.
struct StackBooks {
  struct Space {
    uint32_t number = 0;
    Fingerprint fingerprint;
    SpaceSpec spec;
    Root root;
    uint32_t block_places = 1;            // places a block
    std::vector<uint32_t> window_blocks;  // by part; 0: full attention
    uint64_t places = 0;
    uint64_t warm_bytes = 0;
    uint64_t cold_bytes = 0;
    uint64_t change = 0;  // of the state, by which it came
    uint32_t part_count() const { return static_cast<uint32_t>(spec.parts.size()); }
    uint32_t inner_count() const { return block_places - 1; }
    uint64_t record_bytes() const { return sizeof(BlockHeader) + inner_count() * sizeof(Name); }
    /// What a block of this part takes in the cold tier.
    uint64_t StoredBytes(uint32_t part) const {
      return spec.parts[part].block_bytes + record_bytes();
    }
    /// Whether a match of `blocks` blocks needs this part of its block number `block`.
    bool Needs(uint32_t part, uint32_t block, uint32_t blocks) const {
      return window_blocks[part] == 0 || block + window_blocks[part] >= blocks;
    }
  };
  struct PartState {
    uint64_t checksum = 0;  // of the payload, in whichever tiers it is
    uint64_t sequence = 0;
    bool adopted = false;      // its slot was there before this epoch
    bool reading = false;      // a promotion is under way
    bool writing = false;      // a copy is being written to cold
    bool erasing = false;      // the cold copy is queued for erasure, or being erased
    bool leaving = false;      // the cold copy goes with its segment, if the job under way succeeds
    bool heating = false;      // a copy is being made in the hot tier
    bool hot_spoiled = false;  // that copy did not verify
    bool busy() const { return reading || writing || leaving || heating; }
  };
  struct PlaceState {
    uint32_t space = 0;
    uint32_t pins = 0;       // TTL pins of any tier
    uint32_t warm_pins = 0;  // of these, those of the warm tier
    bool doomed = false;     // deleted; goes as soon as nobody holds it
    bool reused = false;     // matched since it came; kept where writes are limited, or VRAM is
    absl::InlinedVector<PartState, 1> parts;  // of a space; most have one
    bool busy() const;
  };
  struct PinnedBytes {  // of the blocks at places under TTL pins, each counted once
    uint64_t warm = 0;
    uint64_t cold = 0;
  };
  struct Client {
    ProcessRef process;
    std::vector<std::atomic<uint64_t>> pins;  // of leases by message; pin 0 is scratch
    uint32_t area = 0;
    Reader reader;
    std::vector<uint32_t> free_pins;
    std::set<uint64_t> leases;
    // What it does without a message.
    std::shared_ptr<ControlArea> shared;
    uint32_t shared_area = 0;
    bool misbehaved = false;
    size_t touch_budget = kTouchBudget;  // places, until the next tick
    size_t prefetches = 0;               // blocks that wait
    uint64_t lookups_seen = 0, warm_hits_seen = 0, absent_seen = 0, requested_seen = 0;
    uint64_t hit_tokens_seen = 0, hit_bytes_seen = 0, uses_seen = 0;
  };
  struct Lease {
    uint64_t number = 0;
    uint32_t client = 0;
    uint32_t space = 0;
    uint32_t pin = 0;
    Place place;
    std::vector<uint64_t> path;  // ids from the root on; its size is the depth
    uint64_t asked = 0;          // the client's own number for it; 0: it has none
  };
  struct Reservation {
    uint32_t client = 0;
    uint32_t space = 0;
    uint16_t part = 0;
    uint64_t bytes = 0;
    uint64_t grant = 0;
  };
  /// How many of the arena's slots of a size clients fill, or hold in advance.
  class InHand {
   public:
    void Add(uint32_t client, uint64_t slot_bytes) {
      ++counts_[{client, slot_bytes}];
      ++counts_[{kAll, slot_bytes}];
    }
    void Remove(uint32_t client, uint64_t slot_bytes) {
      for (const uint32_t whose : {client, kAll}) {
        const auto found = counts_.find({whose, slot_bytes});
        if (--found->second == 0) counts_.erase(found);
      }
    }
    bool operator==(const InHand&) const = default;
    uint64_t OfAll(uint64_t slot_bytes) const { return Of(kAll, slot_bytes); }
    uint64_t Of(uint32_t client, uint64_t slot_bytes) const {
      const auto found = counts_.find({client, slot_bytes});
      return found == counts_.end() ? 0 : found->second;
    }

   private:
    static constexpr uint32_t kAll = 0;  // no client's number
    std::map<std::pair<uint32_t, uint64_t>, uint64_t> counts_;
  };
  struct Quarantined {
    ProcessRef process;
    std::optional<SteadyTime> release_at;  // once the process fills it no more
  };
  struct Counters {
    uint64_t hits = 0, evictions = 0, promotions = 0, demotions = 0, bytes_in = 0, bytes_out = 0;
  };
};

}  // namespace thermocline
