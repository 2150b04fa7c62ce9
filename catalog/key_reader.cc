#include "catalog/key_reader.h"

#include <algorithm>

#include "base/check.h"
#include "base/fence.h"
#include "catalog/fences.h"

namespace thermocline {
namespace {

constexpr size_t kGroup = 32;  // keys whose cache lines are under way at a time

}  // namespace

bool KeyReader::LookUp(Root root, std::span<const Name> keys, std::span<FoundKey> found) const {
  TC_CHECK(catalog_.IsNode(root.node));
  TC_CHECK(keys.size() == found.size());
  const Place parent{root.node, 0};
  Catalog::Search searches[kGroup];
  for (size_t begin = 0; begin < keys.size(); begin += kGroup) {
    const size_t count = std::min(kGroup, keys.size() - begin);
    for (size_t i = 0; i < count; ++i) searches[i] = catalog_.Begin(parent, keys[begin + i]);
    for (size_t i = 0; i < count; ++i) catalog_.Guess(searches[i]);
    for (size_t i = 0; i < count; ++i) {
      const Catalog::Child child = catalog_.End(searches[i], parent, keys[begin + i]);
      found[begin + i] = {child.node, child.state};
      if (child.node == 0) continue;
      __builtin_prefetch(&catalog_.word(0, child.node, 0));
      __builtin_prefetch(&catalog_.checksum(0, child.node, 0));
      __builtin_prefetch(&catalog_.id(child.node, 0));
    }
  }
  AcquireFence();
  return catalog_.node(root.node).root.load(std::memory_order_relaxed) == root.tag;
}

KeyBlock KeyReader::Block(Root root, const FoundKey& found, uint32_t part) const {
  TC_CHECK(catalog_.IsNode(found.node));
  KeyBlock block;
  block.word = Word::FromBits(catalog_.word(part, found.node, 0).load(std::memory_order_acquire));
  block.checksum = catalog_.checksum(part, found.node, 0).load(std::memory_order_relaxed);
  block.id = catalog_.id(found.node, 0).load(std::memory_order_relaxed);
  AcquireFence();  // the loads above before those of Stands
  return Stands(root, found) ? block : KeyBlock{};
}

// Behind the fence either the writer sees our pin, or we see what it has announced: another version
// or a word that is moving.
std::optional<KeyBlock> KeyReader::Pin(Root root, const FoundKey& found, uint32_t part,
                                       std::atomic<uint64_t>& pin) const {
  pin.store(PlaceBits({found.node, 1}), std::memory_order_release);
  ReaderFence();
  const KeyBlock block = Block(root, found, part);
  if (block.word.readable_warm()) return block;
  pin.store(0, std::memory_order_release);
  return std::nullopt;
}

// A node that has lost a place since it was found may have lost its first, and another key's may
// stand there by now.
bool KeyReader::Stands(Root root, const FoundKey& found) const {
  if (!kKeyReaderLooksAgain) return true;
  const NodeState now = catalog_.state(found.node);
  if (now.version() != found.state.version() || now.length() == 0) return false;
  return !kKeyReaderChecksRoot ||
         catalog_.node(root.node).root.load(std::memory_order_relaxed) == root.tag;
}

}  // namespace thermocline
