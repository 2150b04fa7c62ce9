#include "engine/json_text.h"

#include <absl/strings/str_cat.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "engine/printable.h"

namespace thermocline {

using nlohmann::json;

absl::StatusOr<json> ParseJson(std::string_view text, std::string_view what) {
  std::string refusal;
  std::vector<std::set<std::string>> keys;  // of the objects that are open, outermost first
  // Once something is refused every further value is discarded, so that nothing grows.
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (!refusal.empty()) return false;
    switch (event) {
      case json::parse_event_t::object_start:
        keys.emplace_back();
        [[fallthrough]];
      case json::parse_event_t::array_start:
        if (depth >= kMaxJsonDepth) refusal = absl::StrCat("nested deeper than ", kMaxJsonDepth);
        break;
      case json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case json::parse_event_t::key:
        if (!keys.back().insert(parsed.get<std::string>()).second) {
          refusal = absl::StrCat("the key ", Printable(parsed.get<std::string>()), " occurs twice");
        }
        break;
      default:
        break;
    }
    return refusal.empty();
  };
  json value = json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (refusal.empty() && value.is_discarded()) refusal = "malformed JSON";
  if (refusal.empty()) return value;
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(what), ": ", refusal, "; the file is damaged, fetch it anew"));
}

}  // namespace thermocline
