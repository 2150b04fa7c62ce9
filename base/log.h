// Structured logs: one line an event, as text for people or JSON for machines.
//
//   2026-01-31T12:00:00.123Z INFO space_opened space=3 model="smollm2 Q4_1" parts=1
//   {"time":"2026-01-31T12:00:00.123Z","level":"info","event":"space_opened","space":3,...}
#pragma once
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

#include "base/status.h"

namespace thermocline {

enum class LogLevel { kDebug, kInfo, kWarning, kError, kOff };

struct LogOptions {
  LogLevel level = LogLevel::kInfo;
  bool json = false;
  std::string file;  // appended to; "" = standard error
};

/// Sets the process's log. Until it is called, events of level info and above go to standard error
/// as text.
/// Errors: the file cannot be opened; the log stays as it was.
/// Thread: any.
absl::Status SetUpLog(const LogOptions& options);

/// One value of an event. Borrows text until the call returns.
class LogValue {
 public:
  LogValue(std::string_view text) : value_(text) {}
  LogValue(const std::string& text) : value_(std::string_view(text)) {}
  LogValue(const char* text) : value_(std::string_view(text)) {}
  LogValue(const absl::Status& status)  // its message
      : value_(std::string_view(status.message().data(), status.message().size())) {}
  LogValue(bool value) : value_(value) {}
  LogValue(double value) : value_(value) {}
  template <std::signed_integral T>
  LogValue(T value) : value_(static_cast<int64_t>(value)) {}
  template <std::unsigned_integral T>
  LogValue(T value) : value_(static_cast<uint64_t>(value)) {}

  const auto& get() const { return value_; }

 private:
  std::variant<std::string_view, bool, double, int64_t, uint64_t> value_;
};

struct LogField {
  std::string_view key;  // [a-z0-9_]+
  LogValue value;
};

/// LogEvent(LogLevel::kInfo, "space_opened", {{"space", number}, {"model", name}});
/// Thread: any. Never throws; a log that cannot be written is silent.
void LogEvent(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});

/// The line that LogEvent would write, without the newline: for tests.
std::string FormatEvent(bool json, std::string_view time, LogLevel level, std::string_view event,
                        std::initializer_list<LogField> fields);

}  // namespace thermocline
