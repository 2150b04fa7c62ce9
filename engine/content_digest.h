// The identity of a model's weights: SHA-256 of their files' content, remembered. Hashing a model
// takes seconds to minutes, and every start of an engine needs the result to name its space, so it
// is kept in a small text file of the user's cache directory, a line a file: device, inode, size,
// mtime and ctime in nanoseconds, digest. ctime goes beyond the usual make rule because tools that
// copy over a file may set mtime back (archives often carry one fixed time), and a stale digest
// would let one model read another's KV; ctime cannot be set. A file changed within the last second
// is not remembered, for its times could then stay the same through a second change.
#pragma once
#include <cstddef>
#include <span>

#include "base/status.h"
#include "engine/mapped_file.h"
#include "hashing/sha256.h"

namespace thermocline {

/// SHA-256 of the one file's bytes; of several files, SHA-256 over their digests in the given
/// order. Remembered in $XDG_CACHE_HOME/thermocline/weights.sha256 (~/.cache where that is unset or
/// not absolute), at most kMaxRememberedFiles of them; a cache that is unreadable, unwritable or
/// damaged costs the time of hashing only. Thread: any; processes may race, the cache is replaced
/// as a whole. Errors: those of reading the files; Aborted when one changes while it is read.
/// Requires: files.
absl::StatusOr<Sha256> DigestOfFiles(std::span<const MappedFile> files);

inline constexpr size_t kMaxRememberedFiles = 256;

}  // namespace thermocline
