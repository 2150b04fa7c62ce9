// What the tests of the engine over a real daemon share: a model, a client of the daemon, and one
// turn computed over a KvSequence, with everything that must not depend on the cache: logits, ids,
// and the bytes of every full block.
#pragma once
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "engine/generator.h"
#include "engine/kv_sequence.h"
#include "engine/sampler.h"
#include "engine/tokenizer.h"
#include "tests/client/daemon_fixture.h"
#include "tests/engine/transformer_fixture.h"

namespace thermocline {

inline constexpr const char* kDemoGolden = TC_SOURCE_DIR "/tests/e2e/golden/smollm2_demo.json";

inline std::unique_ptr<Tokenizer> LoadTokenizer(const std::string& path) {
  const auto file = ModelFile::Open(path);
  TC_CHECK(file.ok());
  auto data = (*file)->tokenizer();
  TC_CHECK(data.ok());
  auto tokenizer = Tokenizer::Create(*std::move(data));
  TC_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

/// A model with its identity, as thermocline-engine opens it.
struct Model {
  static std::unique_ptr<Model> Load(const std::string& path, int threads, uint32_t context = 0) {
    auto model = std::make_unique<Model>();
    model->transformer = LoadModel(path, threads, "", context);
    const auto file = ModelFile::Open(path, {.context_length = context});
    TC_CHECK(model->transformer && file.ok());
    const auto digest = (*file)->content_sha256();
    TC_CHECK(digest.ok());
    model->digest = *digest;
    return model;
  }
  SpaceSpec Space(KvDtype dtype) const {
    return SpaceOf(transformer->config(), transformer->kv_geometry(dtype), digest);
  }

  std::unique_ptr<Transformer> transformer;
  Sha256 digest;
};

/// Of who knows that the daemon lives, however busy the machine is.
inline constexpr DaemonPatience kPatient{.first = kPatience, .call = kPatience};

/// A sequence over a daemon, or without one over private pages alone. Its pages last for
/// `max_tokens`.
class Sequence {
 public:
  Sequence(const Model& model, KvDtype dtype, size_t max_tokens, const DaemonProcess* daemon,
           DaemonPatience patience = kPatient)
      : pages_(model.transformer->kv_geometry(dtype), BlocksOf(max_tokens)) {
    if (daemon == nullptr) {
      kv_ = std::make_unique<KvSequence>(pages_);
      return;
    }
    client_ = daemon->Connect();
    auto space = client_->OpenSpace(model.Space(dtype));
    TC_CHECK(space.ok());
    space_ = *space;
    kv_ = std::make_unique<KvSequence>(
        pages_, *client_, *space, [this](const absl::Status&) { ++silences_; }, patience);
  }

  Sequence(const Sequence&) = delete;
  KvSequence& kv() { return *kv_; }
  const Space& space() const { return *space_; }
  Client& client() { return *client_; }
  size_t private_blocks() const { return pages_.used_blocks(); }
  /// Times that the daemon fell silent.
  size_t silences() const { return silences_; }

 private:
  PrivateBlocks pages_;
  std::unique_ptr<Client> client_;
  std::optional<Space> space_;
  std::unique_ptr<KvSequence> kv_;
  size_t silences_ = 0;
};

struct Turn {
  std::vector<int32_t> ids;         // prompt and generated; the last one is not computed
  std::vector<float> logits;        // after the prompt and after every generated token but the last
  std::vector<std::string> blocks;  // the bytes of every full block
  size_t cached_tokens = 0;
  std::map<std::string, size_t> by_tier;
};

/// Answers `prompt` with `generated` greedy ids, `chunk` tokens computed at once in the prefill.
inline Turn RunTurn(Model& model, KvDtype dtype, Sequence& sequence,
                    const std::vector<int32_t>& prompt, size_t generated, int chunk) {
  KvSequence& kv = sequence.kv();
  Turn turn{.ids = prompt};
  std::vector<float> last(model.transformer->config().vocab);
  size_t held = turn.cached_tokens = kv.Begin(prompt);
  turn.by_tier = kv.cached_by_tier();
  for (size_t i = 0; i < generated; ++i) {
    EXPECT_TRUE(kv.Extend(turn.ids.size()).ok());
    const absl::Status status =
        model.transformer->Forward({.tokens = std::span<const int32_t>(turn.ids).subspan(held),
                                    .position = static_cast<int>(held),
                                    .blocks = kv.blocks(),
                                    .kv_dtype = dtype,
                                    .logits = last,
                                    .chunk_tokens = chunk});
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_TRUE(kv.Intact());
    held = turn.ids.size();
    kv.Commit(turn.ids);
    turn.logits.insert(turn.logits.end(), last.begin(), last.end());
    turn.ids.push_back(GreedyToken(last));
  }
  const size_t block_bytes = model.transformer->kv_geometry(dtype).block_bytes();
  for (size_t i = 0; i < held / kBlockTokens; ++i) {
    turn.blocks.emplace_back(reinterpret_cast<const char*>(kv.blocks()[i]), block_bytes);
  }
  EXPECT_TRUE(kv.Intact());
  return turn;
}

/// Bit for bit.
inline void ExpectSame(const Turn& turn, const Turn& reference, const std::string& what) {
  EXPECT_EQ(turn.ids, reference.ids) << what;
  ASSERT_EQ(turn.logits.size(), reference.logits.size()) << what;
  EXPECT_EQ(
      std::memcmp(turn.logits.data(), reference.logits.data(), turn.logits.size() * sizeof(float)),
      0)
      << what << ": logits differ";
  ASSERT_EQ(turn.blocks.size(), reference.blocks.size()) << what;
  for (size_t i = 0; i < turn.blocks.size(); ++i) {
    EXPECT_TRUE(turn.blocks[i] == reference.blocks[i]) << what << ": KV of block " << i;
  }
}

/// What the daemon holds of the turn must be the reference's bytes: leased and viewed by a client
/// that computes nothing.
inline void ExpectCommitted(const DaemonProcess& daemon, const SpaceSpec& spec,
                            const Turn& reference, const std::string& what) {
  const auto client = daemon.Connect();
  const auto space = client->OpenSpace(spec);
  ASSERT_TRUE(space.ok()) << space.status();
  auto lease = space->Match(reference.ids);
  ASSERT_TRUE(lease.ok()) << lease.status();
  const auto readable = lease->Load();
  ASSERT_TRUE(readable.ok()) << readable.status();
  ASSERT_EQ(*readable, reference.blocks.size()) << what;
  for (uint32_t i = 0; i < *readable; ++i) {
    const std::span<const std::byte> view = lease->View(i);
    EXPECT_TRUE(std::string(reinterpret_cast<const char*>(view.data()), view.size()) ==
                reference.blocks[i])
        << what << ": committed block " << i;
  }
  EXPECT_TRUE(lease->StillValid());
}

/// Sinks every warm block to the cold tier, once nobody leases any.
inline void FlushWarm(const DaemonProcess& daemon) {
  auto admin = AdminClient::Connect({.socket_path = daemon.socket()});
  ASSERT_TRUE(admin.ok()) << admin.status();
  EXPECT_TRUE(Eventually([&] {
    const auto flushed = (*admin)->Flush(BlockTier::kWarm);
    return flushed.ok() && flushed->kept == 0;
  }));
}

/// `count` tokens of a story and on: those of the golden runs.
inline std::vector<int32_t> StoryTokens(size_t count) {
  std::vector<int32_t> ids = {1};
  for (const char* name : {"golden/p0.json", "golden/p1.json"}) {
    const auto more = ReadJson(ModelData(name))["out_ids"].get<std::vector<int32_t>>();
    ids.insert(ids.end(), more.begin(), more.end());
  }
  TC_CHECK(ids.size() >= count);
  ids.resize(count);
  return ids;
}

}  // namespace thermocline
