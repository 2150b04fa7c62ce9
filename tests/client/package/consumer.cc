// A user's program around the tour of the README. Its KV is a function of the tokens, so that what
// it attends to can be checked. Prints how many blocks it read from the cache and how many it
// computed; exits with 1, saying why, when there is no answer.
#include <client/client.h>

#include <cstring>
#include <iostream>

absl::Status Answer(const thermocline::SpaceSpec& spec, const std::vector<int32_t>& prompt);

namespace {

constexpr int32_t kPromptTokens = 16 * 5 + 3;
int attended = 0, computed = 0;
bool wrong = false;

std::byte ByteOf(int32_t token) { return static_cast<std::byte>(token * 7 + 1); }

}  // namespace

void Attend(std::span<const std::byte> block) {
  const std::byte expected = ByteOf(16 * attended++);
  for (const std::byte byte : block) wrong = wrong || byte != expected;
  wrong = wrong || block.empty();
}

void Compute(std::span<const int32_t> tokens, std::span<std::byte> block) {
  std::memset(block.data(), static_cast<int>(ByteOf(tokens[0])), block.size());
  ++computed;
}

int main() {
  thermocline::SpaceSpec spec;
  spec.model = "tour";
  spec.kv_dtype = "u8";
  spec.layers = spec.kv_heads = spec.head_dim = 1;
  spec.parts = {{.name = "all", .block_bytes = 4096}};
  spec.layout = "tour.v1";
  std::vector<int32_t> prompt;
  for (int32_t token = 0; token < kPromptTokens; ++token) prompt.push_back(token);
  const absl::Status answered = Answer(spec, prompt);
  if (!answered.ok() || wrong) {
    std::cout << (wrong ? "a block holds other bytes than were put" : answered.message()) << "\n";
    return 1;
  }
  std::cout << "attended " << attended << ", computed " << computed << "\n";
}
