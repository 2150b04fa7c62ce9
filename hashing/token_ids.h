// Token ids as people and scripts write them: "1,2,3". Every command line reads them by this one
// rule, which guesses nothing: a list that was cut or misspelt would name another prompt.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace thermocline {

/// Whole decimal numbers from 0 to 2147483647 between single commas, between blanks, or both; white
/// space at the ends is no part of it. Nothing at all is no id.
/// Errors: InvalidArgument that says which id, counted from 1, of `where` (a list, a file) is
/// wrong.
absl::StatusOr<std::vector<int32_t>> ParseTokenIds(std::string_view text, const std::string& where);

}  // namespace thermocline
