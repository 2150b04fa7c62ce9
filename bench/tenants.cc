// What a tenant can learn of another by the time of its lookups: a prompt that another tenant has
// cached is missed in the time of one that nobody has. Both are asked for by turns, through the
// public client API, beside prompts of the tenant's own in the same catalog; their ratio is the
// figure.
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "bench/daemon_process.h"
#include "bench/prompts.h"
#include "bench/report.h"
#include "client/client.h"
#include "hashing/sha256.h"

namespace thermocline::bench {
namespace {

constexpr uint32_t kDepth = 512;
constexpr int kRounds = 41;

absl::Status Put(const Space& space, const std::vector<int32_t>& tokens) {
  TC_ASSIGN_OR_RETURN(Lease lease, space.Match(tokens));
  TC_ASSIGN_OR_RETURN(auto slots, space.Reserve(kDepth, 0, std::chrono::milliseconds(5000)));
  for (Reservation& slot : slots) std::memset(slot.bytes().data(), 1, slot.bytes().size());
  return lease.Commit(tokens, std::move(slots));
}

/// Nanoseconds of a match that must find so many blocks: the mean over the prompts.
absl::StatusOr<double> Time(const Space& space, const std::vector<std::vector<int32_t>>& prompts,
                            int count, uint32_t expected) {
  bool right = true;
  const double ms = Milliseconds([&] {
    for (int i = 0; i < count; ++i) {
      const auto lease = space.Match(prompts[static_cast<size_t>(i) % prompts.size()]);
      right = right && lease.ok() && lease->depth() == expected;
    }
  });
  if (!right)
    return absl::InternalError("a match found what it should not, or did not what it should");
  return ms * 1e6 / count;
}

absl::Status Run(const Arguments& arguments, Report& report) {
  const uint32_t prompts = arguments.quick ? 4 : 32;
  const int count = arguments.quick ? 64 : 4096;
  char name[] = "/dev/shm/thermocline-bench-tenants-XXXXXX";
  if (::mkdtemp(name) == nullptr) return ErrnoStatus(errno, "mkdtemp");
  const std::filesystem::path directory = name;
  struct Cleaner {
    std::filesystem::path path;
    ~Cleaner() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  } cleaner{directory};
  const std::string token(48, 'k');
  Sha256Builder sha;
  sha.Raw(std::as_bytes(std::span(token.data(), token.size())));
  std::ofstream(directory / "config") << "[[tenant]]\nname = \"other\"\n";
  std::ofstream(directory / "token") << token;
  std::ofstream(directory / "tokens") << ToHex(sha.Finish()) << " other writer bench\n";
  ::chmod((directory / "tokens").c_str(), 0600);
  ::chmod((directory / "token").c_str(), 0600);
  TC_ASSIGN_OR_RETURN(
      const auto daemon,
      DaemonProcess::Start({.warm_capacity = "1GiB",
                            .cold_capacity = "0",
                            .more = {"--config", (directory / "config").string(), "--token-file",
                                     (directory / "tokens").string()}}));
  TC_ASSIGN_OR_RETURN(const auto client, Client::Connect({.socket_path = daemon->socket_path(),
                                                          .client_name = "bench_tenants"}));
  TC_ASSIGN_OR_RETURN(
      const auto other,
      Client::Connect({.socket_path = daemon->socket_path(),
                       .remote = {.address = "unix://" + daemon->socket_path() + ".grpc",
                                  .token_file = (directory / "token").string()},
                       .client_name = "bench_tenants"}));
  TC_ASSIGN_OR_RETURN(const Space space, client->OpenSpace(SmallBlockSpec()));
  TC_ASSIGN_OR_RETURN(const Space others, other->OpenSpace(SmallBlockSpec()));
  std::vector<std::vector<int32_t>> own, foreign, absent;
  for (uint32_t i = 0; i < prompts; ++i) {
    own.push_back(Prompt(3 * i, kDepth));
    foreign.push_back(Prompt(3 * i + 1, kDepth));
    absent.push_back(Prompt(3 * i + 2, kDepth));
    TC_RETURN_IF_ERROR(Put(space, own.back()));
    TC_RETURN_IF_ERROR(Put(others, foreign.back()));
  }
  for (const auto& prompt : foreign) {  // they are there, for whom they belong to
    TC_ASSIGN_OR_RETURN(const Lease lease, others.Match(prompt));
    if (lease.depth() != kDepth) return absl::InternalError("the other tenant has lost a prompt");
  }
  std::vector<double> foreign_ns, absent_ns, own_ns;
  for (int round = 0; round < kRounds; ++round) {
    // By turns, and each first as often as second.
    for (const bool is_foreign : {round % 2 == 0, round % 2 != 0}) {
      TC_ASSIGN_OR_RETURN(const double ns, Time(space, is_foreign ? foreign : absent, count, 0));
      (is_foreign ? foreign_ns : absent_ns).push_back(ns);
    }
    TC_ASSIGN_OR_RETURN(const double ns, Time(space, own, count / 16, kDepth));
    own_ns.push_back(ns);
  }
  const double absent_median = Median(absent_ns);
  const std::string suffix = "/blocks:" + std::to_string(kDepth);
  report.Add({"absent_miss" + suffix, "latency", absent_median, "ns", "", 0});
  report.Add({"foreign_miss" + suffix, "latency", Median(foreign_ns), "ns", "absent_miss",
              Median(foreign_ns) / absent_median});
  report.Add({"own_hit" + suffix, "latency", Median(own_ns), "ns", "absent_miss",
              Median(own_ns) / absent_median});
  return absl::OkStatus();
}

}  // namespace
}  // namespace thermocline::bench

int main(int argc, char** argv) {
  return thermocline::bench::RunBenchmark(argc, argv, thermocline::bench::Run);
}
