// thermocline-engine: the bundled decode engine's command line. One verb a run; what scripts may
// rely on is in docs/cli.md. Exit codes: 0 done, 1 refused or failed, 2 usage. A missing daemon is
// no failure: the engine says so and goes on.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <new>
#include <nlohmann/json.hpp>

#include "client/device_cuda.h"
#include "engine/chat_template.h"
#include "engine/cuda_transformer.h"
#include "engine/generator.h"
#include "engine/options.h"
#include "engine/tokenizer.h"

namespace thermocline {
namespace {

constexpr size_t kMaxInputBytes = Tokenizer::kMaxTextBytes;
constexpr size_t kProgressFromTokens = 512;  // shorter prefills are over before a bar can be read
constexpr int kProgressWidth = 40;
// A daemon that takes longer to say hello is not waited for.
constexpr std::chrono::milliseconds kConnectTimeout{2000};

absl::StatusOr<std::string> ReadAll(std::istream& input, const std::string& name) {
  std::string text(kMaxInputBytes + 1, '\0');
  input.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (input.bad()) return absl::UnavailableError("cannot read " + name);
  if (input.gcount() > static_cast<std::streamsize>(kMaxInputBytes)) {
    return absl::InvalidArgumentError(name + " is longer than " + std::to_string(kMaxInputBytes) +
                                      " bytes; cut it into pieces");
  }
  text.resize(static_cast<size_t>(input.gcount()));
  return text;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  if (path == "-") return ReadAll(std::cin, "standard input");
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError("cannot open " + path + "; is the path right?");
  return ReadAll(file, path);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const ModelFile& file) {
  TC_ASSIGN_OR_RETURN(TokenizerData data, file.tokenizer());
  return Tokenizer::Create(std::move(data));
}

absl::StatusOr<std::vector<int32_t>> PromptIds(const EngineOptions& options,
                                               const Tokenizer* tokenizer) {
  if (!options.tokens.empty()) return options.tokens;
  if (options.chat) {
    TC_ASSIGN_OR_RETURN(const ChatTemplate chat, ChatTemplate::Create(tokenizer->chat_template()));
    std::vector<ChatMessage> messages;
    if (options.system) messages.push_back({"system", *options.system});
    messages.push_back({"user", *options.chat});
    return chat.Encode(*tokenizer, messages);
  }
  std::string text = options.prompt.value_or("");
  if (options.prompt_file) {
    TC_ASSIGN_OR_RETURN(text, ReadFile(*options.prompt_file));
  }
  return tokenizer->EncodePrompt(text, true);
}

void ShowProgress(size_t done, size_t total) {
  const int filled = static_cast<int>(done * kProgressWidth / total);
  std::fprintf(stderr, "\rprefill [%-*s] %zu/%zu tokens", kProgressWidth,
               std::string(static_cast<size_t>(filled), '#').c_str(), done, total);
  if (done == total) std::fprintf(stderr, "\r\033[K");
  std::fflush(stderr);
}

/// A model on the device that computes it.
struct Loaded {
  std::unique_ptr<Transformer> transformer;
  KvDtype dtype = KvDtype::kF32;
  std::string_view numerics;  // of SpaceOf
};
absl::StatusOr<Loaded> LoadModel(const EngineOptions& options, const ModelFile& file) {
  using Device = EngineOptions::Device;
  // KV as f32 is kept by the CPU alone, as codes by a GPU alone.
  const bool wants_f32 = options.kv_dtype == KvDtype::kF32;
  const KvDtype on_gpu_dtype = options.kv_dtype.value_or(KvDtype::kF16);
  const bool wants_codes = IsQuantized(on_gpu_dtype);
  if (options.device == Device::kCpu && wants_codes) {
    return absl::InvalidArgumentError(std::string("--kv ") + KvDtypeName(on_gpu_dtype) +
                                      " needs a GPU: --device cuda; the CPU keeps f32 or f16");
  }
  if (options.device == Device::kCuda && wants_f32) {
    return absl::InvalidArgumentError(
        "on a GPU, KV is kept as f16, int8, e4m3 or int4; leave --kv f32 out");
  }
  Loaded loaded;
  if (options.device != Device::kCpu && !wants_f32) {
    absl::StatusOr<std::unique_ptr<Transformer>> on_gpu = LoadOnCuda(file);
    absl::Status usable = on_gpu.status();
    if (usable.ok()) usable = (*on_gpu)->WarmUp(on_gpu_dtype);  // its first kernels
    if (usable.ok()) return Loaded{*std::move(on_gpu), on_gpu_dtype, kCudaNumerics};
    if (options.device == Device::kCuda || wants_codes) return usable;
    std::cerr << "thermocline-engine: going on on the CPU: " << usable.message() << "\n";
  }
  TC_ASSIGN_OR_RETURN(loaded.transformer, Transformer::Load(file, {.threads = options.threads}));
  loaded.dtype = options.kv_dtype.value_or(KvDtype::kF32);
  return loaded;
}

/// The daemon's cache for this model; nothing (told once, on standard error) when it cannot be had.
struct Cache {
  std::unique_ptr<Client> client;
  std::optional<Space> space;
  bool on_device = false;  // hot blocks are read where they lie
};
Cache ConnectCache(const EngineOptions& options, const ModelFile& file, const ModelConfig& config,
                   const KvGeometry& geometry, std::string_view numerics) {
  Cache cache;
  if (options.cache != EngineOptions::Cache::kDaemon) return cache;
  const absl::Status status = [&]() -> absl::Status {
    TC_ASSIGN_OR_RETURN(const Sha256 digest, file.content_sha256());
    ClientOptions client{.socket_path = options.socket,
                         .client_name = "thermocline-engine",
                         .timeout = kConnectTimeout};
    if (numerics == kCudaNumerics) {
      auto device = OpenCudaAccess(0);
      cache.on_device = device.ok();
      if (device.ok()) client.device = *std::move(device);
    }
    TC_ASSIGN_OR_RETURN(cache.client, Client::Connect(std::move(client)));
    TC_ASSIGN_OR_RETURN(cache.space,
                        cache.client->OpenSpace(SpaceOf(config, geometry, digest, numerics)));
    return absl::OkStatus();
  }();
  if (!status.ok()) {
    std::cerr << "thermocline-engine: going on without a cache: " << status.message() << "\n";
    cache = {};
  }
  return cache;
}

nlohmann::json ToJson(const GenerateRequest& request, const GenerateResult& result,
                      const std::string& text) {
  return {{"prompt_ids", request.prompt_ids},
          {"output_ids", result.output_ids},
          {"text", text},
          {"cached_tokens", result.cached_tokens},
          {"cached_by_tier", result.cached_by_tier},
          {"uncached_blocks", result.uncached_blocks},
          {"recoveries", result.recoveries},
          {"ttft_ms", result.ttft_ms},
          {"prefill_tokens_per_s", result.prefill_tokens_per_s},
          {"decode_tokens_per_s", result.decode_tokens_per_s}};
}

/// Nothing where the prompt is ids and the model has no tokenizer (safetensors files have none) or
/// one that is not supported, which is told: ids in, ids out works without.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizerIfNeeded(const EngineOptions& options,
                                                                 const ModelFile& file) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> loaded = LoadTokenizer(file);
  if (loaded.ok()) return loaded;
  if (options.tokens.empty()) {
    return Annotate(loaded.status(), "no tokenizer (--tokens needs none)");
  }
  if (!absl::IsNotFound(loaded.status())) {
    std::cerr << "thermocline-engine: going on without a tokenizer: " << loaded.status().message()
              << "\n";
  }
  return nullptr;
}

absl::Status RunGenerate(const EngineOptions& options, const ModelFile& file) {
  TC_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizerIfNeeded(options, file));
  TC_ASSIGN_OR_RETURN(const ModelConfig config, file.config());
  GenerateRequest request;
  TC_ASSIGN_OR_RETURN(request.prompt_ids, PromptIds(options, tokenizer.get()));
  request.max_tokens = options.max_tokens;
  request.sampling = options.sampling;
  request.recompute_everything = options.cache == EngineOptions::Cache::kNone;
  request.end_ids = tokenizer ? tokenizer->end_of_generation() : config.eos_ids;
  TC_RETURN_IF_ERROR(CheckRequest(config, request));

  TC_ASSIGN_OR_RETURN(const Loaded model, LoadModel(options, file));
  const KvGeometry geometry = model.transformer->kv_geometry(model.dtype);
  PrivateBlocks pages(geometry, BlocksOf(config.context_length));
  Cache cache = ConnectCache(options, file, config, geometry, model.numerics);
  const auto tell = [&](const absl::Status&) {
    std::cerr << "thermocline-engine: going on without a cache: the daemon at "
              << cache.client->socket_path() << " does not answer\n";
  };
  auto kv = cache.space ? std::make_unique<KvSequence>(pages, *cache.client, *cache.space, tell)
                        : std::make_unique<KvSequence>(pages);
  if (cache.on_device) {
    kv->ReadOnDevice({.layout = LayoutOf(geometry),
                      .copy_off = [](std::byte* to, const std::byte* from, uint64_t bytes) {
                        return CopyOffDevice(to, from, bytes);
                      }});
  }

  std::string text;
  std::optional<StreamDecoder> decoder;
  if (tokenizer) decoder.emplace(*tokenizer, false);
  const auto emit = [&](const std::string& piece) {
    text += piece;
    if (!options.json) std::cout << piece << std::flush;
  };
  request.on_token = [&](int32_t id) {
    emit(decoder ? decoder->Push(id) : std::to_string(id) + " ");
    return true;
  };
  if (isatty(STDERR_FILENO)) {
    request.on_prefill = [](size_t done, size_t total) {
      if (total >= kProgressFromTokens) ShowProgress(done, total);
    };
  }
  TC_ASSIGN_OR_RETURN(const GenerateResult result,
                      Generate(*model.transformer, model.dtype, *kv, request));
  if (decoder) emit(decoder->Finish());
  if (options.json) {
    std::cout << ToJson(request, result, text)
                     .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
              << "\n";
    return absl::OkStatus();
  }
  std::cout << "\n";
  std::fprintf(
      stderr, "%zu prompt tokens, %zu of them cached; first token after %.1f ms; %.0f tokens/s\n",
      request.prompt_ids.size(), result.cached_tokens, result.ttft_ms, result.decode_tokens_per_s);
  return absl::OkStatus();
}

absl::Status RunLogits(const EngineOptions& options, const ModelFile& file) {
  TC_ASSIGN_OR_RETURN(const ModelConfig config, file.config());
  const size_t count = options.tokens.size();
  if (count > config.context_length) {
    return absl::OutOfRangeError(std::to_string(count) + " tokens exceed the context of " +
                                 std::to_string(config.context_length) +
                                 "; give fewer, or a larger context with --context");
  }
  TC_ASSIGN_OR_RETURN(const Loaded model, LoadModel(options, file));
  PrivateBlocks pages(model.transformer->kv_geometry(model.dtype), BlocksOf(count));
  KvSequence kv(pages);
  TC_RETURN_IF_ERROR(kv.Extend(count));
  std::vector<float> logits(count * config.vocab);
  TC_RETURN_IF_ERROR(model.transformer->Forward({.tokens = options.tokens,
                                                 .blocks = kv.blocks(),
                                                 .kv_dtype = model.dtype,
                                                 .logits = logits}));
  std::ofstream out(options.out, std::ios::binary);
  out.write(reinterpret_cast<const char*>(logits.data()),
            static_cast<std::streamsize>(logits.size() * sizeof(float)));
  out.close();
  if (!out) return absl::UnavailableError("cannot write " + options.out + "; is there room?");
  return absl::OkStatus();
}

absl::Status RunTokenize(const EngineOptions& options, const ModelFile& file) {
  TC_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(file));
  TC_ASSIGN_OR_RETURN(const std::string text, ReadAll(std::cin, "standard input"));
  TC_ASSIGN_OR_RETURN(const auto ids, tokenizer->Encode(text, options.special));
  std::cout << nlohmann::json(ids).dump() << "\n";
  return absl::OkStatus();
}

absl::Status RunDetokenize(const ModelFile& file) {
  TC_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(file));
  TC_ASSIGN_OR_RETURN(const std::string text, ReadAll(std::cin, "standard input"));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  const auto is_id = [](const nlohmann::json& id) {
    return id.is_number_unsigned() && id.get<uint64_t>() <= INT32_MAX;
  };
  if (!json.is_array() || !std::all_of(json.begin(), json.end(), is_id)) {
    return absl::InvalidArgumentError("standard input is no JSON array of ids, like [1, 2, 3]");
  }
  TC_ASSIGN_OR_RETURN(const std::string decoded,
                      tokenizer->Decode(json.get<std::vector<int32_t>>()));
  std::cout << decoded;
  return absl::OkStatus();
}

absl::Status Run(const EngineOptions& options) {
  TC_ASSIGN_OR_RETURN(const auto file,
                      ModelFile::Open(options.model, {.context_length = options.context}));
  switch (options.verb) {
    case EngineOptions::Verb::kGenerate:
      return RunGenerate(options, *file);
    case EngineOptions::Verb::kLogits:
      return RunLogits(options, *file);
    case EngineOptions::Verb::kTokenize:
      return RunTokenize(options, *file);
    case EngineOptions::Verb::kDetokenize:
      return RunDetokenize(*file);
  }
  return absl::InternalError("no such verb");
}

}  // namespace
}  // namespace thermocline

int main(int argc, char** argv) {
  int exit_code = 0;
  const auto options = thermocline::ParseEngineOptions(argc, argv, exit_code);
  if (!options) return exit_code;
  try {
    const absl::Status status = thermocline::Run(*options);
    if (status.ok()) return 0;
    std::cerr << "thermocline-engine: " << status.message() << "\n";
  } catch (const std::bad_alloc&) {
    std::cerr << "thermocline-engine: out of memory; give fewer tokens, a smaller model, or more "
                 "memory\n";
  }
  return 1;
}
