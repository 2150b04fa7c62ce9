#include "tiers/stack_state.h"

#include <absl/strings/str_format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <stdexcept>
#include <system_error>

#include "base/file_util.h"
#include "base/log.h"
#include "base/units.h"
#include "hashing/checksum.h"

namespace thermocline {
namespace {

using Json = nlohmann::json;

constexpr const char* kStateName = "/state.json";
constexpr const char* kCopyName = "/state.json.copy";
constexpr const char* kStateFormat = "thermocline-state.v1";
constexpr uint64_t kMaxStateBytes = 128 * MiB;  // 1024 spaces of 92 KiB, 65536 pins of 250 bytes

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

/// The library would cut a number that does not fit, or worse.
template <class Number>
void TakeNumber(const Json& json, const char* key, Number& out) {
  const Json& value = json.at(key);
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<Number>::max())) {
    throw std::out_of_range(std::string(key) + " is no whole number in its range");
  }
  out = value.get<Number>();
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
  TakeNumber(json, "layers", spec.layers);
  TakeNumber(json, "kv_heads", spec.kv_heads);
  TakeNumber(json, "head_dim", spec.head_dim);
  TakeNumber(json, "block_tokens", spec.block_tokens);
  for (const Json& entry : json.at("parts")) {
    PartSpec part;
    part.name = entry.at("name");
    TakeNumber(entry, "rank", part.rank);
    TakeNumber(entry, "block_bytes", part.block_bytes);
    TakeNumber(entry, "window_tokens", part.window_tokens);
    spec.parts.push_back(std::move(part));
  }
  spec.layout = json.at("layout");
  spec.rope = json.at("rope");
  spec.lora = json.at("lora");
  spec.salt = json.at("salt");
  spec.opaque_names = json.at("opaque_names");
  TakeNumber(json, "key_bytes", spec.key_bytes);
  spec.tenant = json.at("tenant");
  return spec;
}

StackState StateFromJson(const Json& json) {
  StackState state;
  TakeNumber(json, "epoch", state.epoch);
  for (const Json& entry : json.at("spaces")) {
    SpaceSpec spec = SpecFromJson(entry);
    if (spec.Validate().ok()) state.spaces.push_back(std::move(spec));
  }
  for (const Json& entry : json.at("pins")) {
    StackState::Pin pin;
    TakeNumber(entry, "pin", pin.pin);
    TakeNumber(entry, "place_id", pin.place_id);
    pin.space.bytes = Sha256Of(entry.at("space"));
    TakeNumber(entry, "depth", pin.depth);
    TakeNumber(entry, "expires_unix_ms", pin.expires_unix_ms);
    uint32_t tier = 0;
    TakeNumber(entry, "tier", tier);
    pin.tier = tier == static_cast<uint32_t>(TierKind::kWarm) ? TierKind::kWarm : TierKind::kNone;
    if (pin.pin != 0 && pin.place_id != 0) state.pins.push_back(pin);
  }
  return state;
}

/// The last line: a JSON text of its own, so that the usual tools read the file.
std::string ChecksumLine(std::string_view content) {
  return absl::StrFormat("\"xxh3:%016x\"\n", Checksum(std::as_bytes(std::span(content))));
}

/// nullopt: there is none, or it was set aside.
absl::StatusOr<std::optional<StackState>> ReadOne(const std::string& path) {
  std::error_code unknown;
  const bool too_large = std::filesystem::file_size(path, unknown) > kMaxStateBytes && !unknown;
  auto state = absl::StatusOr<StackState>(
      absl::DataLossError("state file: it has more than " + FormatBytes(kMaxStateBytes)));
  if (!too_large) {
    const auto text = ReadFile(path, kMaxStateBytes);
    if (absl::IsNotFound(text.status())) return std::nullopt;
    TC_RETURN_IF_ERROR(text.status());
    state = ParseState(*text);
  }
  if (state.ok()) return *std::move(state);
  const std::string aside = path + ".damaged";
  if (std::rename(path.c_str(), aside.c_str()) != 0) return ErrnoStatus(errno, "rename " + path);
  LogEvent(LogLevel::kWarning, "state_set_aside",
           {{"reason", std::string(state.status().message())}, {"now_at", aside}});
  return std::nullopt;
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
  const std::string content = json.dump(1, ' ', true, Json::error_handler_t::replace) + "\n";
  return content + ChecksumLine(content);
}

absl::StatusOr<StackState> ParseState(std::string_view text) {
  const size_t line_bytes = ChecksumLine("").size();
  const std::string_view content = text.substr(0, text.size() - std::min(text.size(), line_bytes));
  if (text.substr(content.size()) != ChecksumLine(content)) {
    return absl::DataLossError("state file: it is not what its checksum says");
  }
  try {
    const Json json = Json::parse(content);
    if (json.at("format") != kStateFormat) {
      return absl::DataLossError("state file: its form is not " + std::string(kStateFormat));
    }
    return StateFromJson(json);
  } catch (const std::exception& error) {  // the library's, and TakeNumber's
    return absl::DataLossError("state file: " + std::string(error.what()));
  }
}

absl::StatusOr<StackState> ReadStateFile(const std::string& data_dir) {
  for (const char* name : {kStateName, kCopyName}) {
    TC_ASSIGN_OR_RETURN(const auto state, ReadOne(data_dir + name));
    if (state) return *state;
  }
  return StackState{};
}

absl::Status WriteStateFile(const std::string& data_dir, const StackState& state) {
  const std::string text = FormatState(state);
  TC_RETURN_IF_ERROR(WriteFileAtomically(data_dir + kStateName, text));
  return WriteFileAtomically(data_dir + kCopyName, text);
}

}  // namespace thermocline
