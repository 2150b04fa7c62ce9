// Errors are values: absl::Status and absl::StatusOr, with the two macros that pass them on and the
// translation of errno. Every error text says what was wrong, where, and what to do about it.
#pragma once
#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <string>
#include <string_view>

namespace thermocline {

/// The status of a failed system call: "open /x/y: Permission denied" with the canonical code of
/// `error_number`. `what` names the call and its object; `advice`, if any, says what to do and
/// follows after a semicolon.
[[nodiscard]] absl::Status ErrnoStatus(int error_number, std::string_view what,
                                       std::string_view advice = {});

/// `status` with `prefix` and ": " before its message; OK stays OK.
[[nodiscard]] absl::Status Annotate(const absl::Status& status, std::string_view prefix);

}  // namespace thermocline

#define TC_RETURN_IF_ERROR(expression)                                               \
  do {                                                                               \
    if (absl::Status tc_status_ = (expression); !tc_status_.ok()) return tc_status_; \
  } while (false)

#define TC_ASSIGN_OR_RETURN(target, expression) \
  TC_ASSIGN_OR_RETURN_(TC_CONCAT_(tc_or_, __LINE__), target, expression)
#define TC_ASSIGN_OR_RETURN_(temporary, target, expression)  \
  auto temporary = (expression);                             \
  if (!temporary.ok()) return std::move(temporary).status(); \
  target = *std::move(temporary)
#define TC_CONCAT_(a, b) TC_CONCAT_INNER_(a, b)
#define TC_CONCAT_INNER_(a, b) a##b
