// spdlog owns the sinks and their locks; the line is composed here, because its own JSON would be a
// pattern that quotes nothing.
#include "base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <memory>

#include "base/mutex.h"

namespace thermocline {
namespace {

struct Log {
  std::shared_ptr<spdlog::logger> logger;
  bool json = false;
};

class CurrentLog {
 public:
  CurrentLog() { log_.logger = MakeLogger(std::make_shared<spdlog::sinks::stderr_sink_mt>()); }

  static std::shared_ptr<spdlog::logger> MakeLogger(spdlog::sink_ptr sink) {
    auto logger = std::make_shared<spdlog::logger>("thermocline", std::move(sink));
    logger->set_pattern("%v");
    logger->set_level(spdlog::level::trace);
    logger->flush_on(spdlog::level::trace);
    return logger;
  }

  Log Get() {
    MutexLock lock(mutex_);
    return log_;
  }
  void Set(Log log, LogLevel level) {
    MutexLock lock(mutex_);
    log_ = std::move(log);
    level_.store(level, std::memory_order_relaxed);
  }
  bool Wants(LogLevel level) const { return level >= level_.load(std::memory_order_relaxed); }

 private:
  Mutex mutex_;
  Log log_ TC_GUARDED_BY(mutex_);
  std::atomic<LogLevel> level_{LogLevel::kInfo};
};

// Never destroyed: threads may log while the process ends.
CurrentLog& Current() {
  static auto& log = *std::make_unique<CurrentLog>().release();
  return log;
}

std::string NowText() {
  const auto now = std::chrono::system_clock::now();
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch());
  const std::time_t seconds = static_cast<std::time_t>(ms.count() / 1000);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[40];
  const size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(text + length, sizeof text - length, ".%03dZ", static_cast<int>(ms.count() % 1000));
  return text;
}

// Length of the well-formed UTF-8 sequence at the front of `text`, 0 when there is none.
size_t Utf8Length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  const size_t length = first < 0x80   ? 1
                        : first < 0xc2 ? 0
                        : first < 0xe0 ? 2
                        : first < 0xf0 ? 3
                        : first < 0xf5 ? 4
                                       : 0;
  if (length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if (length > 2) {  // overlong forms, surrogates, beyond U+10FFFF
    const unsigned char second = byte(1);
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
        (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) {
      return 0;
    }
  }
  return length;
}

// A JSON string. The text form quotes the same way, so that an event is one line whatever it holds.
void AppendQuoted(std::string& line, std::string_view text) {
  line += '"';
  while (!text.empty()) {
    const unsigned char c = static_cast<unsigned char>(text.front());
    const size_t length = Utf8Length(text);
    if (length == 0) {
      line += "\\ufffd";
    } else if (c == '"' || c == '\\') {
      line.append({'\\', static_cast<char>(c)});
    } else if (c == '\n') {
      line += "\\n";
    } else if (c < 0x20 || c == 0x7f) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", c);
      line += escape;
    } else {
      line.append(text.substr(0, length));
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  line += '"';
}

bool IsPlain(std::string_view text) {
  if (text.empty()) return false;
  for (const char c : text) {
    if (c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\') return false;
  }
  return true;
}

void AppendValue(std::string& line, const LogValue& value, bool json) {
  struct Visitor {
    std::string& line;
    bool json;
    void operator()(std::string_view text) const {
      if (!json && IsPlain(text)) {
        line.append(text);
      } else {
        AppendQuoted(line, text);
      }
    }
    void operator()(bool value) const { line += value ? "true" : "false"; }
    void operator()(double value) const {
      char text[32];
      std::snprintf(text, sizeof text, "%.6g", value);
      line += std::isfinite(value) || !json ? text : "null";
    }
    void operator()(int64_t value) const { line += std::to_string(value); }
    void operator()(uint64_t value) const { line += std::to_string(value); }
  };
  std::visit(Visitor{line, json}, value.get());
}

const char* LevelName(LogLevel level, bool json) {
  switch (level) {
    case LogLevel::kDebug:
      return json ? "debug" : "DEBUG";
    case LogLevel::kInfo:
      return json ? "info" : "INFO";
    case LogLevel::kWarning:
      return json ? "warning" : "WARNING";
    default:
      return json ? "error" : "ERROR";
  }
}

}  // namespace

absl::Status SetUpLog(const LogOptions& options) {
  spdlog::sink_ptr sink;
  try {
    if (options.file.empty()) {
      sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    } else {
      sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(options.file);
    }
  } catch (const spdlog::spdlog_ex& error) {
    return absl::InvalidArgumentError("log file " + options.file + " cannot be opened: " +
                                      error.what() + "; check its directory and permissions");
  }
  Current().Set({CurrentLog::MakeLogger(std::move(sink)), options.json}, options.level);
  return absl::OkStatus();
}

std::string FormatEvent(bool json, std::string_view time, LogLevel level, std::string_view event,
                        std::initializer_list<LogField> fields) {
  std::string line;
  if (json) {
    line.append("{\"time\":\"").append(time).append("\",\"level\":\"");
    line.append(LevelName(level, true)).append("\",\"event\":");
    AppendQuoted(line, event);
    for (const LogField& field : fields) {
      line += ',';
      AppendQuoted(line, field.key);
      line += ':';
      AppendValue(line, field.value, true);
    }
    line += '}';
  } else {
    line.append(time).append(" ").append(LevelName(level, false)).append(" ").append(event);
    for (const LogField& field : fields) {
      line.append(" ").append(field.key).append("=");
      AppendValue(line, field.value, false);
    }
  }
  return line;
}

void LogEvent(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  if (level == LogLevel::kOff || !Current().Wants(level)) return;
  const Log log = Current().Get();
  const std::string line = FormatEvent(log.json, NowText(), level, event, fields);
  log.logger->log(spdlog::level::info, spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace thermocline
