#include "bench/own_store.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <iostream>
#include <sstream>
#include <thread>

#include "base/units.h"
#include "tests/byte_space.h"

namespace thermocline::bench {
namespace {

using std::chrono::steady_clock;

constexpr size_t kKeyBytes = 16;
constexpr std::chrono::milliseconds kSlotPatience{1000};
constexpr std::chrono::microseconds kLookAgain{200};
constexpr std::chrono::seconds kFindPatience{20};
// So many leases, of so many bytes, may be behind the one that is put: their blocks stay pinned.
constexpr size_t kUnsettled = 8;
constexpr size_t kUnsettledBytes = 64 * MiB;

SpaceSpec SpecOf(size_t bytes) { return ByteSpace("bench", bytes, kKeyBytes); }

/// A path of `batch` places.
std::vector<std::string> Names(const Load& load, size_t first) {
  std::vector<std::string> names;
  for (size_t i = 0; i < load.batch; ++i) names.push_back(KeyOf(load, first + i));
  return names;
}

void Read(std::span<const std::byte> view) {
  const auto* words = reinterpret_cast<const uint64_t*>(view.data());
  uint64_t sum = 0;
  for (size_t i = 0; i < view.size() / sizeof(uint64_t); ++i) sum += words[i];
  volatile uint64_t keep = sum;
  (void)keep;
}

/// Where this process has mapped the arena.
std::vector<std::span<const std::byte>> ArenaMappings() {
  std::vector<std::span<const std::byte>> mappings;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0, end = 0;
    char mode[5] = {};
    if (line.find(".arena") == std::string::npos ||
        std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, mode) != 3 || mode[3] != 's') {
      continue;
    }
    mappings.emplace_back(reinterpret_cast<const std::byte*>(begin), end - begin);
  }
  return mappings;
}

bool LiesIn(const std::vector<std::span<const std::byte>>& mappings,
            std::span<const std::byte> view) {
  for (const auto& mapping : mappings) {
    if (view.data() >= mapping.data() &&
        view.data() + view.size() <= mapping.data() + mapping.size()) {
      return true;
    }
  }
  return false;
}

std::string Line(const char* verb, const Load& load, size_t from) {
  return std::string(verb) + " " + std::to_string(load.bytes) + " " + std::to_string(load.blocks) +
         " " + std::to_string(load.batch) + " " + std::to_string(from);
}

// ---- the finder

/// What was put is not there at once: it looks again and again.
absl::Status FindAll(const Space& space, const Load& load, size_t from) {
  const auto deadline = steady_clock::now() + kFindPatience;
  for (size_t first = from; first < load.blocks; first += load.batch) {
    const std::vector<std::string> names = Names(load, first);
    while (true) {
      TC_ASSIGN_OR_RETURN(const Lease lease, space.Match(names));
      if (lease.depth() == load.batch) break;
      if (steady_clock::now() > deadline) return absl::NotFoundError("a block was never found");
      std::this_thread::sleep_for(kLookAgain);
    }
  }
  return absl::OkStatus();
}

absl::Status CompareAll(const Space& space, const Load& load, size_t from,
                        std::span<const std::byte> content) {
  for (size_t first = from; first < load.blocks; first += load.batch) {
    TC_ASSIGN_OR_RETURN(Lease lease, space.Match(Names(load, first)));
    if (lease.depth() != load.batch) {
      return absl::NotFoundError("block " + std::to_string(first + lease.depth()) +
                                 " is not there");
    }
    for (size_t i = 0; i < load.batch; ++i) {
      const std::span<const std::byte> view = lease.View(static_cast<uint32_t>(i));
      const size_t repeated = (first + i) % (content.size() / load.bytes);
      const std::byte* legal = content.data() + repeated * load.bytes;
      if (view.size() != load.bytes || std::memcmp(view.data(), legal, load.bytes) != 0) {
        return absl::DataLossError("block " + std::to_string(first + i) + " is wrong");
      }
    }
    if (!lease.StillValid()) return absl::InternalError("a lease ended early");
  }
  return absl::OkStatus();
}

}  // namespace

int OwnStore::RunFinder(const std::string& socket, size_t content_bytes) {
  const auto client = Client::Connect({.socket_path = socket, .client_name = "bench_finder"});
  const auto content = AlignedBuffer::Make(content_bytes);
  if (!client.ok() || !content.ok()) return 1;
  FillContent({content->data(), content_bytes});
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string verb;
    Load load;
    size_t from = 0;
    words >> verb >> load.bytes >> load.blocks >> load.batch >> from;
    const auto space = (*client)->OpenSpace(SpecOf(load.bytes));
    absl::Status status = space.status();
    if (status.ok()) {
      status = verb == "find" ? FindAll(*space, load, from)
                              : CompareAll(*space, load, from, {content->data(), content_bytes});
    }
    const auto now = steady_clock::now().time_since_epoch();
    std::cout << std::chrono::nanoseconds(now).count() << " " << status.ToString() << std::endl;
  }
  return 0;
}

// ---- the store

absl::StatusOr<std::unique_ptr<OwnStore>> OwnStore::Start(const Buffers& buffers,
                                                          const std::string& warm_capacity) {
  std::unique_ptr<OwnStore> store(new OwnStore(buffers));
  TC_ASSIGN_OR_RETURN(store->daemon_,
                      DaemonProcess::Start({.warm_capacity = warm_capacity, .cold_capacity = "0"}));
  const std::string socket = store->daemon_->socket_path();
  const ClientOptions options{.socket_path = socket, .client_name = "bench"};
  TC_ASSIGN_OR_RETURN(store->client_, Client::Connect(options));
  TC_ASSIGN_OR_RETURN(store->admin_, AdminClient::Connect(options));
  TC_ASSIGN_OR_RETURN(store->finder_,
                      Coprocess::Start({"/proc/" + std::to_string(getpid()) + "/exe", "--find",
                                        socket, std::to_string(buffers.source.size_bytes())}));
  return store;
}

absl::StatusOr<Space> OwnStore::SpaceOf(const Load& load) {
  const auto found = spaces_.find(load.bytes);
  if (found != spaces_.end()) return found->second;
  TC_ASSIGN_OR_RETURN(Space space, client_->OpenSpace(SpecOf(load.bytes)));
  return spaces_.emplace(load.bytes, std::move(space)).first->second;
}

absl::StatusOr<Lease> OwnStore::PutBatch(const Space& space, const Load& load, size_t first) {
  TC_ASSIGN_OR_RETURN(Lease lease, space.Match(std::vector<std::string>()));
  std::vector<Reservation> slots;
  while (slots.size() < load.batch) {
    TC_ASSIGN_OR_RETURN(
        auto granted,
        space.Reserve(static_cast<uint32_t>(load.batch - slots.size()), 0, kSlotPatience));
    for (Reservation& slot : granted) slots.push_back(std::move(slot));
  }
  for (size_t i = 0; i < load.batch; ++i) {
    const size_t content = (first + i) % (buffers_.source.size_bytes() / load.bytes);
    StreamingCopy(slots[i].bytes(), {buffers_.Source(load, content), load.bytes});
  }
  TC_RETURN_IF_ERROR(lease.CommitAsync(Names(load, first), std::move(slots)));
  return lease;
}

absl::StatusOr<Transfer> OwnStore::PutAlone(const Load& load) {
  return PutBetween(load, 0, load.blocks);
}

absl::StatusOr<Transfer> OwnStore::PutBetween(const Load& load, size_t from, size_t end) {
  TC_ASSIGN_OR_RETURN(const Space space, SpaceOf(load));
  const pid_t servers[] = {daemon_->pid()};
  return Measure(servers, [&]() -> absl::Status {
    std::deque<Lease> unsettled;
    for (size_t first = from; first < end; first += load.batch) {
      TC_ASSIGN_OR_RETURN(Lease lease, PutBatch(space, load, first));
      unsettled.push_back(std::move(lease));
      const size_t bytes = unsettled.size() * load.batch * load.bytes;
      if (unsettled.size() <= kUnsettled && bytes <= kUnsettledBytes) continue;
      TC_RETURN_IF_ERROR(unsettled.front().Settle());
      unsettled.pop_front();
    }
    for (Lease& lease : unsettled) TC_RETURN_IF_ERROR(lease.Settle());
    return absl::OkStatus();
  });
}

absl::StatusOr<Transfer> OwnStore::Put(const Load& load) { return PutUntilFound(load, 0, 0); }

absl::StatusOr<Transfer> OwnStore::PutMore(const Load& load, size_t before) {
  TC_RETURN_IF_ERROR(PutBetween(load, 0, before).status());
  Load all = load;
  all.blocks += before;
  TC_ASSIGN_OR_RETURN(const Transfer transfer, PutUntilFound(all, before, all.blocks - all.batch));
  TC_RETURN_IF_ERROR(Compare(all, all.blocks - before / 2 / all.batch * all.batch));
  return transfer;
}

absl::StatusOr<Transfer> OwnStore::PutUntilFound(const Load& load, size_t from, size_t find_from) {
  TC_RETURN_IF_ERROR(finder_->Tell(Line("find", load, find_from)));
  const auto start = std::chrono::nanoseconds(steady_clock::now().time_since_epoch()).count();
  TC_ASSIGN_OR_RETURN(Transfer transfer, PutBetween(load, from, load.blocks));
  TC_ASSIGN_OR_RETURN(const std::string found, finder_->Hear());
  int64_t end = 0;
  std::string verdict;
  std::istringstream(found) >> end >> verdict;
  if (verdict != "OK") return absl::InternalError("the finder: " + found);
  transfer.ms = static_cast<double>(end - start) / 1e6;
  return transfer;
}

template <class Take>
absl::Status OwnStore::GetAll(const Load& load, Take&& take) {
  TC_ASSIGN_OR_RETURN(const Space space, SpaceOf(load));
  for (size_t first = 0; first < load.blocks; first += load.batch) {
    TC_ASSIGN_OR_RETURN(Lease lease, space.Match(Names(load, first)));
    if (lease.depth() != load.batch) {
      return absl::InternalError("a block that was put is not there");
    }
    for (size_t i = 0; i < load.batch; ++i) {
      if (!take(lease, static_cast<uint32_t>(i), first + i)) {
        return absl::InternalError("a block is not readable");
      }
    }
    if (!lease.StillValid()) return absl::InternalError("a lease ended early");
  }
  return absl::OkStatus();
}

absl::StatusOr<Transfer> OwnStore::Get(const Load& load) {
  const pid_t servers[] = {daemon_->pid()};
  return Measure(servers, [&] {
    return GetAll(load, [&](Lease& lease, uint32_t place, size_t block) {
      return lease.Read(place, {buffers_.Target(load, block), load.bytes});
    });
  });
}

absl::StatusOr<Transfer> OwnStore::GetInPlace(const Load& load, uint64_t* copied_bytes) {
  const auto mappings = ArenaMappings();
  *copied_bytes = 0;
  const pid_t servers[] = {daemon_->pid()};
  return Measure(servers, [&] {
    return GetAll(load, [&](Lease& lease, uint32_t place, size_t) {
      const std::span<const std::byte> view = lease.View(place);
      if (!LiesIn(mappings, view)) *copied_bytes += view.size();
      Read(view);
      return view.size() == load.bytes;
    });
  });
}

absl::Status OwnStore::Check(const Load& load) { return Compare(load, 0); }

absl::Status OwnStore::Compare(const Load& load, size_t from) {
  TC_ASSIGN_OR_RETURN(const std::string verdict, finder_->Ask(Line("compare", load, from)));
  if (verdict.find(" OK") != std::string::npos) return absl::OkStatus();
  return absl::DataLossError("the finder: " + verdict);
}

absl::Status OwnStore::Clear() {
  const auto deadline = steady_clock::now() + kSlotPatience;
  while (true) {
    // There is no cold tier: a flush drops the blocks. The finder's leases end in batches.
    TC_ASSIGN_OR_RETURN(const FlushResult flushed, admin_->Flush(BlockTier::kWarm));
    if (flushed.kept == 0) return absl::OkStatus();
    if (steady_clock::now() > deadline) break;
  }
  return absl::InternalError("blocks were still leased at the flush");
}

}  // namespace thermocline::bench
