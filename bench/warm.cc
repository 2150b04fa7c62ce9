// Warm blocks through the public client API: put (reserve, fill, commit) and get (match, read in
// place or copy out, release), one block a call and sixteen, from 64 KiB to 4 MiB, in rounds after
// each of which all blocks are dropped. The first round, which may meet pages that nobody has
// touched, counts apart.
// A put counts when the match of another process has found it. `put_sustained` begins with a full
// arena and goes on through twice what that holds, so that every block takes the slot of one that
// is evicted, until the last is found; behind the clock that other process compares the last half
// arena. `--only sustained` measures nothing else. After the first round it compares every byte.
// Measured beside them in the same run: memcpy of the same bytes by one thread between buffers
// larger than the caches, which is the limit of a copied read. bench/peers.cc has the peers.
#include <cstdio>
#include <cstring>

#include "base/units.h"
#include "bench/own_store.h"
#include "bench/report.h"

namespace thermocline::bench {
namespace {

constexpr int kRounds = 3;  // besides the first

/// One case's times: milliseconds, a round each.
struct Times {
  std::vector<double> memcpy_ms, put_ms, commit_ms, copied_ms, in_place_ms;
  std::vector<Transfer> puts;
  uint64_t copied_bytes = 0;  // of what was read in place
};

double Later(const std::vector<double>& rounds) {
  return Median({rounds.begin() + 1, rounds.end()});
}

double CopyAll(const Buffers& buffers, const Load& load) {
  return Milliseconds([&] {
    for (size_t i = 0; i < load.blocks; ++i) {
      std::memcpy(buffers.Target(load, i), buffers.Source(load, i), load.bytes);
    }
  });
}

absl::Status Round(OwnStore& store, const Buffers& buffers, const Load& load, bool check,
                   Times& times) {
  times.memcpy_ms.push_back(CopyAll(buffers, load));
  TC_ASSIGN_OR_RETURN(const Transfer alone, store.PutAlone(load));
  times.commit_ms.push_back(alone.ms);
  TC_RETURN_IF_ERROR(store.Clear());
  TC_ASSIGN_OR_RETURN(const Transfer put, store.Put(load));
  times.put_ms.push_back(put.ms);
  times.puts.push_back(put);
  if (check) TC_RETURN_IF_ERROR(store.Check(load));
  TC_ASSIGN_OR_RETURN(const Transfer copied, store.Get(load));
  times.copied_ms.push_back(copied.ms);
  uint64_t copied_bytes = 0;
  TC_ASSIGN_OR_RETURN(const Transfer in_place, store.GetInPlace(load, &copied_bytes));
  times.in_place_ms.push_back(in_place.ms);
  times.copied_bytes += copied_bytes;
  return store.Clear();
}

/// "CPU s/GiB: client .1, daemon .2", of the put in the middle.
std::string CpuNote(const Load& load, const std::vector<Transfer>& puts) {
  std::vector<double> client, server;
  for (const Transfer& put : puts) {
    client.push_back(put.client_cpu_s);
    server.push_back(put.server_cpu_s);
  }
  const double gib = static_cast<double>(load.total_bytes()) / GiB;
  char text[80];
  std::snprintf(text, sizeof(text), "CPU s/GiB: client %.2f, daemon %.2f", Median(client) / gib,
                Median(server) / gib);
  return text;
}

std::string CaseName(const char* what, const Load& load) {
  return std::string(what) + "/" + std::to_string(load.bytes / KiB) +
         "KiB/batch:" + std::to_string(load.batch);
}

/// Rounds of memcpy and of puts into an arena that is full, in turns.
absl::Status Sustained(OwnStore& store, const Buffers& buffers, const Load& load,
                       size_t arena_bytes, Report& report) {
  Load much = load;
  much.blocks = 2 * arena_bytes / load.bytes;
  std::vector<double> memcpy_ms, put_ms;
  std::vector<Transfer> puts;
  for (int round = 0; round < kRounds; ++round) {
    memcpy_ms.push_back(CopyAll(buffers, load));
    TC_ASSIGN_OR_RETURN(const Transfer put, store.PutMore(much, arena_bytes / load.bytes));
    TC_RETURN_IF_ERROR(store.Clear());
    put_ms.push_back(put.ms);
    puts.push_back(put);
  }
  const double mib = static_cast<double>(much.total_bytes()) / MiB;
  const double limit_ms = Median(memcpy_ms) * static_cast<double>(much.blocks / load.blocks);
  report.Add({CaseName("put_sustained", load), "throughput", mib / (Median(put_ms) / 1e3), "MiB/s",
              "memcpy", limit_ms / Median(put_ms), CpuNote(much, puts)});
  return absl::OkStatus();
}

absl::Status RunCase(OwnStore& store, const Buffers& buffers, const Load& load, size_t arena_bytes,
                     Report& report) {
  Times times;
  for (int round = 0; round <= kRounds; ++round) {
    TC_RETURN_IF_ERROR(Round(store, buffers, load, round == 0, times));
  }
  const double memcpy_ms = Median(times.memcpy_ms);
  const auto add = [&](const char* what, double ms, size_t blocks, std::string note) {
    const double mib = static_cast<double>(load.bytes * blocks) / MiB;
    const double limit_ms =
        memcpy_ms * static_cast<double>(blocks) / static_cast<double>(load.blocks);
    report.Add({CaseName(what, load), "throughput", mib / (ms / 1e3), "MiB/s", "memcpy",
                limit_ms / ms, std::move(note)});
  };
  add("memcpy", memcpy_ms, load.blocks, "");
  add("first_put", times.put_ms.front(), load.blocks, "");
  add("put", Later(times.put_ms), load.blocks, CpuNote(load, times.puts));
  add("put_until_committed", Later(times.commit_ms), load.blocks, "");
  TC_RETURN_IF_ERROR(Sustained(store, buffers, load, arena_bytes, report));
  add("get_copied", Later(times.copied_ms), load.blocks, "");
  add("get_in_place", Later(times.in_place_ms), load.blocks,
      std::to_string(times.copied_bytes) + " of " +
          std::to_string(load.total_bytes() * (kRounds + 1)) + " bytes were copied");
  return absl::OkStatus();
}

absl::Status Run(const Arguments& arguments, Report& report) {
  const size_t total_bytes = arguments.quick ? 64 * MiB : 256 * MiB;
  const size_t arena_bytes = arguments.quick ? 128 * MiB : GiB;
  TC_ASSIGN_OR_RETURN(const Buffers buffers, Buffers::Make(total_bytes));
  for (const size_t bytes : {64 * KiB, 256 * KiB, 1 * MiB, 4 * MiB}) {
    // A daemon for each size: its first round meets memory that is new.
    TC_ASSIGN_OR_RETURN(const auto store, OwnStore::Start(buffers, FormatBytes(arena_bytes)));
    for (const size_t batch : {size_t{1}, size_t{16}}) {
      const Load load{.bytes = bytes, .blocks = total_bytes / bytes, .batch = batch};
      TC_RETURN_IF_ERROR(arguments.only == "sustained"
                             ? Sustained(*store, buffers, load, arena_bytes, report)
                             : RunCase(*store, buffers, load, arena_bytes, report));
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace thermocline::bench

int main(int argc, char** argv) {
  using namespace thermocline::bench;
  if (argc == 4 && std::strcmp(argv[1], "--find") == 0) {
    return OwnStore::RunFinder(argv[2], std::strtoull(argv[3], nullptr, 10));
  }
  return RunBenchmark(argc, argv, Run);
}
