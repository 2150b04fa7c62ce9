#include "base/options.h"

#include <gtest/gtest.h>

#include <string>

#include "base/file_util.h"
#include "base/units.h"

namespace thermocline {
namespace {

constexpr OptionDef kOptions[] = {
    {"socket", OptionType::kString, "", "Where clients connect."},
    {"warm.capacity", OptionType::kBytes, "1GiB", "Memory for warm blocks.", {}, 4096},
    {"warm.shutdown", OptionType::kEnum, "keep", "What SIGTERM does.", "keep|drain"},
    {"lease_ttl", OptionType::kDuration, "10s", "How long a lease lasts.", {}, 1000, 3'600'000'000},
    {"max_sessions", OptionType::kInt, "64", "Clients at a time.", {}, 1, 1000},
    {"insecure", OptionType::kBool, "false", "Allows TCP without TLS."},
    {"fsck", OptionType::kString, "", "Checks a store.", {}, 0, 0, true},
};
constexpr OptionTable kTable = {"testd", "A daemon for tests.", "", kOptions};

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}
std::string TextOf(const absl::Status& status) { return std::string(status.message()); }

class OptionsFileTest : public ::testing::Test {
 protected:
  void WriteConfig(const std::string& content) {
    ASSERT_TRUE(WriteFileAtomically(path_, content).ok());
  }
  void TearDown() override { ::unlink(path_.c_str()); }
  const std::string path_ =
      ::testing::TempDir() + "/thermocline_options." + std::to_string(::getpid()) + ".toml";
};

TEST(OptionsTest, DefaultsComeFromTheTable) {
  const Options options(kTable);
  EXPECT_EQ(options.String("socket"), "");
  EXPECT_EQ(options.Bytes("warm.capacity"), GiB);
  EXPECT_EQ(options.String("warm.shutdown"), "keep");
  EXPECT_EQ(options.Duration("lease_ttl"), std::chrono::seconds(10));
  EXPECT_EQ(options.Int("max_sessions"), 64);
  EXPECT_FALSE(options.Bool("insecure"));
  EXPECT_TRUE(options.IsDefault("socket"));
}

TEST_F(OptionsFileTest, FlagsBeatTheEnvironmentAndThatBeatsTheFile) {
  WriteConfig(
      "socket = \"/from/file\"\nmax_sessions = 7\nlease_ttl = 2.5\n"
      "[warm]\ncapacity = 8192\nshutdown = \"drain\"\n");
  const auto loaded =
      LoadOptions(kTable, {.arguments = {"--config", path_, "--max-sessions=9", "--insecure"},
                           .environment = {"THERMOCLINE_MAX_SESSIONS=8",
                                           "THERMOCLINE_WARM_CAPACITY=64MiB", "PATH=/bin"}});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Options& options = loaded->options;
  EXPECT_FALSE(loaded->exit);
  EXPECT_EQ(options.String("socket"), "/from/file");
  EXPECT_EQ(options.Origin("socket"), path_ + ":1");
  EXPECT_EQ(options.Bytes("warm.capacity"), 64 * MiB);
  EXPECT_EQ(options.Origin("warm.capacity"), "environment variable THERMOCLINE_WARM_CAPACITY");
  EXPECT_EQ(options.Int("max_sessions"), 9);
  EXPECT_EQ(options.Origin("max_sessions"), "flag --max-sessions");
  EXPECT_EQ(options.Duration("lease_ttl"), std::chrono::milliseconds(2500));
  EXPECT_EQ(options.String("warm.shutdown"), "drain");
  EXPECT_TRUE(options.Bool("insecure"));
}

TEST_F(OptionsFileTest, TheEnvironmentMayNameTheFile) {
  WriteConfig("max_sessions = 5\n");
  const std::vector<std::string> environment = {"THERMOCLINE_CONFIG=" + path_};
  EXPECT_EQ(LoadOptions(kTable, {{}, environment})->options.Int("max_sessions"), 5);
  EXPECT_FALSE(LoadOptions(kTable, {{"--config=/no/such/file"}, environment}).ok());
}

TEST_F(OptionsFileTest, EverySlipIsReportedWithItsLineAndTheNearestName) {
  WriteConfig(
      "sockt = \"/x\"\n"
      "max_sessions = \"8\"\n"
      "insecure = 1\n"
      "lease_ttl = \"10 parsec\"\n"
      "fsck = \"/x\"\n"
      "[wram]\ncapacity = \"1GiB\"\n"
      "[warm]\ncapacity = \"1KiB\"\nshutdown = \"dry\"\nshutdwn = \"keep\"\n"
      "[warm.deep]\nx = 1\n");
  const auto loaded = LoadOptions(kTable, {{"--config", path_}, {}});
  ASSERT_FALSE(loaded.ok());
  const std::string text = TextOf(loaded.status());
  for (const char* line : {
           ":1: unknown key 'sockt'; did you mean 'socket'?",
           ":2: max_sessions: this is not a whole number; write one, unquoted",
           ":3: insecure: this is not a bool; write true or false, unquoted",
           ":4: lease_ttl: cannot read '10 parsec'; write it like 250ms",
           ":5: unknown key 'fsck'",
           ":6: unknown section 'wram'",
           ":9: warm.capacity: '1KiB' is too small; the least is 4 KiB",
           ":10: warm.shutdown: 'dry' is not one of keep|drain",
           ":11: unknown key 'warm.shutdwn'; did you mean 'warm.shutdown'?",
           ":12: unknown section 'warm.deep'",
       }) {
    EXPECT_TRUE(Contains(text, path_ + line)) << line << "\nin\n" << text;
  }
  EXPECT_FALSE(Contains(text, "wram.capacity")) << text;
}

TEST(OptionsTest, BrokenTomlIsAnErrorWithItsLine) {
  Options options(kTable);
  const absl::Status status = ReadConfig("max_sessions = 5\nsocket = \"open\n", "f.toml", options);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(TextOf(status).rfind("f.toml:2: ", 0), 0u) << status;
  EXPECT_FALSE(ReadConfig("a = 1\na = 2\n", "f.toml", options).ok());
  EXPECT_FALSE(ReadConfig("warm = 3\n", "f.toml", options).ok());
  EXPECT_FALSE(ReadConfig("[socket]\nx = 1\n", "f.toml", options).ok());
  EXPECT_FALSE(ReadConfig("socket = [1, 2]\n", "f.toml", options).ok());
  EXPECT_FALSE(ReadConfig("socket = \"\xff\"\n", "f.toml", options).ok());
}

TEST(OptionsTest, FlagErrorsSayWhatToDo) {
  const struct {
    std::vector<std::string> arguments;
    const char* expected;
  } cases[] = {
      {{"--max-session=3"}, "unknown flag '--max-session'; did you mean '--max-sessions'?"},
      {{"--chekc-config"}, "did you mean '--check-config'?"},
      {{"--max-sessions"}, "needs a value"},
      {{"--max-sessions="}, "flag --max-sessions: max_sessions: cannot read ''; write a whole"},
      {{"--max-sessions", "1e3"}, "cannot read '1e3'"},
      {{"--max-sessions=1001"}, "too large; the most is 1000"},
      {{"--lease-ttl=2h"}, "too large; the most is 3600s"},
      {{"--insecure=maybe"}, "write true or false"},
      {{"--no-insecure=true"}, "takes no value"},
      {{"--help=1"}, "takes no value"},
      {{"start"}, "unexpected argument 'start'"},
      {{"--config=/no/such.toml"}, "/no/such.toml"},
  };
  for (const auto& c : cases) {
    const auto loaded = LoadOptions(kTable, {c.arguments, {}});
    ASSERT_FALSE(loaded.ok()) << c.expected;
    EXPECT_TRUE(Contains(TextOf(loaded.status()), c.expected)) << loaded.status();
  }
  EXPECT_TRUE(LoadOptions(kTable, {{"--fsck", "/store"}, {}})->options.String("fsck") == "/store");
  EXPECT_FALSE(
      LoadOptions(kTable, {{"--insecure", "--no-insecure"}, {}})->options.Bool("insecure"));
}

TEST(OptionsTest, AVariableThatIsNearlyRightIsWarnedAbout) {
  const auto loaded = LoadOptions(
      kTable, {{}, {"THERMOCLINE_SOCKT=/x", "THERMOCLINE_PORT_9469_TCP_ADDR=10.0.0.1"}});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_EQ(loaded->warnings.size(), 1u);
  EXPECT_TRUE(Contains(loaded->warnings[0], "did you mean THERMOCLINE_SOCKET?"));
  EXPECT_TRUE(
      Contains(TextOf(LoadOptions(kTable, {{}, {"THERMOCLINE_MAX_SESSIONS=x"}}).status()),
               "environment variable THERMOCLINE_MAX_SESSIONS: max_sessions: cannot read 'x'"));
}

TEST_F(OptionsFileTest, ThePrintedConfigurationReadsBackTheSame) {
  const std::string odd = "/a \"b\" \\ c\td \x01 \xc3\xa4";
  auto loaded = LoadOptions(kTable, {{"--socket", odd, "--warm-capacity=2GiB", "--lease-ttl=1.5",
                                      "--insecure", "--print-config"},
                                     {}});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ASSERT_TRUE(loaded->exit);
  EXPECT_TRUE(Contains(loaded->output, "# from: flag --socket\n")) << loaded->output;
  EXPECT_FALSE(Contains(loaded->output, "fsck"));
  Options again(kTable);
  const absl::Status status = ReadConfig(loaded->output, "printed", again);
  ASSERT_TRUE(status.ok()) << status << loaded->output;
  for (const OptionDef& option : kOptions) {
    EXPECT_EQ(again.Text(option.key), loaded->options.Text(option.key)) << option.key;
  }
}

TEST_F(OptionsFileTest, TheConfigurationCanBeChecked) {
  WriteConfig("max_sessions = 5\n");
  const auto good = LoadOptions(kTable, {{"--check-config", "--config", path_}, {}});
  ASSERT_TRUE(good.ok());
  EXPECT_TRUE(good->exit);
  EXPECT_EQ(good->output, "configuration is good (" + path_ + ")\n");
  WriteConfig("max_sessions = 0\n");
  EXPECT_FALSE(LoadOptions(kTable, {{"--check-config", "--config", path_}, {}}).ok());
}

TEST(OptionsTest, GeneratedTextsNameEveryOption) {
  const std::string help = LoadOptions(kTable, {{"--help"}, {}})->output;
  const std::string document = OptionTableMarkdown(kTable);
  for (const OptionDef& option : kOptions) {
    EXPECT_TRUE(Contains(help, "  " + FlagOf(option))) << option.key;
    EXPECT_TRUE(Contains(document, std::string(option.help))) << option.key;
  }
  EXPECT_TRUE(Contains(document, "keep\\|drain")) << document;
  EXPECT_TRUE(Contains(LoadOptions(kTable, {{"--version"}, {}})->output, "testd 0."));
  Options options(kTable);
  EXPECT_TRUE(ReadConfig(SampleConfigText(kTable), "sample", options).ok());
}

TEST(OptionsDeathTest, AKeyOutsideTheTableIsAProgrammersError) {
  const Options options(kTable);
  EXPECT_DEATH(static_cast<void>(options.Int("none")), "check failed");
  EXPECT_DEATH(static_cast<void>(options.Int("socket")), "check failed");
}

}  // namespace
}  // namespace thermocline
