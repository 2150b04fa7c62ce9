// Stores that cannot be used, under a name of their own beside the one that is:
//
//   <directory>/quarantine-<seconds>[-<nth of that second>]
#pragma once
#include <string>
#include <vector>

#include "base/status.h"

namespace thermocline {

/// Renames the store away and says so in the log. The database must be closed.
/// Errors: of the rename. Answers the new name.
absl::StatusOr<std::string> SetStoreAside(const std::string& directory, const std::string& why);

/// Those that were, the newest last.
std::vector<std::string> StoresAside(const std::string& directory);

/// Removes one, and says so in the log.
absl::Status RemoveStoreAside(const std::string& store, const std::string& why);

}  // namespace thermocline
