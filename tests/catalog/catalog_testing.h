// What the catalog's tests share: names by number, a small catalog, seeds.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

#include "base/check.h"
#include "catalog/writer.h"

namespace thermocline {

inline Name NameOf(uint64_t symbol) {
  Name name;
  for (uint64_t i = 0; i < 8; ++i) name.word[i] = symbol * 1000 + i;
  return name;
}

inline uint64_t SymbolOf(const Name& name) { return name.word[0] / 1000; }

inline std::vector<Name> NamesOf(std::initializer_list<uint64_t> symbols) {
  std::vector<Name> names;
  for (uint64_t symbol : symbols) names.push_back(NameOf(symbol));
  return names;
}

/// From TC_SEED where it is set.
inline uint64_t TestSeed() {
  const char* text = std::getenv("TC_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device()();
}

/// A catalog, its writer, one space and the pins of one reader.
struct SmallCatalog {
  explicit SmallCatalog(const Geometry& geometry = {.node_count = 1000})
      : memory(CatalogMemory::Create(geometry, 1).value()),
        writer(memory.catalog()),
        root(writer.AddRoot(1).value()),
        area(writer.LendPins(pins)) {}

  /// Appends what is missing of `names`, with ids counted up; returns the last place.
  Place Add(std::span<const Name> names) {
    Writer::Found found = writer.Find(root, names);
    for (; found.depth < names.size(); ++found.depth) {
      found.place = writer.Append(found.place, names[found.depth], next_id++).value();
    }
    return found.place;
  }
  Place Add(std::initializer_list<uint64_t> symbols) { return Add(NamesOf(symbols)); }

  CatalogMemory memory;
  Writer writer;
  Root root;
  std::array<std::atomic<uint64_t>, 64> pins{};
  uint32_t area;
  uint64_t next_id = 1;
};

}  // namespace thermocline
