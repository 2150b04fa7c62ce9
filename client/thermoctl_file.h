// Files as blocks, for scripts and for trying a daemon without a model: place 0 holds a header with
// the size and the SHA-256 of the content, the places behind it hold the content in pieces.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "client/client.h"

namespace thermocline {
inline namespace client_v1 {

inline constexpr uint64_t kFileBlockBytes = 64 * 1024;

/// The space of all files.
SpaceSpec FileSpace();
/// The keys of the first `places` places of the file `name`.
std::vector<std::string> FileKeys(const std::string& name, uint32_t places);

struct FileResult {
  uint64_t bytes = 0;
  uint32_t places = 0;         // the header's included
  uint32_t places_before = 0;  // that were here already, or that came from ...
  uint32_t places_cold = 0;    // ... the cold tier
  std::string sha256;
};

/// Errors: AlreadyExists when other content has this name; ResourceExhausted.
absl::StatusOr<FileResult> PutFile(const Space& space, const std::string& name,
                                   const std::string& path);
/// Writes `path` ("-": standard output) only when every byte is there and right.
/// Errors: NotFound when the file is not, or not wholly, in the cache.
absl::StatusOr<FileResult> GetFile(const Space& space, const std::string& name,
                                   const std::string& path);
/// How many places the file has. Errors: NotFound.
absl::StatusOr<uint32_t> FilePlaces(const Space& space, const std::string& name);

}  // namespace client_v1
}  // namespace thermocline
