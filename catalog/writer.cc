#include "catalog/writer.h"

#include <algorithm>
#include <string>

namespace thermocline {

Writer::Writer(const Catalog& catalog)
    : catalog_(catalog),
      table_(catalog),
      run_(catalog.geometry().run_places),
      nodes_(catalog.geometry().node_count),
      children_(size_t{catalog.geometry().node_count} * (run_ + 1)) {}

absl::StatusOr<Root> Writer::AddRoot(uint32_t tag) {
  if (tag == 0) return absl::InvalidArgumentError("catalog: tag 0 names no space");
  if (roots_.contains(tag)) {
    return absl::AlreadyExistsError("catalog: space " + std::to_string(tag) + " has a root");
  }
  const NodeId node = TakeNode();
  if (node == 0) {
    return absl::ResourceExhaustedError("catalog: all " +
                                        std::to_string(catalog_.geometry().node_count - 1) +
                                        " nodes are in use; no space can be opened");
  }
  nodes_[node].root = node;
  catalog_.node(node).parent.store(0, std::memory_order_relaxed);
  catalog_.node(node).root.store(tag, std::memory_order_release);
  roots_[tag] = node;
  return Root{node, tag};
}

std::optional<Root> Writer::FindRoot(uint32_t tag) const {
  const auto found = roots_.find(tag);
  if (found == roots_.end()) return std::nullopt;
  return Root{found->second, tag};
}

absl::Status Writer::RemoveRoot(Root root) {
  TC_CHECK(FindRoot(root.tag) == root);
  if (children(RootPlace(root)) > 0) {
    return absl::FailedPreconditionError("catalog: space " + std::to_string(root.tag) +
                                         " still holds places; drop them first");
  }
  roots_.erase(root.tag);
  catalog_.node(root.node).root.store(0, std::memory_order_release);
  nodes_[root.node] = Node{};
  free_.push_back(root.node);
  return absl::OkStatus();
}

Writer::Found Writer::Find(Root root, std::span<const Name> names) const {
  TC_CHECK(FindRoot(root.tag) == root);
  Found found{RootPlace(root), 0};
  while (found.depth < names.size()) {
    const auto [node, state] = catalog_.FindChild(found.place, names[found.depth]);
    if (node == 0) break;
    uint32_t count = 1;
    while (count < state.length() && found.depth + count < names.size() &&
           catalog_.name(node, count).Equals(names[found.depth + count])) {
      ++count;
    }
    found.depth += count;
    found.place = {node, count};
  }
  return found;
}

std::optional<Place> Writer::FindNext(Place at, const Name& name) const {
  TC_CHECK(Contains(at));
  if (at.count > 0 && at.count < catalog_.state(at.node).length() &&
      catalog_.name(at.node, at.count).Equals(name)) {
    return Place{at.node, at.count + 1};
  }
  if (children(at) == 0) return std::nullopt;
  const NodeId child = catalog_.FindChild(at, name).node;
  if (child == 0) return std::nullopt;
  return Place{child, 1};
}

absl::StatusOr<Place> Writer::Append(Place at, const Name& name, uint64_t id) {
  TC_CHECK(id != 0);
  if (FindNext(at, name)) return absl::AlreadyExistsError("catalog: the place is there already");
  NodeState state = catalog_.state(at.node);
  const bool extends = !IsRoot(at) && at.count == state.length() && at.count < run_;
  NodeId node = at.node;
  if (!extends) {
    if (!table_.MakeRoom()) return absl::ResourceExhaustedError("catalog: child table is full");
    node = TakeNode();
    if (node == 0) return absl::ResourceExhaustedError("catalog: all nodes are in use");
    state = catalog_.state(node);
  }
  const Place place{node, state.length() + 1};
  const bool fresh = places_.Insert(id, PlaceBits(place)).second;
  TC_CHECK(fresh);
  SharedId(place).store(id, std::memory_order_relaxed);
  catalog_.name(node, state.length()).Store(name);
  if (!extends) catalog_.node(node).parent.store(PlaceBits(at), std::memory_order_relaxed);
  catalog_.node(node).state.store(NodeState::Of(state.version(), place.count).bits,
                                  std::memory_order_release);
  if (!extends) Adopt(at, node);
  return place;
}

bool Writer::HasRoom(Place at, size_t count) const {
  const bool extends = !IsRoot(at) && at.count == catalog_.state(at.node).length();
  const size_t in_run = extends ? run_ - at.count : 0;
  if (count <= in_run) return true;
  const size_t nodes = (count - in_run + run_ - 1) / run_;
  return nodes <= free_.size() + (catalog_.geometry().node_count - used_) && table_.HasRoom(nodes);
}

Word Writer::word(Place place, uint32_t part) const {
  TC_CHECK(Contains(place));
  TC_CHECK(part < kMaxParts);
  // A part without words here is not looked at: reading sparse memory may allocate it.
  if (IsRoot(place) || (nodes_[place.node].parts >> part & 1) == 0) return {};
  return Word::FromBits(SharedWord(place, part).load(std::memory_order_relaxed));
}

void Writer::SetWord(Place place, uint32_t part, Word word) {
  TC_CHECK(!IsRoot(place));
  TC_CHECK(!word.moving());
  const Word old = this->word(place, part);
  TC_CHECK(!old.moving());
  TC_CHECK(old.warm_slot() == 0 || word.warm_slot() == old.warm_slot());
  TC_CHECK(old.hot_slot() == 0 || word.hot_slot() == old.hot_slot());
  if (word == old) return;
  nodes_[place.node].parts |= static_cast<uint8_t>(1u << part);
  SharedWord(place, part).store(word.bits(), std::memory_order_release);
}

void Writer::SetChecksum(Place place, uint32_t part, uint64_t checksum) {
  TC_CHECK(Contains(place));
  TC_CHECK(!IsRoot(place));
  TC_CHECK(part < kMaxParts);
  catalog_.checksum(part, place.node, place.count - 1).store(checksum, std::memory_order_relaxed);
}

bool Writer::Contains(Place place) const {
  if (!catalog_.IsNode(place.node) || place.node >= used_) return false;
  if (place.count == 0) return nodes_[place.node].root == place.node;
  return place.count <= catalog_.state(place.node).length();
}

Place Writer::Parent(Place place) const {
  if (IsRoot(place)) return place;
  if (place.count > 1) return {place.node, place.count - 1};
  return PlaceFromBits(catalog_.node(place.node).parent.load(std::memory_order_relaxed));
}

Root Writer::RootOf(Place place) const {
  TC_CHECK(Contains(place));
  const NodeId node = nodes_[place.node].root;
  return {node, catalog_.node(node).root.load(std::memory_order_relaxed)};
}

bool Writer::IsLeaf(Place place) const {
  TC_CHECK(Contains(place));
  return place.count >= catalog_.state(place.node).length() && children(place) == 0;
}

void Writer::VisitChildren(Place place, const std::function<void(Place)>& visit) const {
  TC_CHECK(Contains(place));
  if (!IsRoot(place) && place.count < catalog_.state(place.node).length()) {
    visit({place.node, place.count + 1});
  }
  if (children(place) == 0) return;
  for (NodeId child = nodes_[place.node].first_child; child != 0;) {
    const NodeId next = nodes_[child].next_sibling;
    if (Parent({child, 1}) == place) visit({child, 1});
    child = next;
  }
}

void Writer::VisitSubtree(Place place, const std::function<void(Place)>& visit) const {
  std::vector<Place> open;
  const auto collect = [&](Place child) { open.push_back(child); };
  VisitChildren(place, collect);
  while (!open.empty()) {
    const Place next = open.back();
    open.pop_back();
    visit(next);
    VisitChildren(next, collect);
  }
}

Name Writer::NameOf(Place place) const {
  TC_CHECK(Contains(place));
  TC_CHECK(!IsRoot(place));
  return catalog_.name(place.node, place.count - 1).Load();
}

std::vector<Name> Writer::NamesOf(Place place) const {
  std::vector<Name> names(Depth(place));
  for (size_t left = names.size(); left > 0; place = Parent(place)) names[--left] = NameOf(place);
  return names;
}

uint64_t Writer::IdOf(Place place) const {
  TC_CHECK(Contains(place));
  return IsRoot(place) ? 0 : SharedId(place).load(std::memory_order_relaxed);
}

std::optional<Place> Writer::PlaceOf(uint64_t id) const {
  const uint64_t* const found = places_.Find(id);
  if (found == nullptr) return std::nullopt;
  return PlaceFromBits(*found);
}

NodeId Writer::TakeNode() {
  if (!free_.empty()) {
    const NodeId node = free_.back();
    free_.pop_back();
    return node;
  }
  return used_ < catalog_.geometry().node_count ? used_++ : 0;
}

void Writer::Adopt(Place at, NodeId child) {
  Node& parent = nodes_[at.node];
  Node& node = nodes_[child];
  node = {.root = parent.root, .depth_before = Depth(at), .next_sibling = parent.first_child};
  if (node.next_sibling != 0) nodes_[node.next_sibling].previous_sibling = child;
  parent.first_child = child;
  ++children(at);
  NodeHeader& header = catalog_.node(at.node);
  if (at.count == run_ && header.next.load(std::memory_order_relaxed) == 0) {
    header.next.store(child, std::memory_order_relaxed);
  }
  table_.Insert(child);
}

void Writer::Release(NodeId id, DropResult& result) {
  const Place at = Parent({id, 1});
  Node& parent = nodes_[at.node];
  Node& node = nodes_[id];
  table_.Remove(id);
  NodeHeader& header = catalog_.node(at.node);
  if (header.next.load(std::memory_order_relaxed) == id) {
    header.next.store(0, std::memory_order_relaxed);
  }
  catalog_.node(id).next.store(0, std::memory_order_relaxed);
  if (node.previous_sibling != 0) nodes_[node.previous_sibling].next_sibling = node.next_sibling;
  if (node.next_sibling != 0) nodes_[node.next_sibling].previous_sibling = node.previous_sibling;
  if (parent.first_child == id) parent.first_child = node.next_sibling;
  --children(at);
  node = Node{};
  free_.push_back(id);
  if (!IsRoot(at) && IsLeaf(at)) result.leaves.push_back(at);
}

}  // namespace thermocline
