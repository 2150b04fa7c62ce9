#include "tests/crash/player.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "base/check.h"

namespace thermocline::crash {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr uint32_t kMostNewBlocks = 8;
constexpr size_t kMostHeld = 4;
constexpr uint64_t kPinsOfOneLife = 24;
constexpr milliseconds kTimeout{5000};
constexpr milliseconds kForGood{std::chrono::hours(1)};

/// As whoever pins is told when the power of the disk is cut.
bool DiskFailed(const absl::Status& pin) {
  return std::string(pin.message()).find("not stored") != std::string::npos &&
         std::string(pin.message()).find("Input/output error") != std::string::npos;
}

}  // namespace

Player::Player(const PlayerOptions& options)
    : options_(options),
      world_(World::Named(options.world).value()),
      ledger_(options.directory),
      reader_(world_, ledger_, "client " + std::to_string(::getpid())),
      rng_(options.seed) {}

bool Player::Connect() {
  while (client_ == nullptr) {
    if (stopping()) return false;
    auto client = Client::Connect(
        {.socket_path = options_.socket, .client_name = "crash", .timeout = kTimeout});
    if (!Fine(client.status(), "Connect")) continue;
    client_ = *std::move(client);
  }
  while (spaces_.size() < world_.spaces().size()) {
    if (stopping()) return false;
    auto space = client_->OpenSpace(world_.spaces()[spaces_.size()]);
    if (Fine(space.status(), "OpenSpace")) spaces_.push_back(*std::move(space));
  }
  return true;
}

void Player::Step() {
  ReadHeld();
  ScribbleHeld();
  const size_t space = Uniform(rng_, 0, spaces_.size() - 1);
  if (options_.pins && Chance(rng_, 0.02)) return Pin(space);
  if (options_.deletes && Chance(rng_, 0.005)) return Delete(space);
  const Path path = world_.RandomPath(rng_);
  if (Chance(rng_, 0.03)) {
    const PathNames names = world_.Names(space, path, 0, path.size());
    Fine(spaces_[space].Prefetch(names.view()).status(), "Prefetch");
  } else if (Chance(rng_, 0.01)) {
    const PathNames names = world_.Names(space, path, 0, path.size());
    const milliseconds ttl(Uniform(rng_, 1, 500));
    const auto pin = spaces_[space].Pin(names.view(), ttl, BlockTier::kWarm);
    if (!absl::IsNotFound(pin.status()) && !DiskFailed(pin.status())) Fine(pin.status(), "Pin");
  } else {
    Visit(space, path);
  }
}

void Player::Visit(size_t space, const Path& path) {
  const PathNames names = world_.Names(space, path, 0, path.size());
  auto lease = spaces_[space].Match(names.view());
  if (!Fine(lease.status(), "Match")) return;
  ++ledger_.counters().matches;
  ledger_.counters().hits += lease->blocks().size();
  if (!Load(*lease, space, path)) return;
  reader_.Check(*lease, space, path);
  if (Chance(rng_, 0.1)) {
    Nap(50);
    reader_.Check(*lease, space, path);
  }
  if (lease->depth() > 0 && Chance(rng_, 0.05)) {  // then what is committed is there already
    const auto depth = static_cast<uint32_t>(Uniform(rng_, 0, lease->depth() - 1));
    const absl::Status cut = lease->Truncate(depth);
    if (!absl::IsAborted(cut) && !Fine(cut, "Truncate")) return;
  }
  if (lease->depth() < path.size()) Extend(*lease, space, path);
  if (held_.size() < kMostHeld && Chance(rng_, 0.05)) {
    held_.push_back({*std::move(lease), space, path, Soon(1500)});
  }
}

bool Player::Load(Lease& lease, size_t space, const Path& path) {
  uint32_t seen = 0;
  const auto read_early = [&](uint32_t ready) {
    for (; seen < ready; ++seen) reader_.CheckPlace(lease, space, path, seen);
  };
  const bool early = Chance(rng_, 0.3);
  const auto loaded = early ? lease.Load(read_early) : lease.Load();
  return Fine(loaded.status(), "Load");
}

void Player::Extend(Lease& lease, size_t space, const Path& path) {
  const SpaceSpec& spec = spaces_[space].spec();
  const uint32_t block_places = spec.block_tokens / 16;
  const auto missing = static_cast<uint32_t>(path.size()) - lease.depth();
  const uint32_t most = std::min(missing / block_places, kMostNewBlocks);
  if (most == 0) return;
  std::vector<Reservation> slots = Reserve(space, static_cast<uint32_t>(Uniform(rng_, 1, most)));
  if (slots.empty() || Misbehave(slots)) return;
  const uint32_t first = lease.depth();
  const auto parts = static_cast<uint32_t>(spec.parts.size());
  for (uint32_t i = 0; i < slots.size(); ++i) {
    const uint32_t depth = first + (i / parts + 1) * block_places - 1;
    FillLegal(slots[i].bytes(), world_.Seed(space, path, depth, i % parts));
  }
  const auto blocks = static_cast<uint32_t>(slots.size()) / parts;
  const PathNames names = world_.Names(space, path, first, first + blocks * block_places);
  const bool waits = Chance(rng_, 0.5);
  absl::Status committed = waits ? lease.Commit(names.view(), std::move(slots))
                                 : lease.CommitAsync(names.view(), std::move(slots));
  const bool answered = waits || Chance(rng_, 0.7);
  if (committed.ok() && !waits && answered) committed = lease.Settle();
  if (absl::IsAborted(committed)) ++ledger_.counters().not_on_disk;
  if (absl::IsAborted(committed) || !Fine(committed, "Commit")) return;
  if (answered && options_.durable) {
    const auto end = path.begin() + first + blocks * block_places;
    ledger_.AddDurable({space, Path(path.begin(), end)});
  }
  ledger_.counters().committed_blocks += uint64_t{blocks} * parts;
  reader_.Check(lease, space, path);
}

/// Slots for up to so many blocks of all parts, in the order that Commit takes.
std::vector<Reservation> Player::Reserve(size_t space, uint32_t blocks) {
  const size_t parts = spaces_[space].spec().parts.size();
  std::vector<std::vector<Reservation>> by_part;
  size_t granted = blocks;
  for (uint32_t part = 0; part < parts; ++part) {
    const milliseconds wait(Chance(rng_, 0.5) ? Uniform(rng_, 1, 200) : 0);
    auto slots = spaces_[space].Reserve(blocks, part, wait);
    if (absl::IsResourceExhausted(slots.status())) ++ledger_.counters().refused_reserves;
    if (!Fine(slots.status(), "Reserve")) return {};
    granted = std::min(granted, slots->size());
    by_part.push_back(*std::move(slots));
  }
  std::vector<Reservation> slots;
  for (size_t block = 0; block < granted; ++block) {
    for (auto& part : by_part) slots.push_back(std::move(part[block]));
  }
  return slots;
}

/// True when the slots are not to be committed.
bool Player::Misbehave(std::vector<Reservation>& slots) {
  const double kind = std::uniform_real_distribution<>(0, 1)(rng_);
  if (kind > 0.15) return false;
  for (Reservation& slot : slots) {
    const auto bytes = slot.bytes();
    FillWrong(bytes.first(Uniform(rng_, 0, bytes.size())), rng_());
  }
  if (kind > 0.10) return false;  // filled anew, and committed
  if (kind < 0.01) {
    ++ledger_.counters().deaths;
    ::kill(::getpid(), SIGKILL);
  }
  ledger_.counters().aborted_slots += slots.size();
  if (kind < 0.05 && abandoned_.size() < kMostHeld) {
    abandoned_.push_back({std::move(slots), Soon(1500)});
  }
  return true;
}

void Player::Pin(size_t space) {
  if (ledger_.counters().pins > kPinsOfOneLife) return;
  Path path = world_.PinnedPath(rng_);
  const PathNames names = world_.Names(space, path, 0, path.size());
  const auto pin = spaces_[space].Pin(names.view(), kForGood);
  if (absl::IsNotFound(pin.status())) return Visit(space, path);
  if (DiskFailed(pin.status())) return Nap(10);
  if (!Fine(pin.status(), "Pin")) return;
  path.resize(pin->depth);
  if (options_.durable && !MakeDurable(space, path)) return;
  ledger_.AddPin({space, path});
}

/// Whether all of a path that is here is on disk: its last block is committed once more, and the
/// answer waits for what it stands behind.
bool Player::MakeDurable(size_t space, const Path& path) {
  const auto end = static_cast<uint32_t>(path.size());
  const PathNames names = world_.Names(space, path, 0, end);
  auto lease = spaces_[space].Match(names.view());
  if (!Fine(lease.status(), "Match") || !Load(*lease, space, path) || lease->depth() < end) {
    return false;
  }
  std::vector<Reservation> slots = Reserve(space, 1);
  const uint32_t first = end - spaces_[space].spec().block_tokens / 16;
  if (slots.empty() || !Fine(lease->Truncate(first), "Truncate")) return false;
  for (uint32_t part = 0; part < slots.size(); ++part) {
    FillLegal(slots[part].bytes(), world_.Seed(space, path, end - 1, part));
  }
  const PathNames last = world_.Names(space, path, first, end);
  const absl::Status committed = lease->Commit(last.view(), std::move(slots));
  if (absl::IsAborted(committed) || !Fine(committed, "Commit")) return false;
  return ledger_.AddDurable({space, path});
}

void Player::Delete(size_t space) {
  const Path path = world_.RandomPath(rng_);
  if (path[0] == 0) return;  // of which PinnedPath takes its paths
  const auto admin = AdminClient::Connect(
      {.socket_path = options_.socket, .client_name = "crash", .timeout = kTimeout});
  if (!Fine(admin.status(), "Connect")) return;
  const PathNames names = world_.Names(space, path, 0, path.size());
  const auto deleted = (*admin)->Delete(spaces_[space].fingerprint(), names.view());
  if (absl::IsNotFound(deleted.status()) || !Fine(deleted.status(), "Delete")) return;
  ++ledger_.counters().deletes;
}

void Player::ReadHeld() {
  for (HeldLease& held : held_) reader_.Check(held.lease, held.space, held.path);
  std::erase_if(held_, [](const HeldLease& held) { return steady_clock::now() > held.until; });
}

// They may be slots of a daemon that is dead: what is written there must reach nobody.
void Player::ScribbleHeld() {
  for (HeldSlots& held : abandoned_) {
    for (Reservation& slot : held.slots) FillWrong(slot.bytes(), rng_());
  }
  std::erase_if(abandoned_, [](const HeldSlots& held) { return steady_clock::now() > held.until; });
}

/// False when a call failed as it may; any other error is a violation.
bool Player::Fine(const absl::Status& status, const char* call) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return true;
    case absl::StatusCode::kResourceExhausted:
      return false;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kCancelled:
      ++ledger_.counters().failed_calls;
      break;
    default:
      ledger_.AddViolation("client " + std::to_string(::getpid()) + ": " + call +
                           " failed as no call may: " + status.ToString());
  }
  Nap(10);
  if (client_ != nullptr && !client_->Connected() && Chance(rng_, 0.8) &&
      client_->Reconnect().ok()) {
    ++ledger_.counters().reconnects;
  }
  return false;
}

void Player::Nap(uint64_t most_ms) {
  std::this_thread::sleep_for(milliseconds(Uniform(rng_, 1, most_ms)));
}

Player::SteadyTime Player::Soon(uint64_t most_ms) {
  return steady_clock::now() + milliseconds(Uniform(rng_, 0, most_ms));
}

int RunPlayer(const PlayerOptions& options) {
  Player player(options);
  if (!player.Connect()) return 0;
  while (!player.stopping()) player.Step();
  return 0;
}

}  // namespace thermocline::crash
