#include "engine/options.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <limits>
#include <map>

#include "base/version.h"
#include "hashing/token_ids.h"

namespace thermocline {
namespace {

constexpr int kUsageError = 2;
constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

/// A whole decimal number from 0 to `most`. CLI11 alone would read 010 as eight, and what does not
/// fit as the most that does.
CLI::Validator Whole(uint64_t most) {
  const auto check = [most](std::string& text) {
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value > most) {
      return "'" + text + "' is no whole number from 0 to " + std::to_string(most);
    }
    text = std::to_string(value);
    return std::string();
  };
  return CLI::Validator(check, "");
}

void AddModel(CLI::App* verb, EngineOptions& options) {
  verb->add_option("--model", options.model, "GGUF v3 file, or safetensors file or directory")
      ->required();
}

void AddForward(CLI::App* verb, EngineOptions& options) {
  static const std::map<std::string, KvDtype> kDtypes = [] {
    std::map<std::string, KvDtype> dtypes;
    for (const KvDtype dtype :
         {KvDtype::kF32, KvDtype::kF16, KvDtype::kInt8, KvDtype::kE4m3, KvDtype::kInt4}) {
      dtypes.emplace(KvDtypeName(dtype), dtype);
    }
    return dtypes;
  }();
  verb->add_option("--kv", options.kv_dtype,
                   "how keys and values are kept (f32; on a GPU f16, or a code)")
      ->transform(CLI::CheckedTransformer(kDtypes).description(""))
      ->type_name("f32|f16|int8|e4m3|int4");
  static const std::map<std::string, EngineOptions::Device> kDevices = {
      {"cpu", EngineOptions::Device::kCpu},
      {"cuda", EngineOptions::Device::kCuda},
      {"auto", EngineOptions::Device::kAuto}};
  verb->add_option("--device", options.device, "what computes; auto: a GPU, or else the CPU")
      ->transform(CLI::CheckedTransformer(kDevices).description(""))
      ->type_name("cpu|cuda|auto")
      ->default_str("cpu");
  verb->add_option("--context", options.context, "tokens of context, if not what the file says")
      ->transform(Whole(1u << 28));
  verb->add_option("--threads", options.threads, "threads, 0 = all cores")->transform(Whole(1024));
}

CLI::Option* AddTokens(CLI::App* verb, EngineOptions& options) {
  const auto parse = [&options](const std::string& text) {
    absl::StatusOr<std::vector<int32_t>> ids = ParseTokenIds(text, "--tokens");
    if (!ids.ok()) throw CLI::ValidationError(std::string(ids.status().message()));
    if (ids->empty()) throw CLI::ValidationError("--tokens: the list is empty; write 1,2,3");
    options.tokens = *std::move(ids);
  };
  return verb->add_option_function<std::string>("--tokens", parse,
                                                "the prompt as ids, 1,2,3; no BOS is added");
}

void AddGenerate(CLI::App& app, EngineOptions& options) {
  CLI::App* verb = app.add_subcommand("generate", "continue a prompt or answer a message");
  AddModel(verb, options);
  AddForward(verb, options);
  CLI::Option_group* prompt = verb->add_option_group("prompt");
  prompt->add_option("--prompt", options.prompt, "text; names of special tokens are special");
  prompt->add_option("--prompt-file", options.prompt_file, "a file with the text, - = input");
  CLI::Option* chat =
      prompt->add_option("--chat", options.chat, "a user's message, by the model's template");
  AddTokens(verb, options);
  prompt->add_option(verb->get_option("--tokens"));
  prompt->require_option(1);
  verb->add_option("--system", options.system, "system message")->needs(chat);
  verb->add_option("--max-tokens", options.max_tokens, "most tokens to generate")
      ->required()
      ->transform(Whole(kNoLimit));
  verb->add_option("--temperature", options.sampling.temperature, "0 = greedy");
  verb->add_option("--top-p", options.sampling.top_p, "nucleus of the sampling");
  verb->add_option("--top-k", options.sampling.top_k, "the likeliest so many alone, 0 = all")
      ->transform(Whole(std::numeric_limits<int32_t>::max()));
  verb->add_option("--seed", options.sampling.seed, "of the sampling")->transform(Whole(kNoLimit));
  CLI::Option_group* cache = verb->add_option_group("cache");
  cache->add_option("--socket", options.socket, "the daemon's socket");
  cache->add_flag_callback(
      "--no-cache", [&] { options.cache = EngineOptions::Cache::kPrivate; }, "without a daemon");
  cache->add_flag_callback(
      "--no-kv-cache", [&] { options.cache = EngineOptions::Cache::kNone; },
      "compute everything again for every token");
  cache->require_option(0, 1);
  verb->add_flag("--json", options.json, "one JSON object instead of text");
}

}  // namespace

std::optional<EngineOptions> ParseEngineOptions(int argc, char** argv, int& exit_code) {
  EngineOptions options;
  CLI::App app("Runs a language model on the CPU or a GPU, its KV cache kept by thermoclined.");
  app.require_subcommand(1);
  app.set_version_flag("--version", "thermocline-engine " + std::string(Version()));
  AddGenerate(app, options);

  CLI::App* logits = app.add_subcommand("logits", "write the logits after every token");
  AddModel(logits, options);
  AddForward(logits, options);
  AddTokens(logits, options)->required();
  logits->add_option("--out", options.out, "float32 little-endian [tokens][vocabulary]")
      ->required();

  CLI::App* tokenize = app.add_subcommand("tokenize", "standard input to a JSON array of ids");
  AddModel(tokenize, options);
  tokenize->add_flag("--special", options.special, "names of special tokens are special");
  CLI::App* detokenize = app.add_subcommand("detokenize", "a JSON array of ids to text");
  AddModel(detokenize, options);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    exit_code = app.exit(error) == 0 ? 0 : kUsageError;
    return std::nullopt;
  }
  if (logits->parsed()) options.verb = EngineOptions::Verb::kLogits;
  if (tokenize->parsed()) options.verb = EngineOptions::Verb::kTokenize;
  if (detokenize->parsed()) options.verb = EngineOptions::Verb::kDetokenize;
  return options;
}

}  // namespace thermocline
