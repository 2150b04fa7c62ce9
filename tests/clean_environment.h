// Whoever includes this starts from a clean environment: no THERMOCLINE_* variable of the developer
// and no /etc/thermocline/thermocline.toml of the machine reaches a test, a benchmark or the
// programs that they start. For what starts daemons; what a test sets itself comes later and stays.
#pragma once
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace thermocline {

inline const bool kEnvironmentIsClean = [] {
  std::vector<std::string> names;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (text.rfind("THERMOCLINE_CPU=", 0) == 0) continue;  // given for this run: which kernels
    if (text.rfind("THERMOCLINE_", 0) == 0) names.emplace_back(text.substr(0, text.find('=')));
  }
  for (const std::string& name : names) ::unsetenv(name.c_str());
  ::setenv("THERMOCLINE_CONFIG", "/dev/null", 1);
  return true;
}();

}  // namespace thermocline
