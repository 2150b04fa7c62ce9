// Names out of hostile files, fit for an error's text.
#pragma once
#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include <string>
#include <string_view>

namespace thermocline {

/// `name` in quotes: control bytes and whatever is not ASCII escaped, cut after 80 bytes.
inline std::string Printable(std::string_view name) {
  constexpr size_t kShown = 80;
  const std::string_view shown = name.substr(0, kShown);
  return absl::StrCat("'", absl::CHexEscape(absl::string_view(shown.data(), shown.size())),
                      name.size() > kShown ? "...'" : "'");
}

}  // namespace thermocline
