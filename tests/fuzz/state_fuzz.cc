// The daemon reads its state file at every start, whoever wrote to it meanwhile: any bytes give a
// state or an error, a state holds only spaces and pins that make sense, and what is written of it
// reads back the same. Whoever means harm gets the checksum right, and so does this.
#include <absl/strings/str_format.h>

#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "hashing/checksum.h"
#include "tiers/stack_state.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace thermocline;
  std::string whole(reinterpret_cast<const char*>(data), size);
  (void)ParseState(whole);
  const uint64_t checksum = Checksum(std::as_bytes(std::span(whole)));
  whole += absl::StrFormat("\"xxh3:%016x\"\n", checksum);
  const auto state = ParseState(whole);
  if (!state.ok()) {
    Require(!state.status().message().empty());
    return 0;
  }
  for (const SpaceSpec& spec : state->spaces) Require(spec.Validate().ok());
  for (const StackState::Pin& pin : state->pins) {
    Require(pin.pin != 0 && pin.place_id != 0);
    Require(pin.tier == TierKind::kNone || pin.tier == TierKind::kWarm);
  }
  const std::string text = FormatState(*state);
  const auto again = ParseState(text);
  Require(again.ok() && FormatState(*again) == text);
  Require(again->spaces.size() == state->spaces.size() && again->pins.size() == state->pins.size());
  for (size_t i = 0; i < state->spaces.size(); ++i) {
    Require(FingerprintOf(again->spaces[i]) == FingerprintOf(state->spaces[i]));
  }
  return 0;
}
