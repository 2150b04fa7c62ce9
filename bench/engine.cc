// Prefill and decode of SmolLM2-135M on the CPU, against llama.cpp in the same run: its own weights
// dequantised to F32, which is what our prefill computes with, and its Q4_1 kernels. Our runs and
// theirs alternate; the medians are compared. How much a core can multiply at all, and how near the
// kernels of prefill come to that, stands before (bench/kernel_peak.h). The last case runs beside a
// process that takes one core: a decode whose threads wait for each other must slow down, not
// collapse. The peer is llama-cpp-python in an environment of its own (bench/run.sh makes it);
// without it its rows are left out, visibly.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "bench/kernel_peak.h"
#include "bench/report.h"
#include "engine/paged_kv.h"
#include "engine/sampler.h"
#include "engine/transformer.h"

namespace thermocline::bench {
namespace {

const char kPeerPython[] = TC_SOURCE_DIR "/build/llama-venv/bin/python";
const char kPeerScript[] = TC_SOURCE_DIR "/bench/llama_peer.py";
constexpr size_t kDecodeSteps = 48;
constexpr int kRounds = 3;

/// Our engine: tokens/s of one prefill, or of decoding behind a context.
class Ours {
 public:
  explicit Ours(Transformer& transformer)
      : transformer_(transformer),
        pages_(transformer.kv_geometry(KvDtype::kF16), 1 << 16),
        logits_(transformer.config().vocab) {}

  absl::StatusOr<double> Prefill(size_t tokens) {
    TC_RETURN_IF_ERROR(Fill(tokens));
    absl::Status status;
    const double ms = Milliseconds([&] { status = Forward(0, tokens); });
    TC_RETURN_IF_ERROR(status);
    return static_cast<double>(tokens) / ms * 1e3;
  }

  absl::StatusOr<double> Decode(size_t context) {
    TC_RETURN_IF_ERROR(Fill(context + kDecodeSteps));
    TC_RETURN_IF_ERROR(Forward(0, context));
    absl::Status status;
    const double ms = Milliseconds([&] {
      for (size_t i = 0; i < kDecodeSteps && status.ok(); ++i) status = Forward(context + i, 1);
    });
    TC_RETURN_IF_ERROR(status);
    return kDecodeSteps / ms * 1e3;
  }

 private:
  absl::Status Fill(size_t tokens) {
    SplitMix64 random(tokens);
    ids_.resize(tokens);
    for (int32_t& id : ids_) id = static_cast<int32_t>(random.Next() % logits_.size());
    while (blocks_.size() < BlocksOf(tokens)) {
      TC_ASSIGN_OR_RETURN(std::byte * block, pages_.Allocate());
      blocks_.push_back(block);
    }
    return absl::OkStatus();
  }
  absl::Status Forward(size_t position, size_t count) {
    return transformer_.Forward({.tokens = std::span(ids_).subspan(position, count),
                                 .position = static_cast<int>(position),
                                 .blocks = blocks_,
                                 .kv_dtype = KvDtype::kF16,  // as llama.cpp keeps it by default
                                 .logits = logits_});
  }

  Transformer& transformer_;
  PrivateBlocks pages_;
  std::vector<float> logits_;
  std::vector<int32_t> ids_;
  std::vector<std::byte*> blocks_;
};

bool PeerIsThere() { return access(kPeerPython, X_OK) == 0; }

/// llama.cpp's tokens/s of the same work.
absl::StatusOr<double> Peer(const char* weights, const char* work, size_t tokens, int threads) {
  const std::string command = "'" + std::string(kPeerPython) + "' '" + kPeerScript + "' '" +
                              ModelPath() + "' " + weights + " " + work + " " +
                              std::to_string(tokens) + " " + std::to_string(kDecodeSteps) + " " +
                              std::to_string(threads);
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return ErrnoStatus(errno, "start " + command);
  double tokens_per_s = 0;
  const bool told = std::fscanf(pipe, "%lf", &tokens_per_s) == 1;
  if (pclose(pipe) != 0 || !told) {
    return absl::UnavailableError("llama.cpp failed (" + command +
                                  "); remove build/llama-venv to have it made anew");
  }
  return tokens_per_s;
}

/// A process that does nothing but take a core.
class BusyProcess {
 public:
  BusyProcess() : pid_(fork()) {
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (std::atomic<uint64_t> spin = 0;;) spin.fetch_add(1, std::memory_order_relaxed);
    }
  }
  ~BusyProcess() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  BusyProcess(const BusyProcess&) = delete;
  BusyProcess& operator=(const BusyProcess&) = delete;

 private:
  pid_t pid_;
};

/// Adds our tokens/s, against the peer's where there is one, and returns it.
absl::StatusOr<double> RunCase(Ours& ours, const char* work, size_t tokens, int threads,
                               const std::string& suffix, Report& report) {
  const bool prefill = std::string(work) == "prefill";
  std::vector<double> mine, f32, q4_1;
  for (int i = 0; i < kRounds; ++i) {
    TC_ASSIGN_OR_RETURN(const double rate, prefill ? ours.Prefill(tokens) : ours.Decode(tokens));
    mine.push_back(rate);
    if (!PeerIsThere()) continue;
    for (auto& [weights, theirs] : {std::pair{"f32", &f32}, std::pair{"q4_1", &q4_1}}) {
      TC_ASSIGN_OR_RETURN(const double peer, Peer(weights, work, tokens, threads));
      theirs->push_back(peer);
    }
  }
  const std::string name = std::string(work) + "/tokens:" + std::to_string(tokens) + suffix;
  const double rate = Median(mine);
  if (PeerIsThere()) {
    report.Add({name, work, rate, "tokens/s", "llama.cpp F32", rate / Median(f32)});
    report.Add({name, work, rate, "tokens/s", "llama.cpp Q4_1", rate / Median(q4_1)});
  } else {
    report.Add({name, work, rate, "tokens/s"});
  }
  return rate;
}

absl::Status Run(const Arguments& arguments, Report& report) {
  TC_ASSIGN_OR_RETURN(const auto file, ModelFile::Open(ModelPath()));
  TC_ASSIGN_OR_RETURN(const auto transformer, Transformer::Load(*file, {}));
  const int threads = transformer->threads();
  Ours ours(*transformer);
  std::printf("kernels: %s, threads: %d\n", transformer->kernels(), threads);
  TC_RETURN_IF_ERROR(AddKernelPeak(transformer->config(), arguments.quick, report));
  if (arguments.quick) {
    TC_ASSIGN_OR_RETURN(const double rate, ours.Prefill(64));
    report.Add({"prefill/tokens:64", "prefill", rate, "tokens/s"});
  } else {
    if (!PeerIsThere()) {
      std::printf("SKIPPED: llama.cpp (no %s; bench/run.sh engine makes it)\n", kPeerPython);
    }
    for (size_t tokens : {512, 2048, 4096}) {
      TC_RETURN_IF_ERROR(RunCase(ours, "prefill", tokens, threads, "", report).status());
    }
    for (size_t tokens : {1024, 4096}) {
      TC_RETURN_IF_ERROR(RunCase(ours, "decode", tokens, threads, "", report).status());
    }
    TC_ASSIGN_OR_RETURN(const double idle, RunCase(ours, "decode", 16, threads, "", report));
    const std::string suffix = "/beside_busy_process";
    BusyProcess busy;
    TC_ASSIGN_OR_RETURN(const double beside, RunCase(ours, "decode", 16, threads, suffix, report));
    report.Add({"decode/tokens:16" + suffix, "decode", beside, "tokens/s", "idle", beside / idle});
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace thermocline::bench

int main(int argc, char** argv) {
  return thermocline::bench::RunBenchmark(argc, argv, thermocline::bench::Run);
}
