// Request traces through the tier stack over tiers so small that nearly everything moves: each
// request matches its prompt, loads what is cold, and commits what was not there. The blocks are
// small and their bytes always the same, so that it is about which of them are where. What a trace
// says of time is left out: the requests come one after the other.
//
// A segment of the cold tier can only be given up whole; what of it others still stand behind is
// written anew. To see what that brings, each trace is run again over a tier that gives up all.
#include <algorithm>
#include <cstring>
#include <deque>
#include <fstream>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/units.h"
#include "bench/cold_cases.h"
#include "bench/coprocess.h"
#include "hashing/checksum.h"
#include "tiers/stack_core.h"

namespace thermocline::bench {
namespace {

constexpr uint64_t kBlockBytes = 4 * KiB;
constexpr uint64_t kTokensPerBlock = 512;  // of the traces that have ids of blocks
constexpr uint32_t kPieceNames = 512;      // committed at a time
constexpr int kPid = 1'000'000'000;        // nobody's

/// Ids that stand for the prefix up to and with their block.
using Prompt = std::vector<uint64_t>;

/// Of a line of mooncake_conversation or synthetic_toolmix; of claudecode_A, whose ids are of 64
/// tokens, every eighth.
Prompt PromptOf(const nlohmann::json& request) {
  Prompt prompt;
  if (request.contains("hash_ids")) {
    prompt = request["hash_ids"].get<Prompt>();
    const uint64_t whole = request.value("input_length", uint64_t{0}) / kTokensPerBlock;
    prompt.resize(std::min<size_t>(prompt.size(), whole));
    return prompt;
  }
  uint64_t depth = 0;
  for (const auto& run : request["runs"]) {
    const uint64_t first = run[0], count = run[1];
    for (uint64_t i = 0; i < count; ++i) {
      if (++depth % 8 == 0) prompt.push_back(first + i);
    }
  }
  return prompt;
}

absl::StatusOr<std::vector<Prompt>> ReadTrace(const std::string& path, size_t most) {
  TC_ASSIGN_OR_RETURN(const auto gzip, Coprocess::Start({"gzip", "-dc", path}));
  std::vector<Prompt> prompts;
  for (auto line = gzip->Hear(); line.ok(); line = gzip->Hear()) {  // to the end, or it waits
    if (prompts.size() == most) continue;
    const auto request = nlohmann::json::parse(*line, nullptr, false);
    if (!request.is_object()) return absl::DataLossError(path + ": not a request: " + *line);
    prompts.push_back(PromptOf(request));
  }
  return prompts;
}

/// What a tier was told and did, told after the stack that owns it is gone.
struct TierTally {
  TierUsage usage;
  uint64_t put_bytes = 0;
  uint64_t lost = 0;  // asked for, and not there
};

/// The cold tier, counted; and, if told so, without writing anything anew.
class CountedTier : public Tier {
 public:
  CountedTier(std::unique_ptr<Tier> tier, bool keeps, TierTally& tally)
      : tier_(std::move(tier)), keeps_(keeps), tally_(tally) {}
  ~CountedTier() override { tally_.usage = tier_->Usage(); }

  absl::Status Put(const BlockRecord& record, std::span<const std::byte> payload) override {
    return tier_->Put(record, payload);
  }
  void PutAll(std::span<TierPut> puts) override {
    tier_->PutAll(puts);
    for (const TierPut& put : puts) tally_.put_bytes += put.status.ok() ? put.payload.size() : 0;
  }
  absl::StatusOr<std::optional<BlockRecord>> Get(BlockRef ref,
                                                 std::span<std::byte> payload) override {
    auto got = tier_->Get(ref, payload);
    if (got.ok() && !*got) ++tally_.lost;
    return got;
  }
  absl::Status Erase(BlockRef ref) override { return tier_->Erase(ref); }
  std::optional<TierSegment> SegmentFrom(uint64_t sequence) const override {
    return tier_->SegmentFrom(sequence);
  }
  absl::Status DropSegment(uint64_t sequence, std::span<const BlockRef> keep) override {
    return tier_->DropSegment(sequence, keeps_ ? keep : std::span<const BlockRef>());
  }
  absl::Status ForEach(const std::function<bool(const BlockRecord&)>& visit) override {
    return tier_->ForEach(visit);
  }
  absl::Status Sync() override { return tier_->Sync(); }
  TierUsage Usage() const override { return tier_->Usage(); }

 private:
  const std::unique_ptr<Tier> tier_;
  const bool keeps_;
  TierTally& tally_;
};

SpaceSpec Spec() {
  SpaceSpec spec;
  spec.model = "bench";
  spec.kv_dtype = "bytes";
  spec.layers = spec.kv_heads = spec.head_dim = 1;
  spec.parts = {{.name = "all", .block_bytes = kBlockBytes}};
  spec.layout = "opaque.v1";
  return spec;
}

struct TraceResult {
  uint64_t asked = 0, warm = 0, cold = 0;  // blocks, as they were found
};

/// A stack whose strand and disk are one queue, run by whoever waits.
class TraceStack {
 public:
  absl::Status Open(const std::string& directory, uint64_t warm_bytes, uint64_t cold_bytes,
                    std::unique_ptr<Tier> cold) {
    StackOptions options;
    options.arena_path = directory + "/arena";
    options.data_dir = directory;
    options.warm_capacity_bytes = warm_bytes;
    options.cold_capacity_bytes = cold_bytes;
    options.chunk_bytes = 1 * MiB;
    options.scrub_bytes_per_tick = options.cold_scrub_bytes_per_tick = 0;
    options.strand = [this](Task task) { queue_.push_back(std::move(task)); };
    options.disk = options.strand;
    options.strand_at = [](std::chrono::steady_clock::duration, Task) { return true; };
    TC_ASSIGN_OR_RETURN(stack_, StackCore::OpenWith(std::move(options), std::move(cold)));
    TC_ASSIGN_OR_RETURN(client_, stack_->AddClient(kPid, 1, nullptr));
    TC_ASSIGN_OR_RETURN(space_, stack_->OpenSpace(Spec()));
    payload_.assign(kBlockBytes, std::byte{0x5a});
    checksum_ = Checksum(payload_);
    return absl::OkStatus();
  }

  absl::Status Serve(const Prompt& prompt, TraceResult& result) {
    std::vector<Name> names;
    for (const uint64_t id : prompt) names.push_back(Name{{id, 1}});
    TC_ASSIGN_OR_RETURN(LeaseView lease, stack_->Match(client_, space_, names));
    result.asked += prompt.size();
    const bool any_cold = std::any_of(lease.blocks.begin(), lease.blocks.end(),
                                      [](const BlockView& b) { return b.tier != TierKind::kWarm; });
    for (const BlockView& block : lease.blocks) result.warm += block.tier == TierKind::kWarm;
    if (any_cold) {
      uint64_t ready = 0;
      bool is_done = false;
      stack_->Load(
          client_, lease.lease,
          [&](std::vector<BlockView> blocks) {
            ready += blocks.size();
            return true;
          },
          [&](absl::Status) { is_done = true; });
      Settle();
      if (!is_done) return absl::InternalError("a load does not end");
      const uint64_t warm_here = CountWarm(lease);
      result.cold += ready - std::min(ready, warm_here);
      TC_RETURN_IF_ERROR(stack_->Release(client_, lease.lease));
      TC_ASSIGN_OR_RETURN(lease, stack_->Match(client_, space_, names));
    }
    TC_RETURN_IF_ERROR(Commit(std::span(names).subspan(lease.depth), lease));
    TC_RETURN_IF_ERROR(stack_->Release(client_, lease.lease));
    Settle();
    return absl::OkStatus();
  }

  /// Everything under way is finished, and the tiers are closed.
  void Close() {
    Settle();
    stack_.reset();
    queue_.clear();
  }

 private:
  static uint64_t CountWarm(const LeaseView& lease) {
    uint64_t count = 0;
    for (const BlockView& block : lease.blocks) count += block.tier == TierKind::kWarm;
    return count;
  }

  void Settle() {
    while (!queue_.empty()) {
      Task task = std::move(queue_.front());
      queue_.pop_front();
      task();
    }
  }

  /// Behind the lease, a piece at a time.
  absl::Status Commit(std::span<const Name> names, LeaseView& lease) {
    uint32_t depth = lease.depth;
    while (!names.empty()) {
      const auto count = static_cast<uint32_t>(std::min<size_t>(names.size(), kPieceNames));
      absl::StatusOr<std::vector<uint64_t>> slots = absl::DeadlineExceededError("no slot came");
      stack_->Reserve(client_, space_, 0, count, std::chrono::seconds(10),
                      [&](absl::StatusOr<std::vector<uint64_t>> got) { slots = std::move(got); });
      Settle();
      TC_RETURN_IF_ERROR(slots.status());
      std::vector<CommitItem> items;
      for (const uint64_t offset : *slots) {
        std::memcpy(stack_->SlotPayload(offset, kBlockBytes).data(), payload_.data(), kBlockBytes);
        items.push_back({.offset = offset, .depth = depth++, .checksum = checksum_});
      }
      const auto piece = names.first(items.size());
      TC_ASSIGN_OR_RETURN(lease, stack_->Commit(client_, lease.lease, piece, items));
      names = names.subspan(items.size());
      Settle();
    }
    return absl::OkStatus();
  }

  std::deque<Task> queue_;
  std::unique_ptr<StackCore> stack_;
  ClientNumber client_;
  uint32_t space_ = 0;
  std::vector<std::byte> payload_;
  uint64_t checksum_ = 0;
};

absl::Status RunTrace(const ColdBench& bench, const std::string& name,
                      const std::vector<Prompt>& prompts, uint64_t distinct, bool keeps) {
  const ScratchDirectory scratch(bench.directory + "/trace");
  // A sixteenth of all blocks in memory, a quarter on disk.
  const uint64_t slot_bytes = 2 * kBlockBytes;  // with what stands beside a payload
  const uint64_t warm_bytes = std::max(RoundUp(distinct / 16 * slot_bytes, MiB), 8 * MiB);
  const uint64_t cold_bytes = std::max(distinct / 4 * kBlockBytes, 8 * MiB);
  TierTally tally;
  TC_ASSIGN_OR_RETURN(auto tier, OpenColdTier(scratch.path(), cold_bytes));
  TraceStack stack;
  TC_RETURN_IF_ERROR(stack.Open(scratch.path(), warm_bytes, cold_bytes,
                                std::make_unique<CountedTier>(std::move(tier), keeps, tally)));
  TraceResult result;
  absl::Status status;
  const double ms = Milliseconds([&] {
    for (const Prompt& prompt : prompts) {
      status = stack.Serve(prompt, result);
      if (!status.ok()) return;
    }
  });
  TC_RETURN_IF_ERROR(status);
  stack.Close();
  const std::string row = "trace/" + name + (keeps ? "" : "/nothing_kept");
  const auto percent = [&](uint64_t part) {
    return 100 * static_cast<double>(part) / static_cast<double>(result.asked);
  };
  char note[200];
  std::snprintf(note, sizeof note,
                "%zu requests, %.2f M blocks asked for, %.0f k distinct; %.1f s; %llu blocks were "
                "not where the names said",
                prompts.size(), static_cast<double>(result.asked) / 1e6,
                static_cast<double>(distinct) / 1e3, ms / 1e3,
                static_cast<unsigned long long>(tally.lost));
  bench.report.Add({row, "warm_hits", percent(result.warm), "% of asked", "", 0, note});
  bench.report.Add({row, "cold_hits", percent(result.cold), "% of asked", "", 0});
  bench.report.Add({row, "demoted", static_cast<double>(tally.put_bytes) / MiB, "MiB", "", 0});
  const double kept = static_cast<double>(tally.usage.kept_bytes) / MiB;
  bench.report.Add({row, "readmitted", kept, "MiB", "demoted",
                    tally.put_bytes == 0 ? 0
                                         : static_cast<double>(tally.usage.kept_bytes) /
                                               static_cast<double>(tally.put_bytes)});
  return absl::OkStatus();
}

}  // namespace

absl::Status AddTraces(const ColdBench& bench) {
  for (const char* name : {"mooncake_conversation", "claudecode_A", "synthetic_toolmix"}) {
    const std::string path = std::string(TC_SHARED_DATA "/traces/") + name + ".jsonl.gz";
    if (!std::ifstream(path)) {
      std::printf("SKIPPED: trace %s (no %s)\n", name, path.c_str());
      continue;
    }
    TC_ASSIGN_OR_RETURN(const auto prompts, ReadTrace(path, bench.quick ? 200 : 1u << 20));
    std::unordered_set<uint64_t> distinct;
    for (const Prompt& prompt : prompts) distinct.insert(prompt.begin(), prompt.end());
    TC_RETURN_IF_ERROR(RunTrace(bench, name, prompts, distinct.size(), true));
    TC_RETURN_IF_ERROR(RunTrace(bench, name, prompts, distinct.size(), false));
  }
  return absl::OkStatus();
}

}  // namespace thermocline::bench
