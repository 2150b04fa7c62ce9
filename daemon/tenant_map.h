// Whose client a process is: from its user and groups, as the kernel tells them, and from nothing
// that it says. A user that a tenant names is that tenant's; else its primary group decides, else
// the others, which must not name two tenants. The daemon's own user and root, where no tenant
// names them, are the default tenant's; everybody else is refused, or is the default tenant's too.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/units.h"
#include "daemon/session_socket.h"
#include "tiers/block_envelope.h"
#include "tiers/stack_options.h"

namespace thermocline {

inline constexpr char kDefaultTenant[] = "default";
inline constexpr size_t kMaxTenants = 64;
/// Warm memory and disk space are lent to tenants in units of this.
inline constexpr uint64_t kTenantUnitBytes = 64 * MiB;

struct TenantOptions {
  std::string name;
  std::string origin = {};  // where it was configured, for messages; "": nowhere
  std::vector<uid_t> uids = {};
  std::vector<gid_t> gids = {};
  // In units; of the only tenant they say nothing, as it has everything.
  uint64_t warm_share_units = 0;
  uint64_t warm_quota_units = 0;
  uint64_t cold_share_units = 0;
  uint64_t cold_quota_units = 0;
  bool copies = false;  // its clients do not fill slots themselves
  Durability durability = Durability::kWriteBack;
  // How its blocks lie on disk; a source of keys without file and command is none.
  Codec cold_codec = Codec::kNone;
  KeySource::Options cold_keys = {};
};

/// Thread: any.
class TenantMap {
 public:
  /// Errors: InvalidArgument for a name that is no file's name or is there twice, a user or group
  ///         that two tenants name, a tenant too many.
  static absl::StatusOr<TenantMap> Make(const std::vector<TenantOptions>& tenants,
                                        bool others_are_default, uid_t daemon_uid);

  /// Which of the tenants. Errors: PermissionDenied, with what to do.
  absl::StatusOr<size_t> Find(const PeerUser& user) const;
  /// Whether users other than the daemon's and root are served.
  bool serves_others() const { return serves_others_; }

 private:
  TenantMap(bool others_are_default, uid_t daemon_uid)
      : others_are_default_(others_are_default), daemon_uid_(daemon_uid) {}
  absl::StatusOr<size_t> FindByGroup(const PeerUser& user) const;
  absl::StatusOr<size_t> FindOther(uid_t uid) const;

  bool others_are_default_;
  uid_t daemon_uid_;
  bool serves_others_ = false;
  std::vector<std::string> names_;
  std::map<uid_t, size_t> by_uid_;
  std::map<gid_t, size_t> by_gid_;
};

}  // namespace thermocline
