#include "client/thermoctl_file.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <span>

#include "base/file_util.h"
#include "base/units.h"
#include "hashing/sha256.h"

namespace thermocline {
inline namespace client_v1 {
namespace {

constexpr std::array<char, 8> kMagic = {'T', 'C', 'F', 'I', 'L', 'E', '0', '1'};
constexpr uint64_t kMaxFileBytes = 2 * GiB - kFileBlockBytes;  // 32,768 places with the header
constexpr uint32_t kPutBatch = 64;
constexpr std::chrono::milliseconds kReserveWait{10'000};

struct FileHeader {
  std::array<char, 8> magic;
  uint64_t bytes;
  Sha256 sha256;
};
static_assert(sizeof(FileHeader) == 48);

uint32_t PlacesOf(uint64_t bytes) {
  return static_cast<uint32_t>(1 + RoundUp(bytes, kFileBlockBytes) / kFileBlockBytes);
}

absl::Status Gone() {
  return absl::AbortedError("the daemon was lost, or took the lease back; try again");
}

/// The header under this name, read through `lease` at depth 1.
absl::StatusOr<FileHeader> ReadFileHeader(Lease& lease, const std::string& name) {
  FileHeader header{};
  TC_ASSIGN_OR_RETURN(const uint32_t depth, lease.Load());
  const std::span<const std::byte> view = depth > 0 ? lease.View(0) : std::span<const std::byte>();
  if (view.empty()) return absl::NotFoundError("no file named '" + name + "' is in the cache");
  std::memcpy(&header, view.data(), sizeof header);
  if (!lease.StillValid()) return Gone();
  if (header.magic != kMagic || header.bytes > kMaxFileBytes) {
    return absl::DataLossError("what lies under the name '" + name + "' is no file of thermoctl's");
  }
  return header;
}

/// The bytes of place `place` of a file, without the padding.
std::span<const std::byte> Piece(std::span<const std::byte> content, uint32_t place) {
  const uint64_t start = uint64_t{place - 1} * kFileBlockBytes;
  return content.subspan(start, std::min(kFileBlockBytes, content.size() - start));
}

/// Commits what lacks of [0, places).
absl::Status PutPlaces(const Space& space, Lease& lease, std::span<const std::string> keys,
                       uint32_t places, const FileHeader& header,
                       std::span<const std::byte> content) {
  while (lease.depth() < places) {
    const uint32_t first = lease.depth();
    TC_ASSIGN_OR_RETURN(std::vector<Reservation> slots,
                        space.Reserve(std::min(kPutBatch, places - first), 0, kReserveWait));
    for (uint32_t i = 0; i < slots.size(); ++i) {
      const std::span<std::byte> to = slots[i].bytes();
      std::span<const std::byte> from = std::as_bytes(std::span(&header, 1));
      if (first + i > 0) from = Piece(content, first + i);
      std::memcpy(to.data(), from.data(), from.size());
      std::memset(to.data() + from.size(), 0, to.size() - from.size());
    }
    const std::span<const std::string> names = keys.subspan(first, slots.size());
    TC_RETURN_IF_ERROR(lease.Commit(names, std::move(slots)));
  }
  return absl::OkStatus();
}

absl::Status SameContent(Lease& lease, const std::string& name, const FileHeader& header) {
  TC_ASSIGN_OR_RETURN(const FileHeader present, ReadFileHeader(lease, name));
  if (present.bytes == header.bytes && present.sha256 == header.sha256) return absl::OkStatus();
  return absl::AlreadyExistsError("other content is in the cache under the name '" + name +
                                  "'; delete it first: thermoctl delete --name " + name);
}

}  // namespace

SpaceSpec FileSpace() {
  SpaceSpec spec;
  spec.model = "thermoctl files";
  spec.kv_dtype = "bytes";
  spec.layers = 1;
  spec.kv_heads = 1;
  spec.head_dim = 8;
  spec.block_tokens = 16;
  spec.parts = {{.name = "bytes", .block_bytes = kFileBlockBytes}};
  spec.layout = "file.v1";
  spec.opaque_names = true;
  spec.key_bytes = kSha256Bytes;
  return spec;
}

std::vector<std::string> FileKeys(const std::string& name, uint32_t places) {
  std::vector<std::string> keys;
  for (uint32_t place = 0; place < places; ++place) {
    const Sha256 key = Sha256Builder().Field(std::string_view(name)).Number(place).Finish();
    keys.emplace_back(key.begin(), key.end());
  }
  return keys;
}

absl::StatusOr<FileResult> PutFile(const Space& space, const std::string& name,
                                   const std::string& path) {
  TC_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  const std::span<const std::byte> content = std::as_bytes(std::span(text.data(), text.size()));
  FileHeader header{.magic = kMagic, .bytes = content.size(), .sha256 = {}};
  header.sha256 = Sha256Builder().Raw(content).Finish();
  const std::vector<std::string> keys = FileKeys(name, PlacesOf(content.size()));

  TC_ASSIGN_OR_RETURN(Lease lease, space.Match(keys));
  FileResult result{.bytes = content.size(),
                    .places = static_cast<uint32_t>(keys.size()),
                    .sha256 = ToHex(header.sha256)};
  TC_ASSIGN_OR_RETURN(result.places_before, lease.Load());
  // The header binds the name to its content; somebody else's may be there first. Only behind an
  // equal one are blocks put, so they are equal too.
  TC_RETURN_IF_ERROR(PutPlaces(space, lease, keys, 1, header, content));
  TC_RETURN_IF_ERROR(SameContent(lease, name, header));
  TC_RETURN_IF_ERROR(PutPlaces(space, lease, keys, result.places, header, content));
  return result;
}

absl::StatusOr<FileResult> GetFile(const Space& space, const std::string& name,
                                   const std::string& path) {
  TC_ASSIGN_OR_RETURN(Lease first, space.Match(FileKeys(name, 1)));
  TC_ASSIGN_OR_RETURN(const FileHeader header, ReadFileHeader(first, name));
  const uint32_t places = PlacesOf(header.bytes);
  TC_ASSIGN_OR_RETURN(Lease lease, space.Match(FileKeys(name, places)));
  FileResult result{.bytes = header.bytes, .places = places, .sha256 = ToHex(header.sha256)};
  TC_ASSIGN_OR_RETURN(const uint32_t depth, lease.Load());
  if (depth < places) {
    return absl::NotFoundError("of the " + std::to_string(places) + " blocks of '" + name +
                               "' only " + std::to_string(depth) + " are still in the cache");
  }
  std::string content(header.bytes, '\0');
  for (uint32_t place = 1; place < places; ++place) {
    const uint64_t start = uint64_t{place - 1} * kFileBlockBytes;
    const std::span<const std::byte> view = lease.View(place);
    if (view.empty()) return absl::DataLossError("block " + std::to_string(place) + " is damaged");
    std::memcpy(content.data() + start, view.data(),
                std::min(kFileBlockBytes, header.bytes - start));
  }
  if (!lease.StillValid()) return Gone();
  for (const BlockInfo& block : lease.blocks()) {
    if (block.matched_tier == BlockTier::kCold) ++result.places_cold;
  }
  const std::span<const std::byte> bytes = std::as_bytes(std::span(content.data(), content.size()));
  if (Sha256Builder().Raw(bytes).Finish() != header.sha256) {
    return absl::DataLossError("the content of '" + name +
                               "' does not have the SHA-256 of its put");
  }
  if (path == "-") {
    if (std::fwrite(content.data(), 1, content.size(), stdout) != content.size() ||
        std::fflush(stdout) != 0) {
      return ErrnoStatus(errno, "write to standard output");
    }
    return result;
  }
  struct stat found;
  if (::lstat(path.c_str(), &found) == 0 && !S_ISREG(found.st_mode)) {  // a device, a pipe, a link
    std::ofstream into(path, std::ios::binary);
    if (!into.write(content.data(), static_cast<std::streamsize>(content.size())).flush()) {
      return ErrnoStatus(errno, "write into " + path);
    }
    return result;
  }
  TC_RETURN_IF_ERROR(WriteFileAtomically(path, content, 0644));
  return result;
}

absl::StatusOr<uint32_t> FilePlaces(const Space& space, const std::string& name) {
  TC_ASSIGN_OR_RETURN(Lease lease, space.Match(FileKeys(name, 1)));
  TC_ASSIGN_OR_RETURN(const FileHeader header, ReadFileHeader(lease, name));
  return PlacesOf(header.bytes);
}

}  // namespace client_v1
}  // namespace thermocline
