// Readers check that what they pinned is, and stays, what they asked for, while the writer drops
// tails, moves bytes and reuses nodes and slots as hard as it can. The bytes of a slot are a
// function of its part and of the whole path down to its place, so that a wrong ancestor shows,
// too; a slot that was taken away is poisoned at once. Beside a root that stays there is one that
// passes: another space takes its node again and again.
//
//   stress [--seconds N] [--seed N] [--readers N] [--run N] [--places N] [--depth N]
//          [--moves PERCENT] [--drops PERCENT] [--noise PERCENT] [--adopts PERCENT]
//          [--keys PERCENT] [--roots PERCENT] [--threads] [--must-notice]
//
// Few places and a small depth make a duel over the same ones: there a missing fence shows within
// seconds. What takes a reader that is interrupted on its way shows with many readers and no noise.
// With --must-notice the run succeeds exactly when a violation was seen (the broken
// builds).
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "catalog/key_reader.h"
#include "tests/catalog/stress_writer.h"

namespace thermocline {
namespace {

constexpr uint32_t kWindowPlaces = 2;
constexpr uint32_t kPinsPerReader = 8;
constexpr int kSkipped = 77;
constexpr std::chrono::seconds kPatience{60};  // beyond its time, on a busy machine

// What a reader tells the others of a place that it holds: whoever reads a torn one is none the
// wiser, as an id has one path.
struct Told {
  std::atomic<uint64_t> round;  // odd while it is written
  std::atomic<uint64_t> root, place, id, path;
};

// Left alone, the scheduler of a busy machine may keep both sides on one core, where a missing
// fence cannot show. Returns how many cores this process may use.
size_t StayOnCore(size_t index) {
  static const cpu_set_t allowed = [] {
    cpu_set_t set;
    TC_CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
    return set;
  }();
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  }
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cores[index % cores.size()], &one);
  (void)sched_setaffinity(0, sizeof one, &one);
  return cores.size();
}

// ---- reader ------------------------------------------------------------------------------------

bool PlacesAreRight(const Reader& reader, const Payload* slots, const Prompt& prompt, uint32_t part,
                    size_t from, size_t to) {
  bool right = true;
  for (size_t i = to; i-- > from;) {
    const Payload& payload = slots[reader.word(part, i).warm_slot()];
    for (const auto& word : payload.word) {
      right &= word.load(std::memory_order_relaxed) == ContentOf(prompt.paths[i], part);
    }
  }
  return right;
}

void NoteViolation(const Plan& plan, Tally& tally) {
  tally.violations.fetch_add(1);
  if (plan.must_notice) tally.stop.store(true);
}

void Tell(Told& told, Root root, Place place, uint64_t id, uint64_t path) {
  told.round.fetch_add(1, std::memory_order_acq_rel);
  told.root.store(BitsOf(root), std::memory_order_release);
  told.place.store(PlaceBits(place), std::memory_order_release);
  told.id.store(id, std::memory_order_release);
  told.path.store(path, std::memory_order_release);
  told.round.fetch_add(1, std::memory_order_acq_rel);
}

uint64_t PathOf(Root root, std::span<const Name> names) {
  uint64_t path = PathOf(root);
  for (const Name& name : names) path = Mix(path, SymbolOf(name));
  return path;
}

/// Pins what another has told of, and answers whether it is that, if it could be had: what lies
/// below another root cannot.
bool AdoptedIsRight(Reader& reader, Root root, const Told& told, const Payload* slots, uint32_t pin,
                    const Plan& plan, Noise& noise, std::mt19937_64& random, Tally& tally) {
  const uint64_t round = told.round.load(std::memory_order_acquire);
  const bool ours = told.root.load(std::memory_order_acquire) == BitsOf(root);
  const Place place = PlaceFromBits(told.place.load(std::memory_order_acquire));
  const uint64_t id = told.id.load(std::memory_order_acquire);
  const uint64_t path = told.path.load(std::memory_order_acquire);
  if (round == 0 || round % 2 == 1 || told.round.load(std::memory_order_acquire) != round) {
    return true;
  }
  if (random() % 100 < plan.noise_percent) noise.Make();
  const PartRule rules[kParts] = {};
  std::vector<Name> names;
  const Reader::Match match = reader.Adopt(root, place, id, pin, rules, 1, names);
  bool right = match.depth == 0 || (ours && PathOf(root, names) == path);
  if (match.depth > 0 && match.usable == match.depth) {
    tally.adopted.fetch_add(1, std::memory_order_relaxed);
    for (int looks = random() % 100 < plan.noise_percent ? 60 : 1; looks > 0; --looks) {
      for (uint32_t part = 0; part < kParts; ++part) {
        for (const auto& word : slots[reader.word(part, match.depth - 1).warm_slot()].word) {
          right &= word.load(std::memory_order_relaxed) == ContentOf(path, part);
        }
      }
    }
  }
  if (match.depth > 0) reader.Unpin(pin);
  return right;
}

/// Looks keys right below the root up in a batch, some twice, some that are never there, and
/// answers whether each is right while the one pin is on it.
bool KeysAreRight(const KeyReader& reader, Root root, const Payload* slots, uint32_t looks,
                  std::atomic<uint64_t>& pin, Tally& tally) {
  static constexpr size_t kKeys = 2 * kAlphabet + 2;
  std::array<Name, kKeys> keys;
  for (size_t i = 0; i < kKeys; ++i) keys[i] = NameOf(i % (kAlphabet + 1));
  std::array<FoundKey, kKeys> found;
  reader.LookUp(root, keys, found);
  bool right = true;
  for (size_t i = 0; i < kKeys; ++i) {
    if (found[i].node == 0) continue;
    const uint64_t path = Mix(PathOf(root), i % (kAlphabet + 1));
    for (uint32_t part = 0; part < kParts; ++part) {
      const std::optional<KeyBlock> block = reader.Pin(root, found[i], part, pin);
      (block ? tally.keys_read : tally.keys_lost).fetch_add(1, std::memory_order_relaxed);
      if (!block) continue;
      for (uint32_t look = 0; look < looks; ++look) {
        for (const auto& word : slots[block->word.warm_slot()].word) {
          right &= word.load(std::memory_order_relaxed) == ContentOf(path, part);
        }
      }
      pin.store(0, std::memory_order_release);
    }
  }
  return right;
}

void ReadUntilStop(const Plan& plan, const Catalog& catalog, Root lasting,
                   const std::atomic<uint64_t>& passing, const Payload* slots, Tally& tally,
                   std::span<Told> told, uint32_t own, Pins pins, uint64_t seed) {
  Reader reader(catalog, pins);
  const KeyReader keys(catalog);
  std::mt19937_64 random(seed);
  Noise noise(seed);
  Prompt prompt;
  while (!tally.stop.load(std::memory_order_relaxed)) {
    const bool passes = random() % 100 < plan.roots_percent;
    const Root root = passes ? RootFromBits(passing.load(std::memory_order_acquire)) : lasting;
    MakePrompt(plan, random, root, prompt);
    const auto pin = static_cast<uint32_t>(1 + random() % (pins.size() - 1));
    const bool windowed = random() % 4 == 0;
    const PartRule rules[kParts] = {{}, {.window_places = windowed ? kWindowPlaces : 0}};
    const std::span<const Name> names(prompt.names);
    const bool extends = random() % 4 == 0;
    const size_t first = extends ? (names.size() + 1) / 2 : names.size();
    if (random() % 100 < plan.noise_percent) noise.Make();
    if (random() % 100 < plan.keys_percent) {
      const uint32_t looks = random() % 100 < plan.noise_percent ? 60 : 1;
      if (!KeysAreRight(keys, root, slots, looks, pins[pin], tally)) NoteViolation(plan, tally);
    }
    Reader::Match match = reader.MatchAndPin(root, names.first(first), pin, rules);
    if (match.depth == 0) continue;
    if (extends && match.depth == first) {
      const size_t held = match.depth;
      match = reader.Extend(root, names, held, pin, rules);
      if (match.depth > held) tally.extended.fetch_add(1, std::memory_order_relaxed);
    }
    const size_t window_from =
        windowed && match.usable > kWindowPlaces ? match.usable - kWindowPlaces : 0;
    bool right = true;
    for (int looks = random() % 100 < plan.noise_percent ? 60 : 1; looks > 0; --looks) {
      right &= PlacesAreRight(reader, slots, prompt, 0, 0, match.usable);
      right &= PlacesAreRight(reader, slots, prompt, 1, window_from, match.usable);
    }
    if (match.usable > 0) {
      const Place end = reader.PlaceAt(match.usable);
      const uint64_t id = catalog.id(end.node, end.count - 1).load(std::memory_order_relaxed);
      Tell(told[own], root, end, id, prompt.paths[match.usable - 1]);
    }
    reader.Unpin(pin);
    if (random() % 100 < plan.adopts_percent) {
      right &= AdoptedIsRight(reader, root, told[random() % told.size()], slots, pin, plan, noise,
                              random, tally);
    }
    if (!right) NoteViolation(plan, tally);
    tally.pins.fetch_add(1, std::memory_order_relaxed);
    tally.places_read.fetch_add(match.usable, std::memory_order_relaxed);
  }
  tally.retries += reader.retries();
  tally.rechecks += reader.rechecks();
}

// ---- both --------------------------------------------------------------------------------------

template <class T>
T* SharedArray(size_t count) {
  void* base =
      mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  TC_CHECK(base != MAP_FAILED);
  return static_cast<T*>(base);
}

/// Whether enough happened to show something.
bool WasBusy(const Plan& plan, const Tally& t) {
  return t.places_read > 1000 && t.dropped > 1000 &&
         (plan.moves_percent == 0 || (t.moved > 1000 && t.moves_refused > 0)) &&
         (plan.keys_percent == 0 || (t.keys_read > 1000 && t.keys_lost > 0)) &&
         (plan.roots_percent == 0 || t.roots > 100);
}

int Report(const Plan& plan, const Tally& t) {
  std::printf("seed %" PRIu64 ": %.2fM pins, %.2fM places read, %" PRIu64 " extended, %" PRIu64
              " adopted, %.2fM keys read, %" PRIu64 " lost, %.2fM dropped, %" PRIu64
              " drops refused, %.2fM moved, %" PRIu64 " moves refused, %" PRIu64 " roots, %" PRIu64
              " rechecks, %" PRIu64 " retries: %" PRIu64 " violations\n",
              plan.seed, t.pins / 1e6, t.places_read / 1e6, t.extended.load(), t.adopted.load(),
              t.keys_read / 1e6, t.keys_lost.load(), t.dropped / 1e6, t.drops_refused.load(),
              t.moved / 1e6, t.moves_refused.load(), t.roots.load(), t.rechecks.load(),
              t.retries.load(), t.violations.load());
  if (plan.must_notice) return t.violations > 0 ? 0 : 1;
  if (t.violations > 0) return 1;
  const bool busy = WasBusy(plan, t);
  if (!busy) std::printf("too little happened to show anything\n");
  return busy ? 0 : 1;
}

int Run(const Plan& plan) {
  if (StayOnCore(0) < 2 && plan.must_notice) {
    std::printf("skipped: one core cannot show a missing fence\n");
    return kSkipped;
  }
  const Geometry geometry{.node_count = plan.places + 100, .run_places = plan.run};
  const auto memory = CatalogMemory::Create(geometry, 1).value();
  const Catalog& catalog = memory.catalog();
  auto* slots = SharedArray<Payload>(StressWriter::SlotCount(plan));
  auto* pins = SharedArray<std::atomic<uint64_t>>(size_t{plan.readers} * kPinsPerReader);
  Tally& tally = *SharedArray<Tally>(1);
  auto& passing = *SharedArray<std::atomic<uint64_t>>(1);
  const std::span<Told> told(SharedArray<Told>(plan.readers), plan.readers);
  Writer writer(catalog);
  const Root root = writer.AddRoot(1).value();
  StressWriter stress(plan, writer, root, passing, slots, tally);
  std::vector<std::thread> crew;
  std::vector<pid_t> children;
  for (uint32_t r = 0; r < plan.readers; ++r) {
    const Pins own(pins + size_t{r} * kPinsPerReader, kPinsPerReader);
    writer.LendPins(own);
    const auto work = [&, own, r] {
      StayOnCore(r + 1);
      // As a client has it: its own mapping, read-only.
      const auto mapped = CatalogMemory::Open(UniqueFd(::dup(memory.fd()))).value();
      ReadUntilStop(plan, mapped.catalog(), root, passing, slots, tally, told, r, own,
                    plan.seed * 100 + r);
    };
    if (plan.threads) {
      crew.emplace_back(work);
    } else if (const pid_t pid = fork(); pid == 0) {
      work();
      _exit(0);
    } else {
      children.push_back(pid);
    }
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(plan.seconds);
  for (uint64_t turn = 0; !tally.stop.load(std::memory_order_relaxed); ++turn) {
    stress.Turn();
    if (turn % 64 != 0) continue;
    const auto now = std::chrono::steady_clock::now();
    const bool enough = plan.must_notice || WasBusy(plan, tally) || now > end + kPatience;
    if (now > end && enough) tally.stop.store(true);
  }
  for (std::thread& thread : crew) thread.join();
  bool all_well = true;
  for (pid_t pid : children) {
    int status = 0;
    waitpid(pid, &status, 0);
    all_well &= WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  const int result = Report(plan, tally);
  if (!all_well) std::printf("a reader died\n");
  return all_well ? result : 1;
}

Plan ParsePlan(int argc, char** argv) {
  Plan plan;
  if (const char* seed = std::getenv("TC_SEED")) plan.seed = std::strtoull(seed, nullptr, 10);
  for (int i = 1; i < argc; ++i) {
    const auto flag = [&](const char* name) { return std::strcmp(argv[i], name) == 0; };
    const auto value = [&] {
      TC_CHECK(i + 1 < argc);
      return static_cast<uint32_t>(std::strtoul(argv[++i], nullptr, 10));
    };
    if (flag("--seconds"))
      plan.seconds = static_cast<int>(value());
    else if (flag("--seed"))
      plan.seed = value();
    else if (flag("--readers"))
      plan.readers = value();
    else if (flag("--run"))
      plan.run = value();
    else if (flag("--places"))
      plan.places = value();
    else if (flag("--depth"))
      plan.depth = value();
    else if (flag("--moves"))
      plan.moves_percent = value();
    else if (flag("--drops"))
      plan.drops_percent = value();
    else if (flag("--noise"))
      plan.noise_percent = value();
    else if (flag("--adopts"))
      plan.adopts_percent = value();
    else if (flag("--keys"))
      plan.keys_percent = value();
    else if (flag("--roots"))
      plan.roots_percent = value();
    else if (flag("--threads"))
      plan.threads = true;
    else if (flag("--must-notice"))
      plan.must_notice = true;
    else
      TC_CHECK(!"known option");
  }
  return plan;
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) { return thermocline::Run(thermocline::ParsePlan(argc, argv)); }
