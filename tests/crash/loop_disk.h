// A disk whose power can be cut: ext4 over a loop device over a file. The shutdown ioctl of ext4,
// without a flush of its journal, leaves on the device what was synced and drops the rest, as a
// power loss does; until it is mounted anew every call on it fails with EIO. But for those that are
// under way: a sync that began before, or while the ioctl runs, may answer success for what is
// dropped (Linux 6.18, seen with write and fdatasync alone: the journal ends the transaction
// without writing it, and who waits for it finds it gone). Nobody sees such an answer where power
// fails, so answers from the beginning of a cut on show nothing.
//
// Mounted with noauto_da_alloc and rare commits, so that nothing is durable but what was synced.
// The mount lives in a namespace of this process's own, and the loop device goes with the mount:
// however the process ends, the kernel takes both away.
#pragma once
#include <cstdint>
#include <string>

#include "base/status.h"

namespace thermocline::crash {

/// Thread: one.
/// Owner:  of the mount; removes it in its destructor. The image is its directory's owner's.
class LoopDisk {
 public:
  /// Gives this process, and whom it starts from now on, mounts of their own. Before other threads.
  /// Errors: PermissionDenied: it takes root.
  static absl::Status OwnMounts();

  /// `image`: a file to make, best on a tmpfs; `directory` is where it will be mounted.
  LoopDisk(std::string image, std::string directory);
  ~LoopDisk();
  LoopDisk(const LoopDisk&) = delete;
  LoopDisk& operator=(const LoopDisk&) = delete;

  /// Makes the file system, and mounts it.
  /// Errors: why there can be none here.
  absl::Status Make(uint64_t bytes);
  /// What is written hangs until it is thawed, as for a snapshot; reads go on.
  absl::Status Freeze();
  absl::Status Thaw();
  /// The power is gone.
  absl::Status Cut();
  /// The power is back. When nobody uses it any more.
  absl::Status Remount();

 private:
  absl::Status Mount();
  absl::Status Unmount();
  absl::Status Ask(unsigned long request, void* argument, const char* what) const;

  const std::string image_;
  const std::string directory_;
  bool is_mounted_ = false;
  bool is_frozen_ = false;
};

}  // namespace thermocline::crash
