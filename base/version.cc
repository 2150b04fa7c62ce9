#include "base/version.h"

namespace thermocline {

std::string_view Version() { return TC_VERSION; }

}  // namespace thermocline
