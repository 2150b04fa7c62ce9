// The fake runtime's own calls, in a program for a GPU: none of what they ask for can be had there,
// so tests ask IsThere() first.
#include "base/check.h"
#include "tests/fakecuda/fake_cuda.h"

namespace thermocline::fakecuda {

bool IsThere() { return false; }
void FailCall(std::string_view, int, int, bool) { TC_CHECK(!"a GPU cannot be told to fail"); }
int CallCount(std::string_view) { TC_CHECK(!"a GPU counts no calls"); }
void SetDelay(CudaStream, int64_t) { TC_CHECK(!"a GPU cannot be told to wait"); }
void Restart() { TC_CHECK(!"a GPU is not begun anew"); }

}  // namespace thermocline::fakecuda
