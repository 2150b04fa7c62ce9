// Spaces, prompts and legal contents for tests against a real daemon: the content of a block is a
// function of its path, so that any wrong byte is seen by whoever knows the tokens.
#pragma once
#include <cstring>
#include <vector>

#include "client/client.h"
#include "hashing/checksum.h"
#include "hashing/name.h"

namespace thermocline {

inline SpaceSpec TestSpace(uint64_t block_bytes = 64 * 1024, const std::string& model = "test") {
  SpaceSpec spec;
  spec.model = model;
  spec.kv_dtype = "f16";
  spec.layers = 2;
  spec.kv_heads = 2;
  spec.head_dim = 8;
  spec.parts = {{.name = "layers 0-1", .block_bytes = block_bytes}};
  spec.layout = "lkht.v1";
  return spec;
}

/// `places` * 16 tokens; prompts of one seed are prefixes of each other.
inline std::vector<int32_t> Prompt(int32_t seed, uint32_t places) {
  std::vector<int32_t> tokens;
  for (uint32_t i = 0; i < places * kPlaceTokens; ++i) {
    tokens.push_back(seed * 100'003 + static_cast<int32_t>(i));
  }
  return tokens;
}

/// The only legal content of the block that ends at `depth` of this prompt.
inline std::vector<std::byte> Content(const std::vector<int32_t>& tokens, uint32_t depth,
                                      uint32_t part, uint64_t bytes) {
  uint64_t state =
      Checksum(std::as_bytes(std::span(tokens.data(), size_t{depth + 1} * kPlaceTokens))) + part;
  std::vector<std::byte> content(bytes);
  for (size_t at = 0; at + 8 <= bytes; at += 8) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    std::memcpy(content.data() + at, &state, 8);
  }
  return content;
}

inline bool Holds(std::span<const std::byte> view, const std::vector<std::byte>& content) {
  return view.size() == content.size() &&
         std::memcmp(view.data(), content.data(), view.size()) == 0;
}

/// Reserves, fills and commits the places [lease.depth(), places) of a prompt.
inline absl::Status Extend(const Space& space, Lease& lease, const std::vector<int32_t>& tokens,
                           uint32_t places) {
  const uint32_t first = lease.depth();
  const uint32_t step = space.spec().block_tokens / kPlaceTokens;  // places a block
  const uint32_t count = (places - first) / step;
  const auto parts = static_cast<uint32_t>(space.spec().parts.size());
  std::vector<std::vector<Reservation>> of_part;
  for (uint32_t part = 0; part < parts; ++part) {
    TC_ASSIGN_OR_RETURN(auto reserved, space.Reserve(count, part, std::chrono::seconds(30)));
    if (reserved.size() != count) return absl::ResourceExhaustedError("too few slots");
    of_part.push_back(std::move(reserved));
  }
  std::vector<Reservation> slots;
  for (uint32_t i = 0; i < count; ++i) {
    for (uint32_t part = 0; part < parts; ++part) {
      Reservation& slot = of_part[part][i];
      const uint32_t depth = first + (i + 1) * step - 1;
      const auto content = Content(tokens, depth, part, slot.bytes().size());
      std::memcpy(slot.bytes().data(), content.data(), content.size());
      slots.push_back(std::move(slot));
    }
  }
  const std::span<const int32_t> names(tokens.data() + size_t{first} * kPlaceTokens,
                                       size_t{places - first} * kPlaceTokens);
  return lease.Commit(names, std::move(slots));
}

/// How many places of the lease, from the root, have all their legal content in view.
inline uint32_t RightPlaces(const Space& space, Lease& lease, const std::vector<int32_t>& tokens) {
  uint32_t place = 0;
  for (; place < lease.depth(); ++place) {
    for (uint32_t part = 0; part < space.spec().parts.size(); ++part) {
      if (lease.Find(place, part) == nullptr) continue;  // outside its window
      const std::span<const std::byte> view = lease.View(place, part);
      if (!Holds(view, Content(tokens, place, part, view.size()))) return place;
    }
  }
  return place;
}

}  // namespace thermocline
