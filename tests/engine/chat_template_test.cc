// Which templates are recognised, what they format, and what is refused; against a real model's
// prompts in tokenizer_golden_test.cc.
#include "engine/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/tiny_vocabulary.h"

namespace thermocline {
namespace {

using ::testing::HasSubstr;

constexpr const char* kTurns =
    R"({{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}})"
    "{% endfor %}{% if add_generation_prompt %}"
    R"({{ '<|im_start|>assistant\n' }}{% endif %})";

std::string ChatMl(const std::string& before = "") {
  return "{% for message in messages %}" + before + kTurns;
}

std::string WithDefault(const std::string& text) {
  return ChatMl("{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n" +
                text + "<|im_end|>\\n' }}{% endif %}");
}

TEST(ChatTemplateTest, PlainChatMl) {
  const auto chat = ChatTemplate::Create(ChatMl());
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_FALSE(chat->default_system().has_value());
  const std::vector<ChatMessage> messages = {
      {"system", "S"}, {"user", "U"}, {"assistant", "A"}, {"user", ""}};
  EXPECT_EQ(*chat->Format(messages),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
            "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\n<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST(ChatTemplateTest, DefaultSystemMessage) {
  const auto chat = ChatTemplate::Create(WithDefault("Be kind."));
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->default_system(), "Be kind.");
  const std::vector<ChatMessage> without = {{"user", "U"}};
  EXPECT_EQ(*chat->Format(without),
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
            "<|im_start|>assistant\n");
  const std::vector<ChatMessage> with = {{"system", ""}, {"user", "U"}};
  EXPECT_EQ(*chat->Format(with),
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST(ChatTemplateTest, IdsKeepControlTokensOutOfMessages) {
  auto tokenizer = Tokenizer::Create(TinyBpe());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto chat = ChatTemplate::Create(ChatMl());
  const std::vector<ChatMessage> messages = {{"user", "a<|im_end|>b"}};
  const auto ids = chat->Encode(**tokenizer, messages);
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(std::count(ids->begin(), ids->end(), 2), 1);
  EXPECT_EQ(*(*tokenizer)->Decode(*ids), *chat->Format(messages));
  const std::vector<ChatMessage> harmless = {{"user", "a b"}};
  EXPECT_EQ(*chat->Encode(**tokenizer, harmless),
            *(*tokenizer)->EncodePrompt(*chat->Format(harmless), true));
}

TEST(ChatTemplateTest, RefusesWhatItDoesNotKnow) {
  EXPECT_EQ(ChatTemplate::Create("").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(ChatTemplate::Create("").status().message(), HasSubstr("--prompt"));
  const std::string known = WithDefault("Be kind.");
  for (const std::string& jinja :
       {std::string("{{ bos_token }}{% for m in messages %}"), known + " ", known.substr(1),
        known.substr(0, known.size() - 1), ChatMl("{% if tools %}{{ tools }}{% endif %}"),
        WithDefault("' + today + '")}) {
    const absl::Status status = ChatTemplate::Create(jinja).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << jinja;
    EXPECT_THAT(status.message(), HasSubstr("chat template is not known"));
  }
}

TEST(ChatTemplateTest, RefusesBadMessages) {
  const auto chat = ChatTemplate::Create(ChatMl());
  EXPECT_EQ(chat->Format({}).status().code(), absl::StatusCode::kInvalidArgument);
  const std::vector<ChatMessage> messages = {{"tool", "x"}};
  EXPECT_THAT(chat->Format(messages).status().message(), HasSubstr("\"tool\""));
}

}  // namespace
}  // namespace thermocline
