// The engine itself is stopped in the middle of an answer, as by a laptop's lid: its leases end,
// and what it read from the cache is void. It must notice, compute again, and answer the same.
#include "tests/e2e/cached_run.h"

namespace thermocline {
namespace {

using std::chrono::seconds;

// A lease lasts for ten seconds after the process's last sign (proto/shm_layout.h).
constexpr seconds kLongerThanALease{11};

TEST(StoppedEngineTest, AnEngineStoppedForLongerThanItsLeaseComputesAgain) {
  TC_NEED_FILE(SmolLm2Path());
  const std::string prompt = ReadJson(kDemoGolden)["document"].get<std::string>().substr(0, 400);
  DaemonProcess daemon;
  const auto client = daemon.Connect();
  const auto ask = [&](const std::vector<std::string>& where,
                       const std::function<void(pid_t)>& on) {
    std::vector<std::string> words = {TC_BUILD_DIR "/bin/thermocline-engine",
                                      "generate",
                                      "--model",
                                      SmolLm2Path(),
                                      "--prompt",
                                      prompt,
                                      "--max-tokens",
                                      "70",
                                      "--json"};
    words.insert(words.end(), where.begin(), where.end());
    int out[2];
    TC_CHECK(::pipe2(out, O_CLOEXEC) == 0);
    const pid_t engine = Spawn(words, 0, out[1], 2);
    ::close(out[1]);
    on(engine);
    std::string text;
    char bytes[4096];
    for (ssize_t n; (n = ::read(out[0], bytes, sizeof bytes)) > 0;) text.append(bytes, n);
    ::close(out[0]);
    int status = 0;
    ::waitpid(engine, &status, 0);
    EXPECT_EQ(status, 0);
    return nlohmann::json::parse(text, nullptr, false);
  };
  const auto plain = ask({"--no-cache"}, [](pid_t) {});
  const size_t prompt_blocks = plain["prompt_ids"].size() / kBlockTokens;
  const auto stopped = ask({"--socket", daemon.socket()}, [&](pid_t engine) {
    EXPECT_TRUE(Eventually([&] { return client->Stats()->places >= prompt_blocks; }, seconds(60)));
    ::kill(engine, SIGSTOP);
    std::this_thread::sleep_for(kLongerThanALease + seconds(1));
    ::kill(engine, SIGCONT);
  });
  EXPECT_EQ(stopped["output_ids"], plain["output_ids"]);
  EXPECT_EQ(stopped["recoveries"], 1) << "had it ended before it was stopped?";
  EXPECT_EQ(plain["recoveries"], 0);
}

}  // namespace
}  // namespace thermocline
