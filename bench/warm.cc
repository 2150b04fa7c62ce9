// Warm blocks through the public client API: put (reserve, fill, commit) and get (match, copy out,
// release), one block a call and sixteen, from 64 KiB to 4 MiB, in rounds after each of which all
// blocks are dropped. The put of the first round may meet pages that nobody has touched; the others
// do what a cache in use does, and fill slots that were used before.
// Measured beside them in the same run: memcpy of the same bytes by one thread between buffers
// larger than the caches, which is the limit of a copied read, and a real Redis over its unix
// socket.
#include <cstdio>
#include <cstring>

#include "base/units.h"
#include "bench/daemon_process.h"
#include "bench/redis_peer.h"
#include "bench/report.h"
#include "client/client.h"
#include "kernels/aligned_buffer.h"

namespace thermocline::bench {
namespace {

constexpr size_t kBatch = 16;
constexpr int kRounds = 3;  // besides the first
constexpr size_t kKeyBytes = 16;

/// Larger than the last cache several times over, walked in a ring, so that every copy meets cold
/// memory.
class Ring {
 public:
  static absl::StatusOr<Ring> Make(size_t bytes) {
    TC_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Make(bytes));
    std::memset(buffer.data(), 0x5a, bytes);  // touched now, not when it is timed
    Ring ring;
    ring.buffer_ = std::move(buffer);
    return ring;
  }
  std::byte* Next(size_t bytes) {
    if (at_ + bytes > buffer_.size_bytes()) at_ = 0;
    std::byte* result = buffer_.data() + at_;
    at_ += bytes;
    return result;
  }

 private:
  AlignedBuffer buffer_;
  size_t at_ = 0;
};

std::string KeyOf(size_t number) {
  std::string key = std::to_string(number);
  key.resize(kKeyBytes, '.');
  return key;
}

class WarmBench {
 public:
  WarmBench(Space space, AdminClient& admin, Redis& redis, Ring& source, Ring& target, size_t bytes,
            size_t blocks, Report& report)
      : space_(std::move(space)),
        admin_(admin),
        redis_(redis),
        source_(source),
        target_(target),
        bytes_(bytes),
        blocks_(blocks),
        report_(report) {}

  absl::Status Run() {
    std::vector<double> copies;
    for (int round = 0; round < kRounds; ++round) {
      copies.push_back(Milliseconds([&] {
        for (size_t i = 0; i < blocks_; ++i) {
          std::memcpy(target_.Next(bytes_), source_.Next(bytes_), bytes_);
        }
      }));
    }
    memcpy_ms_ = Median(copies);
    Add("memcpy", 1, memcpy_ms_, 0);
    for (const size_t batch : {size_t{1}, kBatch}) {
      Times redis, ours;
      for (int round = 0; round <= kRounds; ++round) {
        if (redis_.there()) TC_RETURN_IF_ERROR(RedisRound(batch, redis));
        TC_RETURN_IF_ERROR(Round(batch, ours));
      }
      Add("first_put", batch, ours.put.front(), redis.put.empty() ? 0 : redis.put.front());
      Add("put", batch, Later(ours.put), Later(redis.put));
      Add("get_copied", batch, Later(ours.get), Later(redis.get));
      Add("get_in_place", batch, Later(ours.get_in_place), Later(redis.get));
    }
    return absl::OkStatus();
  }

 private:
  /// Milliseconds of all blocks, a round each; the first met untouched memory.
  struct Times {
    std::vector<double> put, get, get_in_place;
  };
  static double Later(const std::vector<double>& times) {
    return times.empty() ? 0 : Median({times.begin() + 1, times.end()});
  }

  absl::Status Round(size_t batch, Times& times) {
    absl::Status status;
    const auto time = [&](std::vector<double>& into, auto&& work) {
      if (status.ok()) into.push_back(Milliseconds([&] { status = work(); }));
    };
    time(times.put, [&] { return Put(batch); });
    time(times.get, [&] { return Get(batch, true); });
    time(times.get_in_place, [&] { return Get(batch, false); });
    TC_RETURN_IF_ERROR(status);
    // There is no cold tier: a flush drops the blocks.
    TC_ASSIGN_OR_RETURN(const FlushResult flushed, admin_.Flush(BlockTier::kWarm));
    if (flushed.kept != 0) return absl::InternalError("blocks were still leased at the flush");
    return absl::OkStatus();
  }

  absl::Status RedisRound(size_t batch, Times& times) {
    times.put.push_back(RedisPut(batch));
    times.get.push_back(RedisGet(batch));
    redis_.FlushAll();
    if (times.put.back() >= 0 && times.get.back() >= 0) return absl::OkStatus();
    return absl::InternalError("redis answered wrongly");
  }

  void Add(const std::string& what, size_t batch, double ms, double redis_ms) {
    const double mib_per_s = static_cast<double>(blocks_ * bytes_) / MiB / (ms / 1e3);
    const std::string name =
        what + "/" + std::to_string(bytes_ / KiB) + "KiB/batch:" + std::to_string(batch);
    report_.Add({name, "throughput", mib_per_s, "MiB/s", "memcpy", memcpy_ms_ / ms});
    if (redis_ms > 0) {
      report_.Add({name, "throughput", mib_per_s, "MiB/s", "redis", redis_ms / ms});
    }
  }

  /// Paths of `batch` places each, named apart for each batch size.
  std::vector<std::string> Names(size_t first, size_t batch) const {
    std::vector<std::string> names;
    for (size_t i = 0; i < batch; ++i) names.push_back(KeyOf(batch * 1'000'000 + first + i));
    return names;
  }

  absl::Status Put(size_t batch) {
    for (size_t i = 0; i < blocks_; i += batch) {
      TC_ASSIGN_OR_RETURN(Lease lease, space_.Match(std::vector<std::string>()));
      std::vector<Reservation> slots;
      while (slots.size() < batch) {
        TC_ASSIGN_OR_RETURN(auto granted,
                            space_.Reserve(static_cast<uint32_t>(batch - slots.size()), 0,
                                           std::chrono::milliseconds(1000)));
        for (Reservation& slot : granted) slots.push_back(std::move(slot));
      }
      for (Reservation& slot : slots) {
        std::memcpy(slot.bytes().data(), source_.Next(bytes_), bytes_);
      }
      TC_RETURN_IF_ERROR(lease.Commit(Names(i, batch), std::move(slots)));
    }
    return absl::OkStatus();
  }

  absl::Status Get(size_t batch, bool copy) {
    for (size_t i = 0; i < blocks_; i += batch) {
      TC_ASSIGN_OR_RETURN(Lease lease, space_.Match(Names(i, batch)));
      if (lease.depth() != batch) return absl::InternalError("a block that was put is not there");
      for (size_t k = 0; k < batch; ++k) {
        const std::span<const std::byte> view = lease.View(static_cast<uint32_t>(k));
        if (view.size() != bytes_) return absl::InternalError("a block is not readable");
        if (copy) {
          std::memcpy(target_.Next(bytes_), view.data(), bytes_);
        } else {
          Read(view);
        }
      }
      if (!lease.StillValid()) return absl::InternalError("a lease ended early");
    }
    return absl::OkStatus();
  }

  static void Read(std::span<const std::byte> view) {
    const auto* words = reinterpret_cast<const uint64_t*>(view.data());
    uint64_t sum = 0;
    for (size_t i = 0; i < view.size() / sizeof(uint64_t); ++i) sum += words[i];
    volatile uint64_t keep = sum;
    (void)keep;
  }

  double RedisPut(size_t batch) {
    bool right = true;
    const double ms = Milliseconds([&] {
      for (size_t i = 0; i < blocks_; i += batch) {
        for (size_t k = 0; k < batch; ++k) {
          redis_.AppendSet(KeyOf(i + k), source_.Next(bytes_), bytes_);
        }
        for (size_t k = 0; k < batch; ++k) right = redis_.TakeOk() && right;
      }
    });
    return right ? ms : -1;
  }

  double RedisGet(size_t batch) {
    bool right = true;
    const double ms = Milliseconds([&] {
      for (size_t i = 0; i < blocks_; i += batch) {
        for (size_t k = 0; k < batch; ++k) redis_.AppendGet(KeyOf(i + k));
        for (size_t k = 0; k < batch; ++k) {
          right = redis_.TakeValue(target_.Next(bytes_), bytes_) && right;
        }
      }
    });
    return right ? ms : -1;
  }

  Space space_;
  AdminClient& admin_;
  Redis& redis_;
  Ring& source_;
  Ring& target_;
  const size_t bytes_;
  const size_t blocks_;
  Report& report_;
  double memcpy_ms_ = 0;
};

SpaceSpec SpecOf(size_t bytes) {
  SpaceSpec spec;
  spec.model = "bench";
  spec.kv_dtype = "bytes";
  spec.layers = spec.kv_heads = spec.head_dim = 1;
  spec.parts = {{.name = "all", .block_bytes = bytes}};
  spec.layout = "opaque.v1";
  spec.opaque_names = true;
  spec.key_bytes = kKeyBytes;
  return spec;
}

absl::Status Run(const Arguments& arguments, Report& report) {
  TC_ASSIGN_OR_RETURN(const auto daemon,
                      DaemonProcess::Start({.warm_capacity = arguments.quick ? "128MiB" : "2GiB",
                                            .cold_capacity = "0"}));
  const ClientOptions options{.socket_path = daemon->socket_path(), .client_name = "bench_warm"};
  TC_ASSIGN_OR_RETURN(const auto client, Client::Connect(options));
  TC_ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(options));
  Redis redis(daemon->runtime_directory());
  if (!redis.there()) std::printf("SKIPPED: redis (no redis-server on PATH)\n");
  const size_t ring_bytes = arguments.quick ? 8 * MiB : 256 * MiB;
  TC_ASSIGN_OR_RETURN(Ring source, Ring::Make(ring_bytes));
  TC_ASSIGN_OR_RETURN(Ring target, Ring::Make(ring_bytes));
  for (size_t bytes : {64 * KiB, 256 * KiB, 1 * MiB, 4 * MiB}) {
    TC_ASSIGN_OR_RETURN(const Space space, client->OpenSpace(SpecOf(bytes)));
    const size_t blocks =
        std::max(kBatch, (arguments.quick ? 4 * MiB : 256 * MiB) / bytes / kBatch * kBatch);
    WarmBench bench(space, *admin, redis, source, target, bytes, blocks, report);
    TC_RETURN_IF_ERROR(bench.Run());
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace thermocline::bench

int main(int argc, char** argv) {
  return thermocline::bench::RunBenchmark(argc, argv, thermocline::bench::Run);
}
