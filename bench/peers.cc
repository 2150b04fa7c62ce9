// Warm blocks against the peers, each through its best interface, in the same run: Redis over its
// unix socket (pipelined), gRPC streaming (a store of our own behind it: as good as gRPC gets), and
// Mooncake Store, with memory of its own, over shared memory and over the loopback. Blocks of 64
// KiB to 4 MiB, one a call and sixteen, in rounds in which the stores take turns. A put counts when
// another client can find it: ours when the match of another process has; the peers answer a put
// when it can be found. After the first round another client of each store compares every byte.
// That round, which meets memory that nobody has touched, does not count.
// A row is ours against one peer; behind it what theirs made, and the processor time of both
// clients and both servers.
#include <cstdio>
#include <cstring>
#include <functional>

#include "base/units.h"
#include "bench/grpc_stream.h"
#include "bench/mooncake_peer.h"
#include "bench/own_store.h"
#include "bench/redis_store.h"
#include "bench/report.h"

namespace thermocline::bench {
namespace {

constexpr int kRounds = 3;  // besides the first

/// The medians of what the rounds took.
struct Medians {
  Transfer put, get;
};

Transfer MedianOf(const std::vector<Transfer>& rounds) {
  const auto median = [&](double Transfer::*member) {
    std::vector<double> values;
    for (const Transfer& round : rounds) values.push_back(round.*member);
    return Median(std::move(values));
  };
  return {.ms = median(&Transfer::ms),
          .client_cpu_s = median(&Transfer::client_cpu_s),
          .server_cpu_s = median(&Transfer::server_cpu_s)};
}

double Rate(const Load& load, const Transfer& transfer) {
  return static_cast<double>(load.total_bytes()) / MiB / (transfer.ms / 1e3);
}

std::string Note(const Load& load, const Transfer& ours, const Transfer& theirs) {
  const double gib = static_cast<double>(load.total_bytes()) / GiB;
  char text[160];
  std::snprintf(
      text, sizeof(text),
      "theirs %.0f MiB/s; CPU s/GiB, client + server: ours %.2f + %.2f, theirs %.2f + %.2f",
      Rate(load, theirs), ours.client_cpu_s / gib, ours.server_cpu_s / gib,
      theirs.client_cpu_s / gib, theirs.server_cpu_s / gib);
  return text;
}

/// What each of `stores` made of the load: `stores[0]` is ours.
absl::StatusOr<std::vector<Medians>> RunRounds(const std::vector<Store*>& stores,
                                               const Load& load) {
  std::vector<std::vector<Transfer>> puts(stores.size()), gets(stores.size());
  for (int round = 0; round <= kRounds; ++round) {
    for (size_t i = 0; i < stores.size(); ++i) {
      TC_ASSIGN_OR_RETURN(const Transfer put, stores[i]->Put(load));
      TC_ASSIGN_OR_RETURN(const Transfer get, stores[i]->Get(load));
      if (round == 0) TC_RETURN_IF_ERROR(stores[i]->Check(load));
      TC_RETURN_IF_ERROR(stores[i]->Clear());
      if (round == 0) continue;
      puts[i].push_back(put);
      gets[i].push_back(get);
    }
  }
  std::vector<Medians> medians;
  for (size_t i = 0; i < stores.size(); ++i) {
    medians.push_back({.put = MedianOf(puts[i]), .get = MedianOf(gets[i])});
  }
  return medians;
}

absl::Status RunLoad(const std::vector<Store*>& stores, OwnStore& ours, const Load& load,
                     Report& report) {
  TC_ASSIGN_OR_RETURN(const std::vector<Medians> medians, RunRounds(stores, load));
  TC_RETURN_IF_ERROR(ours.Put(load).status());
  std::vector<Transfer> reads;
  uint64_t copied_bytes = 0;
  for (int round = 0; round < kRounds; ++round) {
    TC_ASSIGN_OR_RETURN(const Transfer read, ours.GetInPlace(load, &copied_bytes));
    reads.push_back(read);
  }
  TC_RETURN_IF_ERROR(ours.Clear());
  const Transfer in_place = MedianOf(reads);
  const std::string suffix =
      "/" + std::to_string(load.bytes / KiB) + "KiB/batch:" + std::to_string(load.batch);
  const auto add = [&](const char* what, const Transfer& mine, const Transfer& theirs,
                       const Store& peer) {
    report.Add({what + suffix, "throughput", Rate(load, mine), "MiB/s", peer.name(),
                theirs.ms / mine.ms, Note(load, mine, theirs)});
  };
  for (size_t i = 1; i < stores.size(); ++i) {
    add("put", medians[0].put, medians[i].put, *stores[i]);
    add("get_copied", medians[0].get, medians[i].get, *stores[i]);
    add("get_in_place", in_place, medians[i].get, *stores[i]);
  }
  return absl::OkStatus();
}

absl::Status Run(const Arguments& arguments, Report& report) {
  const size_t total_bytes = arguments.quick ? 64 * MiB : 256 * MiB;
  TC_ASSIGN_OR_RETURN(const Buffers buffers, Buffers::Make(total_bytes));
  TC_ASSIGN_OR_RETURN(const auto ours,
                      OwnStore::Start(buffers, arguments.quick ? "256MiB" : "1GiB"));
  const std::filesystem::path& directory = ours->daemon().runtime_directory();
  std::vector<std::unique_ptr<Store>> peers;
  RedisStore redis(buffers, directory);
  std::vector<Store*> stores = {ours.get()};
  if (redis.there()) {
    stores.push_back(&redis);
  } else {
    std::printf("SKIPPED: redis (no redis-server on PATH)\n");
  }
  TC_ASSIGN_OR_RETURN(auto grpc, StartGrpcStream(buffers, (directory / "store.sock").string()));
  peers.push_back(std::move(grpc));
  const std::string missing = arguments.quick ? "left out of the quick form" : MooncakeMissing();
  if (!missing.empty()) {
    std::printf("SKIPPED: mooncake (%s)\n", missing.c_str());
  } else {
    for (const char* mode : {"own", "shared", "tcp"}) {
      TC_ASSIGN_OR_RETURN(auto mooncake, Mooncake::Start(mode, total_bytes));
      peers.push_back(std::move(mooncake));
    }
  }
  for (const auto& peer : peers) stores.push_back(peer.get());
  for (const size_t bytes : {64 * KiB, 256 * KiB, 1 * MiB, 4 * MiB}) {
    for (const size_t batch : {size_t{1}, size_t{16}}) {
      const Load load{.bytes = bytes, .blocks = total_bytes / bytes, .batch = batch};
      TC_RETURN_IF_ERROR(RunLoad(stores, *ours, load, report));
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
  if (argc == 3 && std::strcmp(argv[1], "--grpc-store") == 0) return RunGrpcStreamServer(argv[2]);
  return RunBenchmark(argc, argv, Run);
}
