// Small files, whole and safely: configuration, tokens, manifests.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"
#include "base/unique_fd.h"

namespace thermocline {

/// The whole file. Works on files without a size (/proc) too.
/// Errors: of the system calls, with the path; ResourceExhausted beyond `limit_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t limit_bytes);

/// Replaces `path` by a file of these bytes; after a crash at any moment it has either its old
/// content or the new: temporary file in the same directory, fsync, rename, fsync of the directory.
/// Thread: one writer per path; the temporary file is `path`.tmp.
absl::Status WriteFileAtomically(const std::string& path, std::string_view content,
                                 mode_t mode = 0600);

/// Makes `path` and its missing parents with `mode`. A directory that is there keeps its mode.
/// Errors: of mkdir, with the path; InvalidArgument when something else has that name.
absl::Status MakeDirectories(const std::string& path, mode_t mode = 0700);

/// An anonymous file of memory whose size can change no more, so that no process that it is handed
/// to can cut it under the others. `name` is for people: "control area".
/// Errors: of the system calls, with the name.
absl::StatusOr<UniqueFd> MakeSealedMemory(const std::string& name, uint64_t bytes);

/// Makes renames and unlinks in `directory` durable.
absl::Status SyncDirectory(const std::string& directory);

}  // namespace thermocline
