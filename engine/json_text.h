// Strict JSON out of a hostile file: bounded depth, no duplicate keys, no exception.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "base/status.h"

namespace thermocline {

inline constexpr int kMaxJsonDepth = 16;

/// The one JSON value that is `text`. `what` (a file's path, say) begins every error's text.
/// Errors: InvalidArgument for anything but well-formed JSON, for a key that occurs twice in one
///         object, and for more than kMaxJsonDepth nested values.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, std::string_view what);

}  // namespace thermocline
