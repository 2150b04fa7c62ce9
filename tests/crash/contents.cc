#include "tests/crash/contents.h"

#include <algorithm>
#include <cstring>

namespace thermocline::crash {
namespace {

constexpr uint64_t kGamma = 0x9e3779b97f4a7c15;
constexpr uint64_t kWrong = 0xa5a5a5a5a5a5a5a5;
constexpr uint32_t kForkEvery = 4;
constexpr uint32_t kPinnedPlaces = 8;
constexpr size_t kKeyBytes = 24;

// SplitMix64 (Steele, Lea, Flood 2014): the word of any offset without those before it.
uint64_t Mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9;
  x ^= x >> 27;
  x *= 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

SpaceSpec Spec(std::string model, std::vector<PartSpec> parts) {
  SpaceSpec spec;
  spec.model = std::move(model);
  spec.kv_dtype = "f32";
  spec.layers = 30;
  spec.kv_heads = 3;
  spec.head_dim = 64;
  spec.block_tokens = 16;
  spec.parts = std::move(parts);
  spec.layout = "crash.v1";
  return spec;
}

/// Tokens, keys, a hybrid model with a window of two blocks, and blocks of 32 tokens.
std::vector<SpaceSpec> FourSpaces(uint64_t small, uint64_t large) {
  std::vector<SpaceSpec> specs = {
      Spec("tokens", {{.name = "all", .block_bytes = small}}),
      Spec("keys", {{.name = "all", .block_bytes = large - 4080}}),
      Spec("hybrid", {{.name = "full", .block_bytes = large - 16},
                      {.name = "sliding", .block_bytes = small - 1024, .window_tokens = 32}}),
      Spec("wide", {{.name = "all", .block_bytes = large - 1040}})};
  specs[1].opaque_names = true;
  specs[1].key_bytes = kKeyBytes;
  specs[3].block_tokens = 32;
  return specs;
}

}  // namespace

uint64_t Uniform(Rng& rng, uint64_t least, uint64_t most) {
  return std::uniform_int_distribution<uint64_t>(least, most)(rng);
}

bool Chance(Rng& rng, double probability) {
  return std::uniform_real_distribution<>(0, 1)(rng) < probability;
}

std::optional<World> World::Named(std::string_view name) {
  World world;
  if (name == "tight") {
    world.spaces_ = FourSpaces(64 << 10, 64 << 10);
    world.roots_ = 4;
  } else if (name == "wide") {
    world.spaces_ = FourSpaces(64 << 10, 64 << 10);
    world.roots_ = 10;
    world.branches_ = 2;
  } else if (name == "sizes") {
    world.spaces_ = FourSpaces(64 << 10, 128 << 10);
    world.roots_ = 12;
  } else if (name == "demo") {
    world.spaces_ = {Spec("demo", {{.name = "all", .block_bytes = 30 * 2 * 3 * 16 * 64 * 4}})};
    world.roots_ = 6;
    world.depth_ = 32;
  } else {
    return std::nullopt;
  }
  return world;
}

uint32_t World::ChoicesAt(size_t place) const {
  if (place == 0) return roots_;
  return place % kForkEvery == 0 ? branches_ : 1;
}

Path World::RandomPath(Rng& rng) const {
  Path path(depth_);
  for (uint32_t place = 0; place < depth_; place += kForkEvery) {
    path[place] = static_cast<uint32_t>(Uniform(rng, 0, ChoicesAt(place) - 1));
  }
  path.resize(Chance(rng, 0.5) ? depth_ : Uniform(rng, 1, depth_));
  return path;
}

std::vector<Path> World::AllPaths() const {
  std::vector<Path> paths;
  Path path = {0};
  while (!path.empty()) {
    paths.push_back(path);
    if (path.size() < depth_) {
      path.push_back(0);
      continue;
    }
    while (!path.empty() && path.back() + 1 >= ChoicesAt(path.size() - 1)) path.pop_back();
    if (!path.empty()) ++path.back();
  }
  return paths;
}

Path World::PinnedPath(Rng& rng) const {
  Path path(kPinnedPlaces);
  path[kForkEvery] = static_cast<uint32_t>(Uniform(rng, 0, 1));
  return path;
}

PathNames World::Names(size_t space, const Path& path, size_t first, size_t end) const {
  PathNames names;
  for (size_t place = first; place < end; ++place) {
    const uint64_t word = Mix((place << 32) + path[place] + kGamma);
    if (spaces_[space].opaque_names) {
      std::string key = std::to_string(word);
      key.resize(kKeyBytes, '.');
      names.keys.push_back(std::move(key));
      continue;
    }
    for (uint32_t i = 0; i < 16; ++i) {
      names.tokens.push_back(static_cast<int32_t>(Mix(word + i) % 49152));
    }
  }
  return names;
}

uint64_t World::Seed(size_t space, const Path& path, uint32_t depth, uint32_t part) const {
  uint64_t seed = Mix(space + 1) + part;
  for (uint32_t place = 0; place <= depth; ++place) seed = Mix(seed + kGamma * (path[place] + 1));
  return seed;
}

void FillLegal(std::span<std::byte> bytes, uint64_t seed) {
  for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
    const uint64_t word = Mix(seed += kGamma);
    std::memcpy(bytes.data() + at, &word, 8);
  }
}

void FillWrong(std::span<std::byte> bytes, uint64_t seed) {
  for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
    const uint64_t word = Mix(seed += kGamma) ^ kWrong;
    std::memcpy(bytes.data() + at, &word, 8);
  }
}

std::optional<size_t> FirstWrongByte(std::span<const std::byte> bytes, uint64_t seed) {
  for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
    const uint64_t legal = Mix(seed += kGamma);
    uint64_t found = 0;
    std::memcpy(&found, bytes.data() + at, 8);
    if (found == legal) continue;
    size_t byte = 0;
    while (((found ^ legal) >> (8 * byte) & 0xff) == 0) ++byte;
    return at + byte;
  }
  return std::nullopt;
}

std::string Describe(size_t space, const Path& path, uint32_t depth, uint32_t part) {
  std::string text = "space " + std::to_string(space) + ", path ";
  for (uint32_t place = 0; place <= depth; ++place) {
    text += (place == 0 ? "" : ".") + std::to_string(path[place]);
  }
  return text + ", place " + std::to_string(depth) + ", part " + std::to_string(part);
}

}  // namespace thermocline::crash
