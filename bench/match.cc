// Finding and pinning a prompt's blocks through the public client API, in a catalog of a million
// blocks: from the token ids to a lease, and to letting go of it. `match_pin` asks for one prompt
// again and again, as the turns of a conversation do; `match_pin_flushed` drives everything out of
// the caches before each; `match_view` also lists every block of the lease. Then the same beside a
// client that commits, and from several processes at once. `lookup` asks for keys of an opaque
// space in no order, each a path of its own, as those peers' calls do; `read_keys` copies their
// blocks. Measured beside them in the same run: one EXISTS of 512 keys by a real Redis that holds
// as many keys (it counts them, and pins nothing), one batch_is_exist of 512 keys by Mooncake Store
// over memory of its own (the same), and one empty gRPC call over the daemon's socket.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <numeric>
#include <random>
#include <thread>

#include "base/units.h"
#include "bench/daemon_process.h"
#include "bench/mooncake_peer.h"
#include "bench/prompts.h"
#include "bench/redis_peer.h"
#include "bench/report.h"
#include "bench/store.h"
#include "client/client.h"

namespace thermocline::bench {
namespace {

constexpr uint32_t kSlotsPerReserve = 4096;
constexpr size_t kFlushBytes = 256 * MiB;
constexpr int kRounds = 5;
constexpr size_t kMooncakeKeys = 1 << 16;  // fewer than ours and Redis's: it takes long to put
constexpr int kMooncakeCalls = 100;
constexpr uint32_t kKeys = 1 << 16;

struct Size {
  uint32_t paths;
  uint32_t depth;  // blocks a path
};

/// Commits what is missing of a prompt, and waits until all of it is published, or not.
absl::Status Put(const Space& space, const std::vector<int32_t>& tokens, bool wait = true) {
  TC_ASSIGN_OR_RETURN(Lease lease, space.Match(tokens));
  for (size_t done = lease.depth();;) {
    const std::span<const int32_t> rest =
        std::span(tokens).subspan(std::min(tokens.size(), done * kTokensPerBlock));
    if (rest.empty()) return wait ? lease.Settle() : absl::OkStatus();
    const auto wanted =
        static_cast<uint32_t>(std::min<size_t>(rest.size() / kTokensPerBlock, kSlotsPerReserve));
    TC_ASSIGN_OR_RETURN(auto slots, space.Reserve(wanted, 0, std::chrono::milliseconds(1000)));
    for (Reservation& slot : slots) std::memset(slot.bytes().data(), 1, slot.bytes().size());
    const auto names = rest.first(slots.size() * kTokensPerBlock);
    done += slots.size();
    TC_RETURN_IF_ERROR(lease.CommitAsync(names, std::move(slots)));
  }
}

/// Microseconds of one match that must find all of `tokens`, and of letting go.
absl::StatusOr<double> Match(const Space& space, const std::vector<int32_t>& tokens, bool view) {
  bool right = true;
  const double ms = Milliseconds([&] {
    const auto lease = space.Match(tokens);
    right = lease.ok() && lease->depth() * size_t{kTokensPerBlock} == tokens.size() &&
            (!view || lease->blocks().size() == lease->depth());
  });
  if (!right) return absl::InternalError("a prompt that was put is not all there");
  return ms * 1e3;
}

/// The median of rounds of the mean of `count` matches.
absl::StatusOr<double> Repeat(const Space& space, const std::vector<int32_t>& tokens, int count,
                              bool view = false) {
  std::vector<double> means;
  for (int round = 0; round < kRounds; ++round) {
    absl::Status status;
    const double ms = Milliseconds([&] {
      for (int i = 0; i < count && status.ok(); ++i) {
        status = Match(space, tokens, view).status();
      }
    });
    TC_RETURN_IF_ERROR(status);
    means.push_back(ms * 1e3 / count);
  }
  return Median(std::move(means));
}

absl::StatusOr<double> Flushed(const Space& space, const Size& size, uint32_t blocks, int count) {
  std::vector<uint64_t> lines(kFlushBytes / sizeof(uint64_t));
  std::vector<double> times;
  for (int i = 0; i < count; ++i) {
    const std::vector<int32_t> tokens = Prompt(static_cast<uint32_t>(i) % size.paths, blocks);
    for (size_t word = 0; word < lines.size(); word += 8) lines[word] += word;
    TC_ASSIGN_OR_RETURN(const double us, Match(space, tokens, false));
    times.push_back(us);
  }
  return Median(std::move(times));
}

/// Microseconds of one empty call over the daemon's socket: the standard health check.
absl::StatusOr<double> EmptyCall(const std::string& socket, int count) {
  const auto channel =
      grpc::CreateChannel("unix:" + socket + ".grpc", grpc::InsecureChannelCredentials());
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  const grpc::Slice nothing;
  const grpc::ByteBuffer request(&nothing, 1);
  std::vector<double> means;
  for (int round = 0; round < kRounds; ++round) {
    bool right = true;
    const double ms = Milliseconds([&] {
      for (int i = 0; i < count; ++i) {
        grpc::ClientContext context;
        grpc::ByteBuffer answer;
        grpc::Status status;
        const auto call =
            stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
        call->StartCall();
        call->Finish(&answer, &status, nullptr);
        void* tag = nullptr;
        bool ok = false;
        right = queue.Next(&tag, &ok) && status.ok() && right;
      }
    });
    if (!right) return absl::UnavailableError("the health check was not answered");
    means.push_back(ms * 1e3 / count);
  }
  return Median(std::move(means));
}

std::string KeyOf(uint32_t number) {
  std::string key = std::to_string(number);
  key.resize(32, '.');
  return key;
}

/// Microseconds of one EXISTS of 512 of `keys` keys; 0 without a Redis.
absl::StatusOr<double> RedisExists(Redis& redis, uint32_t keys, int count) {
  if (!redis.there()) return 0;
  const auto byte = std::byte{1};
  constexpr uint32_t kPipelined = 4096;
  for (uint32_t key = 0; key < keys;) {
    const uint32_t end = std::min(keys, key + kPipelined);
    for (uint32_t k = key; k < end; ++k) redis.AppendSet(KeyOf(k), &byte, 1);
    for (; key < end; ++key) {
      if (!redis.TakeOk()) return absl::InternalError("redis answered wrongly");
    }
  }
  std::vector<std::string> asked;
  for (uint32_t i = 0; i < 512; ++i) asked.push_back(KeyOf(i * (keys / 512)));
  std::vector<double> means;
  for (int round = 0; round < kRounds; ++round) {
    bool right = true;
    const double ms = Milliseconds([&] {
      for (int i = 0; i < count; ++i) right = redis.Exists(asked) == 512 && right;
    });
    if (!right) return absl::InternalError("redis does not know its keys");
    means.push_back(ms * 1e3 / count);
  }
  return Median(std::move(means));
}

/// Microseconds of one batch_is_exist of 512 keys; 0 without Mooncake.
absl::StatusOr<double> MooncakeExists(const Arguments& arguments) {
  const std::string missing = arguments.quick ? "left out of the quick form" : MooncakeMissing();
  if (!missing.empty()) {
    std::printf("SKIPPED: mooncake (%s)\n", missing.c_str());
    return 0;
  }
  TC_ASSIGN_OR_RETURN(const auto mooncake, Mooncake::Start("own", MiB));
  return mooncake->Exist(kMooncakeKeys, 512, kRounds, kMooncakeCalls);
}

// ---- processes of this program: `bench_match --match SOCKET PATH BLOCKS SECONDS` prints how many
// matches it made; `--write SOCKET FIRST_PATH BLOCKS SECONDS` how many blocks it committed.

double RunFor(double seconds, const std::function<absl::StatusOr<double>()>& work) {
  double done = 0;
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() <
         seconds) {
    const auto one = work();
    if (!one.ok()) {
      std::fprintf(stderr, "%s\n", std::string(one.status().message()).c_str());
      std::exit(1);
    }
    done += *one;
  }
  return done;
}

int Work(char** argv) {
  const bool writes = std::strcmp(argv[1], "--write") == 0;
  const auto path = static_cast<uint32_t>(std::atoi(argv[3]));
  const auto blocks = static_cast<uint32_t>(std::atoi(argv[4]));
  const double seconds = std::atof(argv[5]);
  const auto client = Client::Connect({.socket_path = argv[2], .client_name = "bench_match"});
  if (!client.ok()) return 1;
  const auto space = (*client)->OpenSpace(SmallBlockSpec());
  if (!space.ok()) return 1;
  const std::vector<int32_t> tokens = Prompt(path, blocks);
  uint32_t next = path;
  const double done = RunFor(seconds, [&]() -> absl::StatusOr<double> {
    if (writes) {
      TC_RETURN_IF_ERROR(Put(*space, Prompt(next++, blocks), false));
      return blocks;
    }
    for (int i = 0; i < 64; ++i) TC_RETURN_IF_ERROR(Match(*space, tokens, false).status());
    return 64;
  });
  std::printf("%.0f\n", done / seconds);
  return 0;
}

class Worker {
 public:
  Worker(const char* what, const std::string& socket, uint32_t path, uint32_t blocks,
         double seconds) {
    const std::string command = "/proc/" + std::to_string(getpid()) + "/exe " + what + " " +
                                socket + " " + std::to_string(path) + " " + std::to_string(blocks) +
                                " " + std::to_string(seconds);
    pipe_ = popen(command.c_str(), "r");
  }
  ~Worker() {
    if (pipe_ != nullptr) pclose(pipe_);
  }
  Worker(const Worker&) = delete;
  /// What it did a second; 0 when it failed.
  double Rate() {
    double rate = 0;
    if (pipe_ == nullptr || std::fscanf(pipe_, "%lf", &rate) != 1) return 0;
    return rate;
  }

 private:
  FILE* pipe_ = nullptr;
};

absl::Status RunProcesses(const std::string& socket, uint32_t paths, double seconds,
                          Report& report) {
  double alone = 0;
  for (const uint32_t processes : {1, 2, 4, 8}) {
    std::vector<std::unique_ptr<Worker>> workers;
    for (uint32_t i = 0; i < processes; ++i) {
      workers.push_back(std::make_unique<Worker>("--match", socket, i % paths, 512, seconds));
    }
    double rate = 0;
    for (const auto& worker : workers) {
      const double one = worker->Rate();
      if (one == 0) return absl::InternalError("a process that matches failed");
      rate += one;
    }
    if (processes == 1) alone = rate;
    report.Add({"match_pin/blocks:512/processes:" + std::to_string(processes), "matches", rate,
                "1/s", "one process", rate / alone});
  }
  return absl::OkStatus();
}

absl::Status RunBesideWriter(const Space& space, const Size& size, const std::string& socket,
                             double seconds, double still_us, Report& report) {
  // Prompts that are not there yet, committed 64 blocks at a time.
  Worker writer("--write", socket, size.paths + 1000, 64, seconds);
  const auto tokens = Prompt(0, 512);
  std::vector<double> times;
  double sum = 0;
  while (sum < seconds * 0.9e6) {
    TC_ASSIGN_OR_RETURN(const double us, Match(space, tokens, false));
    times.push_back(us);
    sum += us;
  }
  const double rate = writer.Rate();
  if (rate == 0) return absl::InternalError("the process that writes failed");
  report.Add({"match_pin/blocks:512/beside_writer", "latency", Median(times), "us", "no writer",
              Median(times) / still_us});
  report.Add({"writer", "commits", rate, "blocks/s", "", 0});
  return absl::OkStatus();
}

/// Each as a path of its own.
absl::Status PutKeys(const Space& space, uint32_t count) {
  TC_ASSIGN_OR_RETURN(Lease lease, space.Match(NamesView()));
  for (uint32_t number = 0; number < count; ++number) {
    TC_ASSIGN_OR_RETURN(auto slots, space.Reserve(1, 0, std::chrono::milliseconds(1000)));
    std::memset(slots[0].bytes().data(), 1, slots[0].bytes().size());
    TC_RETURN_IF_ERROR(lease.Commit(std::vector<std::string>{KeyOf(number)}, std::move(slots)));
    TC_RETURN_IF_ERROR(lease.Truncate(0));
  }
  return absl::OkStatus();
}

/// The median of rounds of the mean of `count` calls, in microseconds.
absl::StatusOr<double> RepeatKeys(
    int count, const std::function<absl::StatusOr<std::vector<BlockTier>>()>& call) {
  std::vector<double> means;
  for (int round = 0; round < kRounds; ++round) {
    bool right = true;
    const double ms = Milliseconds([&] {
      for (int i = 0; i < count && right; ++i) {
        const auto tiers = call();
        right = tiers.ok() && std::count(tiers->begin(), tiers->end(), BlockTier::kWarm) ==
                                  static_cast<ptrdiff_t>(tiers->size());
      }
    });
    if (!right) return absl::InternalError("a key that was put is not warm");
    means.push_back(ms * 1e3 / count);
  }
  return Median(std::move(means));
}

absl::Status RunKeys(Client& client, uint32_t keys, int count, double exists_us, double mooncake_us,
                     Report& report) {
  SpaceSpec spec = SmallBlockSpec();
  spec.opaque_names = true;
  spec.key_bytes = 32;
  TC_ASSIGN_OR_RETURN(const Space space, client.OpenSpace(spec));
  TC_RETURN_IF_ERROR(PutKeys(space, keys));
  std::vector<std::string> asked;
  for (uint32_t i = 0; i < 512; ++i) asked.push_back(KeyOf(i * (keys / 512)));
  std::shuffle(asked.begin(), asked.end(), std::mt19937(1));
  TC_ASSIGN_OR_RETURN(const double us, RepeatKeys(count, [&] { return space.LookUp(asked); }));
  const std::string name = "lookup/keys:512";
  report.Add({name, "latency", us, "us", "", 0});
  if (exists_us > 0) {
    report.Add({name, "latency", us, "us", "redis_exists_512", us / exists_us});
  }
  if (mooncake_us > 0) {
    report.Add({name, "latency", us, "us", "mooncake_batch_is_exist_512", us / mooncake_us});
  }
  std::vector<std::byte> memory(asked.size() * spec.parts[0].block_bytes);
  std::vector<std::span<std::byte>> buffers;
  for (size_t i = 0; i < asked.size(); ++i) {
    buffers.push_back(
        std::span(memory).subspan(i * spec.parts[0].block_bytes, spec.parts[0].block_bytes));
  }
  TC_ASSIGN_OR_RETURN(const double read_us,
                      RepeatKeys(count, [&] { return space.Read(asked, buffers); }));
  report.Add({"read_keys/keys:512", "latency", read_us, "us", name, read_us / us});
  return absl::OkStatus();
}

/// What daemon and clients take while nobody asks for anything.
absl::Status RunIdle(const DaemonProcess& daemon, double seconds, Report& report) {
  constexpr int kClients = 8;
  constexpr double kHalfAPercent = .005;
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < kClients; ++i) {
    TC_ASSIGN_OR_RETURN(auto client, Client::Connect({.socket_path = daemon.socket_path()}));
    TC_RETURN_IF_ERROR(client->OpenSpace(SmallBlockSpec()).status());
    clients.push_back(std::move(client));
  }
  std::this_thread::sleep_for(std::chrono::seconds(2));  // until slots granted ahead are back
  const double daemon_before = CpuSeconds(daemon.pid()), clients_before = CpuSeconds(0);
  const double ms =
      Milliseconds([&] { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); });
  const auto add = [&](const char* who, double cpu_s) {
    const double share = cpu_s / (ms / 1e3);
    report.Add({std::string("idle/") + who, "cpu", share * 100, "% of a core", "half a percent",
                share / kHalfAPercent});
  };
  add("daemon", CpuSeconds(daemon.pid()) - daemon_before);
  add("client", (CpuSeconds(0) - clients_before) / kClients);
  return absl::OkStatus();
}

/// What the process has for itself alone, arena and catalog left out. 0 when it is gone.
uint64_t PrivateBytes(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("RssAnon:")) return std::stoull(line.substr(8)) * KiB;
  }
  return 0;
}

/// From kill -9 to a client that has found its blocks again.
absl::Status RunRestart(DaemonProcess& daemon, const Size& size, Report& report) {
  constexpr int kRounds = 3;
  std::vector<double> times, cpu_times;
  for (int round = 0; round < kRounds; ++round) {
    absl::Status status;
    times.push_back(Milliseconds([&] {
      status = daemon.Restart();
      if (!status.ok()) return;
      const auto client = Client::Connect({.socket_path = daemon.socket_path()});
      status = client.status();
      if (!status.ok()) return;
      const auto space = (*client)->OpenSpace(SmallBlockSpec());
      status = space.ok() ? Match(*space, Prompt(0, size.depth), false).status() : space.status();
    }));
    TC_RETURN_IF_ERROR(status);
    cpu_times.push_back(CpuSeconds(daemon.pid()) * 1e3);
  }
  const uint32_t blocks = size.paths * size.depth;
  const std::string name = "restart/blocks:" + std::to_string(blocks);
  report.Add({name, "latency", Median(std::move(times)), "ms", "", 0});
  report.Add({name, "cpu of the daemon", Median(std::move(cpu_times)), "ms", "", 0});
  report.Add({name, "private memory", static_cast<double>(PrivateBytes(daemon.pid())) / blocks,
              "B a block", "", 0});
  return absl::OkStatus();
}

absl::Status Run(const Arguments& arguments, Report& report) {
  const Size size = arguments.quick ? Size{4, 1024} : Size{122, 8192};
  const uint32_t all = size.paths * size.depth;
  TC_ASSIGN_OR_RETURN(
      const auto daemon,
      DaemonProcess::Start({.warm_capacity = arguments.quick ? "256MiB" : "8GiB",
                            .cold_capacity = "0",
                            .more = {"--max-places", std::to_string(all * 2 + (1u << 18))}}));
  TC_ASSIGN_OR_RETURN(const auto client, Client::Connect({.socket_path = daemon->socket_path(),
                                                          .client_name = "bench_match"}));
  TC_ASSIGN_OR_RETURN(const Space space, client->OpenSpace(SmallBlockSpec()));
  absl::Status filled;
  const double ms = Milliseconds([&] {
    for (uint32_t path = 0; path < size.paths && filled.ok(); ++path) {
      filled = Put(space, Prompt(path, size.depth));
    }
  });
  TC_RETURN_IF_ERROR(filled);
  report.Add({"fill/blocks:" + std::to_string(all), "commits", all / ms * 1e3, "blocks/s", "", 0});

  const int few = arguments.quick ? 20 : 200;
  const RedisServer redis_server(daemon->runtime_directory());
  Redis redis(redis_server);
  if (!redis.there()) std::printf("SKIPPED: redis (no redis-server on PATH)\n");
  TC_ASSIGN_OR_RETURN(const double exists_us, RedisExists(redis, all, few));
  if (exists_us > 0) report.Add({"redis_exists_512", "latency", exists_us, "us", "", 0});
  TC_ASSIGN_OR_RETURN(const double mooncake_us, MooncakeExists(arguments));
  if (mooncake_us > 0) {
    report.Add({"mooncake_batch_is_exist_512", "latency", mooncake_us, "us", "", 0});
  }
  TC_ASSIGN_OR_RETURN(const double call_us, EmptyCall(daemon->socket_path(), few * 5));
  report.Add({"grpc_unary", "latency", call_us, "us", "", 0});

  double match_512_us = 0;
  for (const uint32_t blocks : {1u, 64u, 512u, 8192u}) {
    if (blocks > size.depth) continue;
    const std::string suffix = "/blocks:" + std::to_string(blocks);
    const std::vector<int32_t> tokens = Prompt(1, blocks);
    TC_ASSIGN_OR_RETURN(const double us,
                        Repeat(space, tokens, static_cast<int>(few * 512 / (blocks + 64))));
    if (blocks == 512) match_512_us = us;
    report.Add({"match_pin" + suffix, "latency", us, "us", "grpc_unary", us / call_us});
    if (exists_us > 0 && blocks == 512) {
      report.Add({"match_pin" + suffix, "latency", us, "us", "redis_exists_512", us / exists_us});
    }
    if (mooncake_us > 0 && blocks == 512) {
      report.Add({"match_pin" + suffix, "latency", us, "us", "mooncake_batch_is_exist_512",
                  us / mooncake_us});
    }
    TC_ASSIGN_OR_RETURN(const double flushed_us,
                        Flushed(space, size, blocks, arguments.quick ? 3 : 50));
    report.Add({"match_pin_flushed" + suffix, "latency", flushed_us, "us", "match_pin" + suffix,
                flushed_us / us});
    TC_ASSIGN_OR_RETURN(const double view_us,
                        Repeat(space, tokens, static_cast<int>(few * 512 / (blocks + 64)), true));
    report.Add(
        {"match_view" + suffix, "latency", view_us, "us", "match_pin" + suffix, view_us / us});
  }
  TC_RETURN_IF_ERROR(
      RunKeys(*client, arguments.quick ? 2048 : kKeys, few, exists_us, mooncake_us, report));
  const double seconds = arguments.quick ? 0.2 : 3;
  TC_RETURN_IF_ERROR(
      RunBesideWriter(space, size, daemon->socket_path(), seconds, match_512_us, report));
  TC_RETURN_IF_ERROR(RunProcesses(daemon->socket_path(), size.paths, seconds, report));
  TC_RETURN_IF_ERROR(RunIdle(*daemon, arguments.quick ? 1 : 10, report));
  return RunRestart(*daemon, size, report);
}

}  // namespace
}  // namespace thermocline::bench

int main(int argc, char** argv) {
  if (argc == 6 && std::strncmp(argv[1], "--", 2) == 0) return thermocline::bench::Work(argv);
  return thermocline::bench::RunBenchmark(argc, argv, thermocline::bench::Run);
}
