// The command line of thermocline-engine, parsed. docs/cli.md documents it; scripts may rely on it.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "kernels/kv_geometry.h"

namespace thermocline {

struct EngineOptions {
  enum class Verb { kGenerate, kLogits, kTokenize, kDetokenize };
  enum class Device { kCpu, kCuda, kAuto };       // kAuto: a GPU where there is one
  enum class Cache { kDaemon, kPrivate, kNone };  // kNone: recompute everything for every token

  Verb verb = Verb::kGenerate;
  std::string model;
  Device device = Device::kCpu;
  int threads = 0;
  uint32_t context = 0;
  std::optional<KvDtype> kv_dtype;  // nothing: as the device likes it best
  bool json = false;

  // The prompt of generate, in one of four forms; of logits, tokens.
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_file;
  std::optional<std::string> chat;
  std::optional<std::string> system;
  std::vector<int32_t> tokens;

  size_t max_tokens = 0;
  Sampler::Options sampling;
  Cache cache = Cache::kDaemon;
  std::string socket;  // "": the default one

  std::string out;       // logits
  bool special = false;  // tokenize
};

/// Parses the command line. Nothing when the process shall end now with `exit_code` (after --help,
/// or a usage error, both told already).
std::optional<EngineOptions> ParseEngineOptions(int argc, char** argv, int& exit_code);

}  // namespace thermocline
