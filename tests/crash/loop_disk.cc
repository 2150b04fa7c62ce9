#include "tests/crash/loop_disk.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "base/file_util.h"
#include "base/unique_fd.h"
#include "tests/crash/daemon_under_test.h"

namespace thermocline::crash {
namespace {

using std::chrono::milliseconds;

// linux/fs/ext4/ext4.h: EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH.
constexpr unsigned long kShutdown = _IOR('X', 125, uint32_t);
constexpr uint32_t kWithoutLogFlush = 2;
constexpr const char* kMountOptions = "loop,noauto_da_alloc,commit=600";
constexpr milliseconds kToolPatience{120'000};
constexpr int kUnmountAttempts = 6000;  // whoever was killed lets go of its files a moment later
constexpr milliseconds kUnmountStep{10};

/// A program of the system, which says into the image's log what went wrong.
absl::Status RunTool(const std::vector<std::string>& command, const std::string& log) {
  const UniqueFd there(::open(command[0].c_str(), O_RDONLY | O_CLOEXEC));
  if (!there) return ErrnoStatus(errno, "open " + command[0]);
  const auto status = WaitFor(Spawn(command, log), kToolPatience);
  if (status && WIFEXITED(*status) && WEXITSTATUS(*status) == 0) return absl::OkStatus();
  std::string said = ReadFile(log, 64 << 10).value_or("");
  while (!said.empty() && said.back() == '\n') said.pop_back();
  return absl::UnavailableError(command[0] + ": " + said.substr(said.rfind('\n') + 1));
}

}  // namespace

absl::Status LoopDisk::OwnMounts() {
  if (::unshare(CLONE_NEWNS) != 0) return ErrnoStatus(errno, "unshare the mounts");
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return ErrnoStatus(errno, "make the mounts private");
  }
  return absl::OkStatus();
}

LoopDisk::LoopDisk(std::string image, std::string directory)
    : image_(std::move(image)), directory_(std::move(directory)) {}

LoopDisk::~LoopDisk() {
  if (is_frozen_) (void)Thaw();
  if (is_mounted_ && !Unmount().ok()) ::umount2(directory_.c_str(), MNT_DETACH);
}

absl::Status LoopDisk::Make(uint64_t bytes) {
  {
    const UniqueFd file(::open(image_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!file || ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
      return ErrnoStatus(errno, "make " + image_);
    }
  }
  TC_RETURN_IF_ERROR(RunTool({"/sbin/mkfs.ext4", "-q", "-m", "0", image_}, image_ + ".log"));
  return Mount();
}

absl::Status LoopDisk::Ask(unsigned long request, void* argument, const char* what) const {
  const UniqueFd root(::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (root && ::ioctl(root.get(), request, argument) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, std::string(what) + " the file system of " + directory_);
}

absl::Status LoopDisk::Cut() {
  uint32_t flags = kWithoutLogFlush;
  return Ask(kShutdown, &flags, "shut down");
}

absl::Status LoopDisk::Freeze() {
  TC_RETURN_IF_ERROR(Ask(FIFREEZE, nullptr, "freeze"));
  is_frozen_ = true;
  return absl::OkStatus();
}

absl::Status LoopDisk::Thaw() {
  TC_RETURN_IF_ERROR(Ask(FITHAW, nullptr, "thaw"));
  is_frozen_ = false;
  return absl::OkStatus();
}

absl::Status LoopDisk::Remount() {
  TC_RETURN_IF_ERROR(Unmount());
  return Mount();
}

absl::Status LoopDisk::Mount() {
  const std::vector<std::string> command = {"/bin/mount",  "-t",   "ext4",    "-o",
                                            kMountOptions, image_, directory_};
  TC_RETURN_IF_ERROR(RunTool(command, image_ + ".log"));
  is_mounted_ = true;
  return absl::OkStatus();
}

absl::Status LoopDisk::Unmount() {
  for (int attempt = 0; ::umount2(directory_.c_str(), 0) != 0; ++attempt) {
    if (errno != EBUSY || attempt == kUnmountAttempts) {
      return ErrnoStatus(errno, "unmount " + directory_);
    }
    std::this_thread::sleep_for(kUnmountStep);
  }
  is_mounted_ = false;
  return absl::OkStatus();
}

}  // namespace thermocline::crash
