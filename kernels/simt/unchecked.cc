// The checker's place in plain programs.
#include "kernels/simt/emulator_state.h"

namespace thermocline::simt {

bool IsChecked() { return false; }
void CollectAccesses(bool) {}
std::vector<AccessSite> TakeAccessSites() { return {}; }

void NoteAccess(const void*, size_t, Access, const void*) {}
void NoteLaunchBegin() {}
void NoteBlockBegin() {}
void NoteBlockEnd() {}
void NoteLaunchEnd() {}

}  // namespace thermocline::simt
