#include "tiers/stack_state.h"

#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/file_util.h"
#include "base/log.h"
#include "base/units.h"

namespace thermocline {
namespace {

using Json = nlohmann::json;

constexpr const char* kStateFormat = "thermocline-state.v1";
constexpr uint64_t kMaxStateBytes = 64 * MiB;

Json SpecToJson(const SpaceSpec& spec) {
  Json parts = Json::array();
  for (const PartSpec& part : spec.parts) {
    parts.push_back({{"name", part.name},
                     {"rank", part.rank},
                     {"block_bytes", part.block_bytes},
                     {"window_tokens", part.window_tokens}});
  }
  return {{"model", spec.model},
          {"weights_sha256", ToHex(spec.weights_sha256)},
          {"kv_dtype", spec.kv_dtype},
          {"layers", spec.layers},
          {"kv_heads", spec.kv_heads},
          {"head_dim", spec.head_dim},
          {"block_tokens", spec.block_tokens},
          {"parts", parts},
          {"layout", spec.layout},
          {"rope", spec.rope},
          {"lora", spec.lora},
          {"salt", spec.salt},
          {"opaque_names", spec.opaque_names},
          {"key_bytes", spec.key_bytes},
          {"tenant", spec.tenant}};
}

Sha256 Sha256Of(const Json& hex) {
  const auto bytes = Sha256FromHex(hex.get<std::string>());
  return bytes.ok() ? *bytes : Sha256{};
}

SpaceSpec SpecFromJson(const Json& json) {
  SpaceSpec spec;
  spec.model = json.at("model");
  spec.weights_sha256 = Sha256Of(json.at("weights_sha256"));
  spec.kv_dtype = json.at("kv_dtype");
  spec.layers = json.at("layers");
  spec.kv_heads = json.at("kv_heads");
  spec.head_dim = json.at("head_dim");
  spec.block_tokens = json.at("block_tokens");
  for (const Json& entry : json.at("parts")) {
    PartSpec part;
    part.name = entry.at("name");
    part.rank = entry.at("rank");
    part.block_bytes = entry.at("block_bytes");
    part.window_tokens = entry.at("window_tokens");
    spec.parts.push_back(std::move(part));
  }
  spec.layout = json.at("layout");
  spec.rope = json.at("rope");
  spec.lora = json.at("lora");
  spec.salt = json.at("salt");
  spec.opaque_names = json.at("opaque_names");
  spec.key_bytes = json.at("key_bytes");
  spec.tenant = json.at("tenant");
  return spec;
}

StackState StateFromJson(const Json& json) {
  StackState state;
  state.epoch = json.at("epoch");
  for (const Json& entry : json.at("spaces")) {
    SpaceSpec spec = SpecFromJson(entry);
    if (spec.Validate().ok()) state.spaces.push_back(std::move(spec));
  }
  for (const Json& entry : json.at("pins")) {
    StackState::Pin pin;
    pin.pin = entry.at("pin");
    pin.place_id = entry.at("place_id");
    pin.space.bytes = Sha256Of(entry.at("space"));
    pin.depth = entry.at("depth");
    pin.expires_unix_ms = entry.at("expires_unix_ms");
    pin.tier = entry.at("tier").get<int>() == static_cast<int>(TierKind::kWarm) ? TierKind::kWarm
                                                                                : TierKind::kNone;
    if (pin.pin != 0 && pin.place_id != 0) state.pins.push_back(pin);
  }
  return state;
}

}  // namespace

std::string FormatState(const StackState& state) {
  Json spaces = Json::array();
  for (const SpaceSpec& spec : state.spaces) spaces.push_back(SpecToJson(spec));
  Json pins = Json::array();
  for (const StackState::Pin& pin : state.pins) {
    pins.push_back({{"pin", pin.pin},
                    {"place_id", pin.place_id},
                    {"space", pin.space.Hex()},
                    {"depth", pin.depth},
                    {"expires_unix_ms", pin.expires_unix_ms},
                    {"tier", static_cast<int>(pin.tier)}});
  }
  const Json json = {
      {"format", kStateFormat}, {"epoch", state.epoch}, {"spaces", spaces}, {"pins", pins}};
  // Texts of a specification come as UTF-8; any that did not would be another space after this.
  return json.dump(1, ' ', true, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<StackState> ParseState(const std::string& text) {
  try {
    const Json json = Json::parse(text);
    if (json.at("format") != kStateFormat) {
      return absl::DataLossError("state file: its form is not " + std::string(kStateFormat));
    }
    return StateFromJson(json);
  } catch (const Json::exception& error) {
    return absl::DataLossError("state file: " + std::string(error.what()));
  }
}

absl::StatusOr<StackState> ReadStateFile(const std::string& path) {
  const auto text = ReadFile(path, kMaxStateBytes);
  if (absl::IsNotFound(text.status())) return StackState{};
  TC_RETURN_IF_ERROR(text.status());
  auto state = ParseState(*text);
  if (state.ok()) return state;
  const std::string aside = path + ".damaged";
  if (std::rename(path.c_str(), aside.c_str()) != 0) return ErrnoStatus(errno, "rename " + path);
  LogEvent(LogLevel::kWarning, "state_set_aside",
           {{"reason", std::string(state.status().message())}, {"now_at", aside}});
  return StackState{};
}

}  // namespace thermocline
