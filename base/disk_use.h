// What a directory takes of the disk, as the disk counts it.
#pragma once
#include <cstdint>
#include <string>

namespace thermocline {

/// The blocks of everything below `path` and of itself, in bytes; a file with several names counts
/// once. What comes and goes meanwhile may be counted or not; what is not there is nothing.
uint64_t DiskBytes(const std::string& path);

}  // namespace thermocline
