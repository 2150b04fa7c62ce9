// Cached equals uncached, over the real daemon and with real weights. The reference is computed
// without a daemon, on private pages, one chunk, one thread. Then the same turn goes through every
// state in which a daemon can hold its prefix, in other chunks, on other numbers of threads, and
// logits, ids and the bytes of every block must be the same, to the bit: those that the engine
// attended to, and those that another client finds committed.
#include "tests/e2e/cached_run.h"

namespace thermocline {
namespace {

class Walk {
 public:
  struct Options {
    std::string path;
    uint32_t context = 0;
    std::vector<int32_t> prompt;
    std::vector<int32_t> next_question;  // of the second turn
    size_t generated = 0;
    std::vector<int> chunks;
    std::vector<int> threads;
    std::vector<size_t> cached;  // lengths, multiples of 16 shorter than the prompt
  };

  explicit Walk(Options options)
      : options_(std::move(options)), alone_(Model::Load(options_.path, 1, options_.context)) {
    for (const int threads : options_.threads) {
      models_.push_back(Model::Load(options_.path, threads, options_.context));
    }
  }

  void Run(KvDtype dtype) {
    dtype_ = dtype;
    daemon_ = std::make_unique<DaemonProcess>();
    const Turn reference = Private(options_.prompt);
    FirstRunThenHits(reference);
    EveryCachedLength(reference);
    ColdAndMixed(reference);
    KilledAndRestarted(reference);
    NextTurn(reference);
  }

 private:
  Turn Private(const std::vector<int32_t>& prompt) {
    Sequence sequence(*alone_, dtype_, prompt.size() + options_.generated, nullptr);
    return RunTurn(*alone_, dtype_, sequence, prompt, options_.generated,
                   static_cast<int>(prompt.size()));
  }

  /// A run through the daemon, which must find `by_tier` of the prompt; chunks and threads change
  /// from one to the next.
  void Cached(const std::vector<int32_t>& prompt, const std::map<std::string, size_t>& by_tier,
              const Turn& reference, const std::string& state) {
    Model& model = *models_[runs_ % models_.size()];
    const int chunk = options_.chunks[runs_ / models_.size() % options_.chunks.size()];
    ++runs_;
    const std::string what = std::string(KvDtypeName(dtype_)) + " KV, " + state + ", " +
                             std::to_string(model.transformer->threads()) + " threads, chunks of " +
                             std::to_string(chunk);
    Sequence sequence(model, dtype_, prompt.size() + options_.generated, daemon_.get());
    const Turn turn = RunTurn(model, dtype_, sequence, prompt, options_.generated, chunk);
    EXPECT_EQ(turn.by_tier, by_tier) << what;
    EXPECT_EQ(sequence.kv().uncached_blocks(), 0u) << what;
    EXPECT_EQ(sequence.kv().losses(), 0u) << what;
    ExpectSame(turn, reference, what);
    ExpectCommitted(*daemon_, model.Space(dtype_), reference, what);
  }

  /// The most of the prompt that a hit can give: all full blocks, but one token at least is
  /// computed.
  size_t Most(const std::vector<int32_t>& prompt) const {
    return (prompt.size() - 1) / kBlockTokens * kBlockTokens;
  }

  void FirstRunThenHits(const Turn& reference) {
    Cached(options_.prompt, {}, reference, "first run");
    for (size_t i = 0; i < models_.size(); ++i) {
      Cached(options_.prompt, {{"warm", Most(options_.prompt)}}, reference, "warm hit");
    }
  }

  /// Everything behind a place is deleted, and computed again behind what is cached.
  void EveryCachedLength(const Turn& reference) {
    const Sequence sequence(*alone_, dtype_, 16, daemon_.get());
    auto admin = AdminClient::Connect({.socket_path = daemon_->socket()});
    ASSERT_TRUE(admin.ok());
    for (const size_t cached : options_.cached) {
      const std::span<const int32_t> head(options_.prompt.data(), cached + kBlockTokens);
      const auto deleted = (*admin)->Delete(sequence.space().fingerprint(), head);
      ASSERT_TRUE(deleted.ok()) << deleted.status();
      EXPECT_EQ(*deleted, reference.blocks.size() - cached / kBlockTokens);
      std::map<std::string, size_t> by_tier;
      if (cached > 0) by_tier["warm"] = cached;
      Cached(options_.prompt, by_tier, reference, std::to_string(cached) + " cached tokens");
    }
  }

  void ColdAndMixed(const Turn& reference) {
    FlushWarm(*daemon_);
    Cached(options_.prompt, {{"cold", Most(options_.prompt)}}, reference, "cold hit");
    FlushWarm(*daemon_);
    const size_t warm = Most(options_.prompt) / 2 / kBlockTokens * kBlockTokens;
    {
      Sequence sequence(*models_[0], dtype_, warm + 1, daemon_.get());
      const std::vector<int32_t> head(options_.prompt.begin(), options_.prompt.begin() + warm + 1);
      EXPECT_EQ(sequence.kv().Begin(head), warm);
    }
    Cached(options_.prompt, {{"warm", warm}, {"cold", Most(options_.prompt) - warm}}, reference,
           "warm and cold hit");
  }

  void KilledAndRestarted(const Turn& reference) {
    daemon_->Stop(SIGKILL);
    daemon_->Start();
    Cached(options_.prompt, {{"warm", Most(options_.prompt)}}, reference, "killed and restarted");
    daemon_->Stop(SIGTERM);
    daemon_->Start();
    Cached(options_.prompt, {{"warm", Most(options_.prompt)}}, reference, "stopped and restarted");
  }

  /// Prompt, answer and a new question: the answer's blocks, which decode committed one by one, are
  /// hit, and equal those that a prefill makes.
  void NextTurn(const Turn& before) {
    std::vector<int32_t> prompt = before.ids;
    prompt.insert(prompt.end(), options_.next_question.begin(), options_.next_question.end());
    const Turn reference = Private(prompt);
    ASSERT_GT(before.blocks.size() * kBlockTokens, options_.prompt.size());
    for (size_t i = 0; i < before.blocks.size(); ++i) {
      EXPECT_TRUE(before.blocks[i] == reference.blocks[i]) << "prefilled and decoded block " << i;
    }
    Cached(prompt, {{"warm", before.blocks.size() * kBlockTokens}}, reference, "next turn");
    Cached(prompt, {{"warm", Most(prompt)}}, reference, "next turn again");
  }

  const Options options_;
  const std::unique_ptr<Model> alone_;
  std::vector<std::unique_ptr<Model>> models_;
  KvDtype dtype_ = KvDtype::kF32;
  std::unique_ptr<DaemonProcess> daemon_;
  size_t runs_ = 0;
};

class CachedEqualsUncached : public ::testing::TestWithParam<KvDtype> {};

TEST_P(CachedEqualsUncached, Stories260K) {
  TC_NEED_FILE(ModelData("stories260K.gguf"));
  Walk({.path = ModelData("stories260K.gguf"),
        .context = 512,
        .prompt = StoryTokens(300),
        .next_question = {13, 403, 407, 261, 378},
        .generated = 40,
        .chunks = {1, 7, 64, 100, 256},
        .threads = {1, 2, 3},
        .cached = {0, 16, 48, 144, 256, 288}})
      .Run(GetParam());
}

TEST_P(CachedEqualsUncached, SmolLm2) {
  TC_NEED_FILE(SmolLm2Path());
  const std::string document = ReadJson(kDemoGolden)["document"];
  auto prompt = LoadTokenizer(SmolLm2Path())->Encode(document, false);
  ASSERT_TRUE(prompt.ok());
  prompt->resize(120);
  Walk({.path = SmolLm2Path(),
        .prompt = *prompt,
        .next_question = {28, 260, 1462},
        .generated = 20,
        .chunks = {37, 100},
        .threads = {1, 2, 3},
        .cached = {48}})
      .Run(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Kv, CachedEqualsUncached, ::testing::Values(KvDtype::kF32, KvDtype::kF16),
                         [](const auto& info) { return std::string(KvDtypeName(info.param)); });

}  // namespace
}  // namespace thermocline
