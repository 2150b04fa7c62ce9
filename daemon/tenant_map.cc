#include "daemon/tenant_map.h"

#include <algorithm>
#include <optional>

namespace thermocline {
namespace {

constexpr size_t kMaxNameCharacters = 32;

absl::Status CheckName(const TenantOptions& tenant) {
  const auto is_plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  const std::string& name = tenant.name;
  if (!name.empty() && name.size() <= kMaxNameCharacters && is_plain(name[0]) &&
      std::all_of(name.begin(), name.end(),
                  [&](char c) { return is_plain(c) || c == '-' || c == '_'; })) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      tenant.origin + ": a tenant needs a name of 1 to " + std::to_string(kMaxNameCharacters) +
      " small letters, digits, - and _, a letter or digit first: name = \"team-a\"");
}

template <typename Id>
absl::Status Claim(const char* what, Id id, size_t index, const std::vector<TenantOptions>& tenants,
                   std::map<Id, size_t>& claimed) {
  const auto [at, fresh] = claimed.emplace(id, index);
  if (fresh) return absl::OkStatus();
  return absl::InvalidArgumentError(tenants[index].origin + ": " + what + " " + std::to_string(id) +
                                    " is claimed by tenant \"" + tenants[at->second].name +
                                    "\" already; leave it with one of the two");
}

}  // namespace

absl::StatusOr<TenantMap> TenantMap::Make(const std::vector<TenantOptions>& tenants,
                                          bool others_are_default, uid_t daemon_uid) {
  TenantMap map(others_are_default, daemon_uid);
  map.serves_others_ = others_are_default;
  if (tenants.size() > kMaxTenants) {
    return absl::InvalidArgumentError("there are " + std::to_string(tenants.size()) +
                                      " tenants; a daemon has " + std::to_string(kMaxTenants) +
                                      " at most");
  }
  for (size_t index = 0; index < tenants.size(); ++index) {
    const TenantOptions& tenant = tenants[index];
    TC_RETURN_IF_ERROR(CheckName(tenant));
    if (std::find(map.names_.begin(), map.names_.end(), tenant.name) != map.names_.end()) {
      return absl::InvalidArgumentError(tenant.origin + ": there is a tenant \"" + tenant.name +
                                        "\" already; choose another name");
    }
    map.names_.push_back(tenant.name);
    for (const uid_t uid : tenant.uids) {
      TC_RETURN_IF_ERROR(Claim("uid", uid, index, tenants, map.by_uid_));
      if (uid != daemon_uid && uid != 0) map.serves_others_ = true;
    }
    for (const gid_t gid : tenant.gids) {
      TC_RETURN_IF_ERROR(Claim("gid", gid, index, tenants, map.by_gid_));
      map.serves_others_ = true;
    }
  }
  return map;
}

absl::StatusOr<size_t> TenantMap::Find(const PeerUser& user) const {
  if (const auto named = by_uid_.find(user.uid); named != by_uid_.end()) return named->second;
  // What groups root and the daemon's user are in says little of whose work they do.
  if (user.uid == daemon_uid_ || user.uid == 0) return size_t{0};
  return FindByGroup(user);
}

absl::StatusOr<size_t> TenantMap::FindByGroup(const PeerUser& user) const {
  std::optional<size_t> found;
  for (size_t i = 0; i < user.gids.size(); ++i) {
    const auto named = by_gid_.find(user.gids[i]);
    if (named == by_gid_.end()) continue;
    if (i == 0) return named->second;  // the primary group
    if (found && *found != named->second) {
      return absl::PermissionDeniedError(
          "uid " + std::to_string(user.uid) + " is in groups of two tenants, \"" + names_[*found] +
          "\" and \"" + names_[named->second] +
          "\"; add it to the uids of one in the daemon's configuration");
    }
    found = named->second;
  }
  if (found) return *found;
  return FindOther(user.uid);
}

absl::StatusOr<size_t> TenantMap::FindOther(uid_t uid) const {
  if (others_are_default_) return size_t{0};
  const std::string user = "uid " + std::to_string(uid);
  if (serves_others_) {
    return absl::PermissionDeniedError("no tenant of this daemon names " + user +
                                       " or a group of it; add it to the uids of one in the "
                                       "daemon's configuration, or set other_users");
  }
  return absl::PermissionDeniedError("this daemon serves uid " + std::to_string(daemon_uid_) +
                                     " (and root), not " + user +
                                     "; run a daemon of your own, or name it to a tenant");
}

}  // namespace thermocline
