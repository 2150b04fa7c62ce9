// The tokens by which clients on other machines are known: a file with one line a token,
//
//   HASH TENANT ROLE NAME      # e3b0c442...b855 default writer trainer-7
//
// HASH is the SHA-256 of the token in hexadecimal, so that the file gives nobody away; ROLE is
// "reader" or "writer"; NAME is for logs. A token is compared with every line in constant time. It
// is long and random (`openssl rand -hex 32`), which is why a plain hash will do.
#pragma once
#include <sys/stat.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "hashing/sha256.h"

namespace thermocline {

inline constexpr size_t kMinTokenCharacters = 32;
inline constexpr size_t kMaxTokenCharacters = 256;

struct RemoteToken {
  Sha256 hash{};
  std::string tenant;
  bool may_write = false;
  std::string name;
};

/// `tenants`: their names.
/// Errors: InvalidArgument "FILE:LINE: what is wrong", for a tenant that there is not, too.
absl::StatusOr<std::vector<RemoteToken>> ParseRemoteTokens(std::string_view content,
                                                           std::string_view file,
                                                           const std::vector<std::string>& tenants);

/// What is hashed in the file: SHA-256 of the token's characters, as sha256sum has it.
Sha256 HashOfRemoteToken(std::string_view token);

/// Thread: any.
class RemoteTokenFile {
 public:
  /// Errors: of reading and parsing; PermissionDenied when others may write the file.
  static absl::StatusOr<std::unique_ptr<RemoteTokenFile>> Open(std::string path,
                                                               std::vector<std::string> tenants);

  /// Reads the file again. What was read before stays when it is wrong now.
  absl::Status Reload() TC_EXCLUDES(mutex_);
  /// As Reload, when the file is not the one that was read last. Logs what is wrong, once.
  void ReloadIfChanged() TC_EXCLUDES(mutex_);

  std::optional<RemoteToken> Find(std::string_view token) const TC_EXCLUDES(mutex_);
  /// Whether there still is this very line, but for its name.
  bool Has(const RemoteToken& token) const TC_EXCLUDES(mutex_);

 private:
  struct Version {  // of the file
    ino_t inode = 0;
    off_t bytes = -1;
    timespec changed{};
    bool operator==(const Version& other) const {
      return inode == other.inode && bytes == other.bytes &&
             changed.tv_sec == other.changed.tv_sec && changed.tv_nsec == other.changed.tv_nsec;
    }
  };
  RemoteTokenFile(std::string path, std::vector<std::string> tenants)
      : path_(std::move(path)), tenants_(std::move(tenants)) {}
  static Version VersionOf(const struct stat& file);

  const std::string path_;
  const std::vector<std::string> tenants_;
  mutable Mutex mutex_;
  Version seen_ TC_GUARDED_BY(mutex_);
  std::vector<RemoteToken> tokens_ TC_GUARDED_BY(mutex_);
};

}  // namespace thermocline
