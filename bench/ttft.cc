// Time from ids to the first id by the length of the cached prefix: uncached, from the warm tier,
// from the cold one. What a cache hit must cost is the raw read of its bytes and one decode step at
// that length; both are measured here, in the same process, and the ratio to their sum is what
// counts. On a CPU any store beats prefill by far, so that the ratio to `cold` only shows that the
// path works.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/unique_fd.h"
#include "base/units.h"
#include "bench/daemon_process.h"
#include "bench/report.h"
#include "engine/generator.h"
#include "kernels/aligned_buffer.h"

namespace thermocline::bench {
namespace {

constexpr KvDtype kDtype = KvDtype::kF32;
constexpr size_t kReadBytes = MiB;              // of one O_DIRECT read
constexpr size_t kStoreBufferBytes = 64 * MiB;  // twice the store's memory table

/// Ids that no cache has seen: another stream for every `stream`.
std::vector<int32_t> Ids(size_t count, uint64_t stream, uint32_t vocabulary) {
  SplitMix64 random(stream);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = static_cast<int32_t>(random.Next() % vocabulary);
  return ids;
}

class TtftBench {
 public:
  TtftBench(Transformer& transformer, Client& client, AdminClient& admin, Space space,
            std::filesystem::path disk, Report& report)
      : transformer_(transformer),
        client_(client),
        admin_(admin),
        space_(std::move(space)),
        disk_(std::move(disk)),
        report_(report),
        pages_(transformer.kv_geometry(kDtype), BlocksOf(transformer.config().context_length)) {}

  absl::Status Run(size_t tokens, int repeats) {
    const std::vector<int32_t> ids = Ids(tokens + 1, tokens, transformer_.config().vocab);
    const std::string suffix = "/tokens:" + std::to_string(tokens);
    std::vector<double> uncached;
    double step_ms = 0;
    for (int i = 0; i < std::min(repeats, 3); ++i) {
      KvSequence sequence(pages_);
      TC_ASSIGN_OR_RETURN(const double ms, Ttft(sequence, ids, 0));
      uncached.push_back(ms);
      TC_ASSIGN_OR_RETURN(step_ms, DecodeStep(sequence, ids));
    }
    const double cold_ms = Median(uncached);
    report_.Add({"uncached" + suffix, "ttft", cold_ms, "ms"});
    report_.Add({"decode_step" + suffix, "time", step_ms, "ms"});
    {
      KvSequence fill(pages_, client_, space_);  // commits every block
      TC_RETURN_IF_ERROR(Ttft(fill, ids, 0).status());
    }
    std::vector<double> warm, memory, cold, disk;
    for (int i = 0; i < repeats; ++i) {
      KvSequence sequence(pages_, client_, space_);
      TC_ASSIGN_OR_RETURN(const double ms, Ttft(sequence, ids, tokens));
      warm.push_back(ms);
      memory.push_back(ReadMemory(sequence, tokens));
    }
    AddHit("warm" + suffix, Median(warm), Median(memory), "memory_read", step_ms, cold_ms);
    TC_RETURN_IF_ERROR(PushOut());
    TC_RETURN_IF_ERROR(WriteDisk(tokens));
    for (int i = 0; i < repeats; ++i) {
      TC_ASSIGN_OR_RETURN(const FlushResult flushed, admin_.Flush(BlockTier::kWarm));
      if (flushed.kept != 0) return absl::InternalError("blocks were still leased at the flush");
      KvSequence sequence(pages_, client_, space_);
      TC_ASSIGN_OR_RETURN(const double ms, Ttft(sequence, ids, tokens));
      cold.push_back(ms);
      TC_ASSIGN_OR_RETURN(const double raw, ReadDisk(tokens));
      disk.push_back(raw);
    }
    AddHit("cold_tier" + suffix, Median(cold), Median(disk), "o_direct_read", step_ms, cold_ms);
    return absl::OkStatus();
  }

 private:
  void AddHit(const std::string& name, double ms, double raw_ms, const std::string& raw_name,
              double step_ms, double uncached_ms) {
    report_.Add({raw_name + name.substr(name.find('/')), "time", raw_ms, "ms"});
    report_.Add({name, "ttft", ms, "ms", raw_name + "+decode_step", ms / (raw_ms + step_ms)});
    report_.Add({name, "ttft", ms, "ms", "uncached", ms / uncached_ms});
  }

  absl::StatusOr<double> Ttft(KvSequence& kv, const std::vector<int32_t>& ids, size_t cached) {
    GenerateRequest request;
    request.prompt_ids = ids;
    request.max_tokens = 1;
    TC_ASSIGN_OR_RETURN(const GenerateResult result, Generate(transformer_, kDtype, kv, request));
    if (result.cached_tokens != cached) {
      return absl::InternalError("expected " + std::to_string(cached) + " cached tokens, got " +
                                 std::to_string(result.cached_tokens));
    }
    return result.ttft_ms;
  }

  absl::StatusOr<double> DecodeStep(KvSequence& kv, const std::vector<int32_t>& ids) {
    std::vector<float> logits(transformer_.config().vocab);
    std::vector<double> times;
    absl::Status status;
    for (int i = 0; i < 5 && status.ok(); ++i) {
      times.push_back(Milliseconds([&] {
        status = transformer_.Forward({.tokens = std::span(ids).last(1),
                                       .position = static_cast<int>(ids.size() - 1),
                                       .blocks = kv.blocks(),
                                       .kv_dtype = kDtype,
                                       .logits = logits});
      }));
    }
    TC_RETURN_IF_ERROR(status);
    return Median(times);
  }

  /// By as many threads as a decode step has.
  double ReadMemory(const KvSequence& kv, size_t tokens) {
    const std::span blocks = kv.blocks().first(tokens / kBlockTokens);
    const auto threads = static_cast<size_t>(transformer_.threads());
    std::atomic<uint64_t> sum = 0;
    return Milliseconds([&] {
      std::vector<std::jthread> readers;
      for (size_t i = 0; i < threads; ++i) {
        readers.emplace_back([&, i] {
          uint64_t own = 0;
          for (size_t at = i; at < blocks.size(); at += threads) own += SumOf(blocks[at]);
          sum += own;
        });
      }
    });
  }

  uint64_t SumOf(const std::byte* block) const {
    const auto* words = reinterpret_cast<const uint64_t*>(block);
    uint64_t sum = 0;
    for (size_t i = 0; i < block_bytes() / sizeof(uint64_t); ++i) sum += words[i];
    return sum;
  }

  /// Commits other blocks and flushes them, as many as the store keeps in memory before it writes
  /// a table: what was flushed before is on the disk then, and a cold hit reads it there.
  absl::Status PushOut() {
    TC_RETURN_IF_ERROR(admin_.Flush(BlockTier::kWarm).status());
    const size_t count = kStoreBufferBytes / block_bytes() + 1;
    TC_ASSIGN_OR_RETURN(Lease lease, space_.Match(std::vector<int32_t>()));
    std::vector<Reservation> slots;
    while (slots.size() < count) {
      TC_ASSIGN_OR_RETURN(auto granted, space_.Reserve(static_cast<uint32_t>(count - slots.size()),
                                                       0, std::chrono::seconds(10)));
      for (Reservation& slot : granted) slots.push_back(std::move(slot));
    }
    for (Reservation& slot : slots) std::memset(slot.bytes().data(), 0x5a, slot.bytes().size());
    const auto vocabulary = transformer_.config().vocab;
    TC_RETURN_IF_ERROR(
        lease.Commit(Ids(count * kBlockTokens, ++pushed_out_ << 32, vocabulary), std::move(slots)));
    lease.Release();
    return admin_.Flush(BlockTier::kWarm).status();
  }

  absl::Status WriteDisk(size_t tokens) const {
    UniqueFd fd(open(disk_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));
    if (!fd) return ErrnoStatus(errno, "open " + disk_.string());
    SplitMix64 random(tokens);
    std::vector<uint64_t> piece(kReadBytes / sizeof(uint64_t));
    for (size_t written = 0; written < tokens / kBlockTokens * block_bytes();) {
      for (uint64_t& word : piece) word = random.Next();
      if (write(fd.get(), piece.data(), kReadBytes) != static_cast<ssize_t>(kReadBytes)) {
        return ErrnoStatus(errno, "write " + disk_.string());
      }
      written += kReadBytes;
    }
    if (fdatasync(fd.get()) != 0) return ErrnoStatus(errno, "fdatasync " + disk_.string());
    return absl::OkStatus();
  }

  absl::StatusOr<double> ReadDisk(size_t tokens) const {
    UniqueFd fd(open(disk_.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
    if (!fd) return ErrnoStatus(errno, "open " + disk_.string() + " with O_DIRECT");
    TC_ASSIGN_OR_RETURN(AlignedBuffer buffer, AlignedBuffer::Make(kReadBytes));
    const size_t bytes = tokens / kBlockTokens * block_bytes();
    absl::Status status;
    const double ms = Milliseconds([&] {
      for (size_t at = 0; at < bytes && status.ok(); at += kReadBytes) {
        const ssize_t got = pread(fd.get(), buffer.data(), kReadBytes, static_cast<off_t>(at));
        if (got <= 0) status = ErrnoStatus(errno, "pread " + disk_.string());
      }
    });
    TC_RETURN_IF_ERROR(status);
    return ms;
  }

  size_t block_bytes() const { return pages_.geometry().block_bytes(); }

  Transformer& transformer_;
  Client& client_;
  AdminClient& admin_;
  Space space_;
  std::filesystem::path disk_;
  Report& report_;
  PrivateBlocks pages_;
  uint64_t pushed_out_ = 0;
};

absl::Status Run(const Arguments& arguments, Report& report) {
  TC_ASSIGN_OR_RETURN(const auto file, ModelFile::Open(ModelPath()));
  TC_ASSIGN_OR_RETURN(const auto transformer, Transformer::Load(*file, {}));
  TC_ASSIGN_OR_RETURN(const auto daemon,
                      DaemonProcess::Start({.warm_capacity = arguments.quick ? "128MiB" : "1GiB",
                                            .cold_capacity = arguments.quick ? "1GiB" : "4GiB"}));
  const ClientOptions options{.socket_path = daemon->socket_path(),
                              .client_name = "bench_ttft",
                              .timeout = std::chrono::minutes(2)};
  TC_ASSIGN_OR_RETURN(const auto client, Client::Connect(options));
  TC_ASSIGN_OR_RETURN(const auto admin, AdminClient::Connect(options));
  TC_ASSIGN_OR_RETURN(const Sha256 digest, file->content_sha256());
  TC_ASSIGN_OR_RETURN(
      const Space space,
      client->OpenSpace(SpaceOf(transformer->config(), transformer->kv_geometry(kDtype), digest)));
  TtftBench bench(*transformer, *client, *admin, space, daemon->directory() / "raw", report);
  const std::vector<size_t> lengths =
      arguments.quick ? std::vector<size_t>{64} : std::vector<size_t>{256, 512, 1024, 2048, 4096};
  for (size_t tokens : lengths) {
    TC_RETURN_IF_ERROR(bench.Run(tokens, arguments.quick ? 1 : 5));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace thermocline::bench

int main(int argc, char** argv) {
  return thermocline::bench::RunBenchmark(argc, argv, thermocline::bench::Run);
}
