// What "ack" costs: clients commit at once and wait until it is on disk, by the tier stack on
// threads as the daemon has them. Their commits share writes; the small segments that come of it
// are made large ones meanwhile and afterwards, until nothing is left to fold. Beside it, in turns
// with the commits of a client that is alone: the same bytes written and synced by O_DIRECT. Once
// where there is room for all, once in a full tier, where segments go for what comes.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <mutex>
#include <thread>

#include "base/executor.h"
#include "base/units.h"
#include "bench/cold_cases.h"
#include "hashing/checksum.h"
#include "tiers/stack_core.h"

namespace thermocline::bench {
namespace {

constexpr uint64_t kBlockBytes = 256 * KiB;
constexpr uint32_t kCommitBlocks = 4;
constexpr int kClients = 4;
constexpr int kPid = 1'000'000'000;  // nobody's
constexpr std::chrono::milliseconds kTick{200};
constexpr std::chrono::seconds kMostFoldTime{60};
// Without a fold: there is none left, as one begins with a tick.
constexpr std::chrono::milliseconds kQuietTime{5000}, kQuickQuietTime{1000};

SpaceSpec AckSpec() {
  SpaceSpec spec;
  spec.model = "bench";
  spec.kv_dtype = "bytes";
  spec.layers = spec.kv_heads = spec.head_dim = 1;
  spec.parts = {{.name = "all", .block_bytes = kBlockBytes}};
  spec.layout = "opaque.v1";
  return spec;
}

/// A stack with a strand and a disk pool of its own, whose clients call from threads of theirs.
class AckStack {
 public:
  /// `memory` is a directory of a tmpfs, lest the arena's pages count as written to the disk.
  absl::Status Open(const std::string& directory, const std::string& memory, uint64_t warm_bytes,
                    uint64_t cold_bytes, std::unique_ptr<Tier> cold) {
    StackOptions options;
    options.arena_path = memory + "/arena";
    options.data_dir = directory;
    options.warm_capacity_bytes = warm_bytes;
    options.cold_capacity_bytes = cold_bytes;
    options.durability = Durability::kAck;
    options.scrub_bytes_per_tick = options.cold_scrub_bytes_per_tick = 0;
    options.strand = [this](Task task) { strand_.PostCompletion(std::move(task)); };
    options.disk = [this](Task task) { disk_.PostCompletion(std::move(task)); };
    options.strand_at = [this](std::chrono::steady_clock::duration delay, Task task) {
      return strand_.PostAfter(delay, std::move(task));
    };
    return OnStrand([&]() -> absl::Status {
      TC_ASSIGN_OR_RETURN(stack_, StackCore::OpenWith(std::move(options), std::move(cold)));
      TC_ASSIGN_OR_RETURN(space_, stack_->OpenSpace(AckSpec()));
      Tick();
      return absl::OkStatus();
    });
  }
  ~AckStack() {
    (void)OnStrand([&] {
      closed_ = true;
      stack_.reset();
      return absl::OkStatus();
    });
    disk_.Stop();
    threads_.Stop();
  }

  absl::StatusOr<ClientNumber> AddClient(int number) {
    absl::StatusOr<ClientNumber> client = absl::UnknownError("");
    TC_RETURN_IF_ERROR(OnStrand([&] {
      client = stack_->AddClient(kPid + number, 1, nullptr);
      return client.status();
    }));
    return client;
  }

  /// A commit of blocks under `names`, which is the client's only path for the moment; answers the
  /// milliseconds until it is on disk.
  absl::StatusOr<double> Commit(ClientNumber client, std::span<const Name> names,
                                std::span<const std::byte> payload, uint64_t checksum) {
    const auto granted = std::make_shared<std::promise<absl::StatusOr<std::vector<uint64_t>>>>();
    LeaseView lease;
    TC_RETURN_IF_ERROR(OnStrand([&]() -> absl::Status {
      TC_ASSIGN_OR_RETURN(lease, stack_->Match(client, space_, {}));
      stack_->Reserve(client, space_, 0, kCommitBlocks, std::chrono::seconds(10),
                      [granted](absl::StatusOr<std::vector<uint64_t>> got) {
                        granted->set_value(std::move(got));
                      });
      return absl::OkStatus();
    }));
    TC_ASSIGN_OR_RETURN(const auto slots, granted->get_future().get());
    if (slots.size() < kCommitBlocks) return absl::ResourceExhaustedError("too few slots came");
    std::vector<CommitItem> items;
    for (uint32_t i = 0; i < kCommitBlocks; ++i) {
      std::memcpy(stack_->SlotPayload(slots[i], kBlockBytes).data(), payload.data(), kBlockBytes);
      items.push_back({.offset = slots[i], .depth = i, .checksum = checksum});
    }
    const auto durable = std::make_shared<std::promise<absl::Status>>();
    absl::Status committed;
    const double ms = Milliseconds([&] {
      committed = OnStrand([&]() -> absl::Status {
        TC_ASSIGN_OR_RETURN(lease, stack_->Commit(client, lease.lease, names, items));
        stack_->AwaitDurable(lease, [durable](absl::Status status) { durable->set_value(status); });
        return absl::OkStatus();
      });
      if (committed.ok()) committed = durable->get_future().get();
    });
    TC_RETURN_IF_ERROR(committed);
    TC_RETURN_IF_ERROR(OnStrand([&] { return stack_->Release(client, lease.lease); }));
    return ms;
  }

  uint64_t KeptBytes() {
    uint64_t bytes = 0;
    (void)OnStrand([&] {
      bytes = stack_->Stats().tiers[1].kept_bytes;
      return absl::OkStatus();
    });
    return bytes;
  }

 private:
  absl::Status OnStrand(const std::function<absl::Status()>& body) {
    const auto done = std::make_shared<std::promise<absl::Status>>();
    strand_.PostCompletion([done, &body] { done->set_value(body()); });
    return done->get_future().get();
  }
  void Tick() {
    if (closed_) return;
    stack_->Tick();
    strand_.PostCompletionAfter(kTick, [this] { Tick(); });
  }

  Executor threads_{{.name = "strand"}};
  Executor disk_{{.name = "disk", .thread_count = 4}};
  Strand strand_ = threads_.MakeStrand();
  std::unique_ptr<StackCore> stack_;
  bool closed_ = false;
  uint32_t space_ = 0;
};

double PercentileOf(std::vector<double>& values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(static_cast<double>(values.size() - 1) * share)];
}

/// Until no fold has come for a while.
absl::Status AwaitFolds(AckStack& stack, std::chrono::milliseconds quiet_time) {
  const auto end = std::chrono::steady_clock::now() + kMostFoldTime;
  auto changed = std::chrono::steady_clock::now();
  uint64_t kept = stack.KeptBytes();
  while (std::chrono::steady_clock::now() < changed + quiet_time) {
    if (std::chrono::steady_clock::now() > end) return absl::DeadlineExceededError("folds go on");
    std::this_thread::sleep_for(kTick);
    const uint64_t now = stack.KeptBytes();
    if (now != kept) changed = std::chrono::steady_clock::now();
    kept = now;
  }
  return absl::OkStatus();
}

struct AckShape {
  const char* name;
  uint64_t warm_bytes, cold_bytes;
  size_t commits;        // of each client
  bool is_full = false;  // before the first that counts
};

absl::Status AddAckTo(const AckShape& shape, const ColdBench& bench) {
  const ScratchDirectory scratch(bench.directory + "/" + shape.name);
  TC_ASSIGN_OR_RETURN(const ColdBlocks blocks,
                      ColdBlocks::Make(bench.content, kCommitBlocks * kBlockBytes));
  TC_ASSIGN_OR_RETURN(const auto raw, RawStore::Open(blocks, scratch.path() + "/raw"));
  TC_ASSIGN_OR_RETURN(auto tier, OpenColdTier(scratch.path() + "/tier", shape.cold_bytes));
  const ScratchDirectory memory("/dev/shm/thermocline-bench-ack-" + std::to_string(getpid()));
  AckStack stack;
  TC_RETURN_IF_ERROR(stack.Open(scratch.path(), memory.path(), shape.warm_bytes, shape.cold_bytes,
                                std::move(tier)));
  const auto payload = bench.content.first(kBlockBytes);
  const uint64_t checksum = Checksum(payload);
  std::vector<ClientNumber> clients;
  for (int i = 0; i < kClients; ++i) {
    TC_ASSIGN_OR_RETURN(const ClientNumber client, stack.AddClient(i));
    clients.push_back(client);
  }
  uint64_t next_name = 0;
  std::mutex mutex;
  const auto commit = [&](ClientNumber client) {
    std::vector<Name> names;
    {
      const std::lock_guard lock(mutex);
      for (uint32_t i = 0; i < kCommitBlocks; ++i) names.push_back(Name{{++next_name, 2}});
    }
    return stack.Commit(client, names, payload, checksum);
  };
  // Each client's times.
  const auto commit_together = [&](size_t commits, std::vector<double>& all_ms) {
    return OnThreads(kClients, [&](int thread) -> absl::Status {
      std::vector<double> times;
      for (size_t i = 0; i < commits; ++i) {
        TC_ASSIGN_OR_RETURN(const double ms, commit(clients[static_cast<size_t>(thread)]));
        times.push_back(ms);
      }
      const std::lock_guard lock(mutex);
      all_ms.insert(all_ms.end(), times.begin(), times.end());
      return absl::OkStatus();
    });
  };

  const auto quiet_time = bench.quick ? kQuickQuietTime : kQuietTime;
  std::vector<double> before_ms, alone_ms, raw_ms, together_ms;
  if (shape.is_full) {
    TC_RETURN_IF_ERROR(commit_together(
        shape.cold_bytes * 5 / 4 / (kClients * kCommitBlocks * kBlockBytes), before_ms));
    TC_RETURN_IF_ERROR(AwaitFolds(stack, quiet_time));
  }
  const uint64_t folded_before = stack.KeptBytes();
  uint64_t raw_bytes = 0;
  TC_ASSIGN_OR_RETURN(DiskWork work, MeasureDisk([&]() -> absl::Status {
                        for (size_t i = 0; i < shape.commits / 4; ++i) {
                          TC_ASSIGN_OR_RETURN(const double ms, commit(clients[0]));
                          alone_ms.push_back(ms);
                          TC_ASSIGN_OR_RETURN(const DiskWork write, raw->Write(i, 1, 1));
                          raw_ms.push_back(write.seconds * 1e3);
                          raw_bytes += write.device_bytes;
                        }
                        TC_RETURN_IF_ERROR(commit_together(shape.commits, together_ms));
                        return AwaitFolds(stack, quiet_time);
                      }));
  const size_t committed = alone_ms.size() + together_ms.size();
  const double handed = static_cast<double>(committed * kCommitBlocks * kBlockBytes);
  const double written = static_cast<double>(work.device_bytes - raw_bytes);
  char note[160];
  std::snprintf(note, sizeof note, "%.0f MiB committed by 1 MiB, %.0f MiB written again%s",
                handed / MiB, static_cast<double>(stack.KeptBytes() - folded_before) / MiB,
                shape.is_full ? ", in a full tier" : "");
  const std::string name = shape.name;
  bench.report.Add({name, "amplification", written / handed, "written/handed", "", 0, note});
  for (const auto& [percent, share] : {std::pair("p50", .5), std::pair("p99", .99)}) {
    const double raw_time = PercentileOf(raw_ms, share);
    const double alone = PercentileOf(alone_ms, share), together = PercentileOf(together_ms, share);
    const std::string row = name + "/clients:";
    bench.report.Add({row + "1/" + percent, "commit", alone, "ms", "raw", alone / raw_time,
                      "raw: written and synced; a commit waits 20 ms for others"});
    bench.report.Add({row + "4/" + percent, "commit", together, "ms", "raw", together / raw_time});
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AddAck(const ColdBench& bench) {
  TC_RETURN_IF_ERROR(AddAckTo({.name = "ack",
                               .warm_bytes = 512 * MiB,
                               .cold_bytes = bench.quick ? 256 * MiB : 4 * GiB,
                               .commits = bench.quick ? size_t{8} : 192},
                              bench));
  return AddAckTo({.name = "ack_full",
                   .warm_bytes = bench.quick ? 16 * MiB : 512 * MiB,
                   .cold_bytes = bench.quick ? 64 * MiB : 1 * GiB,
                   .commits = bench.quick ? size_t{8} : 384,
                   .is_full = true},
                  bench);
}

}  // namespace thermocline::bench
