// The version of this build, as project() in CMakeLists.txt has it.
#pragma once
#include <string_view>

namespace thermocline {

std::string_view Version();

}  // namespace thermocline
