// Damage done to the files of a cold tier while no daemon has them open.
#pragma once
#include <string>

namespace thermocline::faults {

/// Files of a store, each of which another part of it trusts.
enum class StoreFile { kSegment, kEntries, kLog, kManifest, kCurrent };

/// Turns one bit over in the largest file of that kind below `directory`, `at` of the way through
/// it (0 to 1; of a segment, through its last 4 KiB, which are its index). Its name; "": none.
std::string FlipBit(const std::string& directory, StoreFile kind, double at);
/// Removes it. Its name; "": none.
std::string RemoveFile(const std::string& directory, StoreFile kind);

}  // namespace thermocline::faults
