// TC_CHECK: programmer errors abort, in every build. One condition each, so that the line says
// which one failed.
#pragma once
#include <cstdio>
#include <cstdlib>

namespace thermocline {

[[noreturn]] inline void CheckFailed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace thermocline

#define TC_CHECK(condition) \
  ((condition) ? void(0) : ::thermocline::CheckFailed(#condition, __FILE__, __LINE__))
