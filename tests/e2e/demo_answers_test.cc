// Eight questions about one long document, asked one after the other over the daemon: every answer
// must be the golden one, though all but the first read nothing of the document anew.
#include "engine/chat_template.h"
#include "tests/e2e/cached_run.h"

namespace thermocline {
namespace {

TEST(DemoAnswersTest, PrefixHitsGiveTheGoldenAnswers) {
  TC_NEED_FILE(SmolLm2Path());
  const nlohmann::json golden = ReadJson(kDemoGolden);
  const auto tokenizer = LoadTokenizer(SmolLm2Path());
  const auto chat = ChatTemplate::Create(tokenizer->chat_template());
  ASSERT_TRUE(chat.ok()) << chat.status();
  const auto model = Model::Load(SmolLm2Path(), 0);
  const size_t shared = golden["shared_prefix_tokens"].get<size_t>() / kBlockTokens * kBlockTokens;
  const DaemonProcess daemon;
  size_t asked = 0;
  for (const nlohmann::json& item : golden["items"]) {
    SCOPED_TRACE(item["question"].get<std::string>());
    std::string question = golden["user_template"];
    question.replace(question.find("{doc}"), 5, golden["document"].get<std::string>());
    question.replace(question.find("{question}"), 10, item["question"].get<std::string>());
    const auto prompt = chat->Encode(
        *tokenizer, std::vector<ChatMessage>{{"system", golden["system"]}, {"user", question}});
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(prompt->size(), item["prompt_tokens"].get<size_t>());

    auto expected = item["output_ids"].get<std::vector<int32_t>>();
    const std::vector<int32_t> end = tokenizer->end_of_generation();
    ASSERT_TRUE(std::count(end.begin(), end.end(), expected.back()));
    expected.pop_back();
    Sequence sequence(*model, KvDtype::kF32, prompt->size() + 48, &daemon);
    const auto result =
        Generate(*model->transformer, KvDtype::kF32, sequence.kv(),
                 {.prompt_ids = *prompt, .max_tokens = 48, .sampling = {}, .end_ids = end});
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->output_ids, expected);
    const auto text = tokenizer->Decode(result->output_ids);
    EXPECT_EQ(text.value_or(""), item["answer"].get<std::string>());
    if (asked++ == 0) {
      EXPECT_EQ(result->cached_tokens, 0u);
    } else {
      EXPECT_GE(result->cached_tokens, shared);
      EXPECT_EQ(result->cached_by_tier.at("warm"), result->cached_tokens);
    }
    EXPECT_EQ(result->recoveries + result->uncached_blocks, 0u);
  }
  EXPECT_EQ(asked, 8u);
}

}  // namespace
}  // namespace thermocline
