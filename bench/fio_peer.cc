#include "bench/fio_peer.h"

#include <atomic>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "bench/coprocess.h"
#include "bench/pinned.h"

namespace thermocline::bench {
namespace {

/// All that a program prints until it ends.
absl::StatusOr<std::string> OutputOf(std::vector<std::string> words) {
  TC_ASSIGN_OR_RETURN(const auto process, Coprocess::Start(std::move(words)));
  std::string output;
  for (auto line = process->Hear(); line.ok(); line = process->Hear()) output += *line + "\n";
  return output;
}

}  // namespace

std::string FioMissing() {
  const auto version = OutputOf({"fio", "--version"});
  return version.ok() && version->starts_with("fio-") ? "" : "no fio on PATH; deploy/setup.sh";
}

absl::StatusOr<double> RunFio(const FioLoad& load) {
  static std::atomic<int> seed = 1;
  std::vector<std::string> words = {"fio",
                                    "--name=bench",
                                    "--output-format=json",
                                    "--ioengine=psync",
                                    "--direct=1",
                                    "--thread",
                                    "--group_reporting",
                                    "--numjobs=" + std::to_string(load.threads),
                                    "--bs=" + std::to_string(load.block_bytes)};
  if (load.write) {
    words.insert(words.end(), {"--rw=write", "--directory=" + load.path, "--unlink=1",
                               "--size=" + std::to_string(load.thread_bytes), "--end_fsync=1"});
  } else {
    words.insert(words.end(), {"--rw=randread", "--filename=" + load.path, "--invalidate=0",
                               "--io_size=" + std::to_string(load.thread_bytes), "--randrepeat=0",
                               "--randseed=" + std::to_string(++seed)});
    const std::string processors = ProcessorsFor(load.threads);
    if (!processors.empty()) {
      words.insert(words.end(), {"--cpus_allowed=" + processors, "--cpus_allowed_policy=split"});
    }
  }
  TC_ASSIGN_OR_RETURN(const std::string output, OutputOf(std::move(words)));
  const auto json = nlohmann::json::parse(output, nullptr, false);
  if (!json.is_object() || json["jobs"].empty()) {
    return absl::UnavailableError("fio said: " + output);
  }
  const auto& side = json["jobs"][0][load.write ? "write" : "read"];
  const double bytes = side.value("io_bytes", 0.0);
  const double ms = side.value("runtime", 0.0);
  if (bytes <= 0 || ms <= 0) return absl::UnavailableError("fio moved nothing: " + output);
  return bytes / MiB / (ms / 1e3);
}

}  // namespace thermocline::bench
