// The cold tier on a disk: what it reads and writes against fio, against raw O_DIRECT reads of our
// own and against other stores that do the same work, taking turns in one run. See cold_cases.h for
// its parts. Who reads is pinned, a thread to a processor (bench/pinned.h); who writes is not, as
// the stores have threads of their own for that. With --quick the sizes are such that it only shows
// that it runs.
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <utility>

#include "base/log.h"
#include "base/units.h"
#include "bench/cold_cases.h"
#include "bench/fio_peer.h"
#include "bench/lmcache_peer.h"
#include "bench/pinned.h"
#include "bench/store.h"

namespace thermocline::bench {
namespace {

constexpr long kTmpfsMagic = 0x01021994;  // linux/magic.h

/// What is missing, said visibly; whether it is there.
bool IsThereOrSkipped(const char* name, const std::string& missing) {
  if (!missing.empty()) std::printf("SKIPPED: %s (%s)\n", name, missing.c_str());
  return missing.empty();
}

absl::StatusOr<std::string> DirectoryOf(const Arguments& arguments) {
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string parent =
      arguments.directory.empty() ? self.parent_path().string() : arguments.directory;
  struct statfs info {};
  if (::statfs(parent.c_str(), &info) != 0) return ErrnoStatus(errno, "statfs " + parent);
  if (info.f_type == kTmpfsMagic && !arguments.quick) {
    return absl::FailedPreconditionError(
        parent + " is a tmpfs, which is no disk; name a directory of one by --directory");
  }
  return parent + "/thermocline-bench-cold-" + std::to_string(getpid());
}

absl::Status Run(const Arguments& arguments, Report& report) {
  for (const int threads : {1, kMostThreads}) {
    std::printf("reading with %d: %s\n", threads, PinningOf(threads).c_str());
  }
  // A tier that gives up what others look for warns of each block.
  TC_RETURN_IF_ERROR(SetUpLog({.level = LogLevel::kError}));
  TC_ASSIGN_OR_RETURN(const std::string directory, DirectoryOf(arguments));
  const ScratchDirectory scratch(directory);
  const size_t content_bytes = arguments.quick ? 32 * MiB : 256 * MiB;
  TC_ASSIGN_OR_RETURN(const SharedPages content, SharedPages::Make(content_bytes));
  FillContent(content.bytes());
  const std::string content_file = directory + "/content";
  std::ofstream(content_file, std::ios::binary)
      .write(reinterpret_cast<const char*>(content.bytes().data()),
             static_cast<std::streamsize>(content_bytes));
  const bool has_fio = IsThereOrSkipped("fio", FioMissing());
  const bool has_lmcache = IsThereOrSkipped(
      "lmcache", arguments.quick ? "left out of the quick form" : LmcacheMissing());
  const ColdBench bench{.directory = directory,
                        .content = content.bytes(),
                        .content_file = content_file,
                        .quick = arguments.quick,
                        .has_fio = has_fio,
                        .has_lmcache = has_lmcache,
                        .report = report};
  const std::pair<const char*, absl::Status (*)(const ColdBench&)> parts[] = {
      {"throughput", AddThroughput},
      {"beside", AddBesideWriter},
      {"churn", AddChurn},
      {"opening", AddOpening},
      {"ack", AddAck},
      {"traces", AddTraces},
  };
  for (const auto& [name, part] : parts) {
    if (arguments.only.empty() || arguments.only == name) TC_RETURN_IF_ERROR(part(bench));
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace thermocline::bench

int main(int argc, char** argv) {
  return thermocline::bench::RunBenchmark(argc, argv, thermocline::bench::Run);
}
