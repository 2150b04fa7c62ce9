// What the device says of itself, and the words for errors. Internal.
#pragma once

namespace thermocline::fakecuda {

/// False if there is no such attribute here.
bool AttributeOf(int attribute, int* value);

/// Null for a number that is no error here. `driver`: the driver's name of it, not the runtime's.
const char* ErrorName(int error, bool driver);
const char* ErrorText(int error);

}  // namespace thermocline::fakecuda
