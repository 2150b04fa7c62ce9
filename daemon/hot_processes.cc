#include "daemon/hot_processes.h"

#include <sys/signalfd.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "base/file_util.h"
#include "base/log.h"
#include "base/units.h"
#include "catalog/arena.h"
#include "daemon/service_notify.h"
#include "tiers/device_mover.h"
#include "tiers/device_mover_lock.h"
#include "tiers/device_tier.h"

namespace thermocline {
namespace {

constexpr std::chrono::milliseconds kCustodianPatience{5000};
constexpr std::chrono::milliseconds kFormerMoverPatience{5000};

constexpr size_t kMoverArguments = 3;

std::vector<std::string> MoverCommand(const LogOptions& log) {
  return {"/proc/self/exe", "--mover", std::to_string(static_cast<int>(log.level)),
          std::to_string(log.json ? 1 : 0), log.file};
}

bool IsSocket(int fd) {
  struct stat found {};
  return ::fstat(fd, &found) == 0 && S_ISSOCK(found.st_mode);
}

}  // namespace

absl::Status RunCustodian(const DaemonOptions& options, const sigset_t& signals) {
  if (options.hot_capacity_bytes == 0) {
    return absl::InvalidArgumentError(
        "there is no device memory to keep: set hot_capacity, for the daemon too");
  }
  const UniqueFd stop(::signalfd(-1, &signals, SFD_CLOEXEC));
  if (!stop) return ErrnoStatus(errno, "signalfd");
  const std::string directory = std::filesystem::path(options.vram_socket).parent_path().string();
  if (!directory.empty()) {
    TC_RETURN_IF_ERROR(Annotate(MakeDirectories(directory, 0700), "directory of --vram-socket"));
  }
  TC_ASSIGN_OR_RETURN(const auto custodian,
                      DeviceCustodian::Open({.socket_path = options.vram_socket,
                                             .capacity_bytes = options.hot_capacity_bytes,
                                             .chunk_bytes = kDefaultChunkBytes,
                                             .device = options.hot_device}));
  LogEvent(LogLevel::kInfo, "custodian_ready",
           {{"socket", options.vram_socket},
            {"device", options.hot_device},
            {"capacity", FormatBytes(options.hot_capacity_bytes)}});
  NotifyReady("keeps device memory at " + options.vram_socket);
  return custodian->Serve(stop.get());
}

absl::StatusOr<int> RunMover(std::span<char* const> arguments) {
  if (arguments.size() != kMoverArguments || !IsSocket(MoverProcess::kSocket)) {
    return absl::InvalidArgumentError("--mover is for the daemon alone, which starts its mover");
  }
  SetUpLog({.level = static_cast<LogLevel>(std::atoi(arguments[0])),
            .json = std::atoi(arguments[1]) != 0,
            .file = arguments[2]})
      .IgnoreError();  // then it goes to standard error
  return RunDeviceMover(MoverProcess::kSocket, MoverProcess::kLock);
}

absl::Status HotProcesses::AddTo(StackOptions& stack) {
  const std::string directory =
      std::filesystem::path(stack.arena_metadata_path).parent_path().string();
  const std::string lock_path = directory + "/mover.lock";
  MutexLock lock(mutex_);
  const uint32_t pool = tenants_++;
  if (pool == 0) TC_RETURN_IF_ERROR(EndFormerMover(lock_path));
  if (options_.hot_capacity_bytes == 0) return absl::OkStatus();
  if (pool == 0) connected_ = Connect(lock_path);
  const uint64_t capacity = options_.hot_capacity_bytes / options_.tenants.size();
  stack.hot = [this](Task task) { copies_.PostCompletion(std::move(task)); };
  stack.open_hot = [name = stack.name, path = stack.arena_metadata_path + ".hot", capacity, pool,
                    connected = connected_, custodian = custodian_, mover = mover_](
                       const Arena& arena) -> absl::StatusOr<std::unique_ptr<DeviceTier>> {
    TC_RETURN_IF_ERROR(connected);
    TC_ASSIGN_OR_RETURN(std::unique_ptr<MovedDeviceMemory> memory,
                        MovedDeviceMemory::Open(custodian, mover, name, pool));
    memory->UseHost({arena.data(0), arena.mapped_bytes()}, arena.fd());
    return DeviceTier::Open({.metadata_path = path,
                             .capacity_bytes = capacity,
                             .chunk_bytes = custodian->view().chunk_bytes,
                             .memory = std::move(memory)});
  };
  return absl::OkStatus();
}

/// Of an earlier daemon that had a hot tier.
absl::Status HotProcesses::EndFormerMover(const std::string& lock_path) {
  std::error_code error;
  if (!std::filesystem::exists(lock_path, error)) return absl::OkStatus();
  TC_RETURN_IF_ERROR(LockMover(lock_path, kFormerMoverPatience).status());
  std::filesystem::remove(lock_path, error);
  return absl::OkStatus();
}

absl::Status HotProcesses::Connect(const std::string& lock_path) {
  auto custodian = CustodianClient::Connect(options_.vram_socket, kCustodianPatience);
  if (absl::IsUnavailable(custodian.status())) {
    return absl::UnavailableError("no custodian answers at " + options_.vram_socket +
                                  "; start thermoclined --vram before the daemon");
  }
  TC_RETURN_IF_ERROR(custodian.status());
  custodian_ = *std::move(custodian);
  TC_ASSIGN_OR_RETURN(mover_, MoverProcess::Open({.command = MoverCommand(options_.log),
                                                  .device = custodian_->view().device,
                                                  .chunk_bytes = custodian_->view().chunk_bytes,
                                                  .lock_path = lock_path,
                                                  .former_patience = kFormerMoverPatience}));
  return absl::OkStatus();
}

}  // namespace thermocline
