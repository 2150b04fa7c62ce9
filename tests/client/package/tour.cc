// Answers a prompt: what the cache holds is read in place, the rest is computed and committed.
#include <client/client.h>
using namespace thermocline;

void Attend(std::span<const std::byte> block);  // of your engine: reads 16 tokens' KV
void Compute(std::span<const int32_t> tokens, std::span<std::byte> block);  // writes 16 tokens' KV

absl::Status Answer(const SpaceSpec& spec, const std::vector<int32_t>& prompt) {
  auto client = Client::Connect({.client_name = "my-engine"});  // the daemon of this machine
  if (!client.ok()) return client.status();  // says which socket, and how to start one
  auto space = (*client)->OpenSpace(spec);   // what makes KV interchangeable
  if (!space.ok()) return space.status();
  auto lease = space->Match(prompt);  // the longest prefix that is here, held while we read
  if (!lease.ok()) return lease.status();
  auto known = lease->Load();  // promotes what lies on disk; answers in blocks of 16 tokens
  if (!known.ok()) return known.status();
  for (uint32_t i = 0; i < *known; ++i) Attend(lease->View(i));  // where it lies: no copy
  auto slots = space->Reserve(prompt.size() / 16 - *known);      // memory of the arena to fill
  if (!slots.ok()) return slots.status();                        // full: go on without the cache
  const auto rest = std::span(prompt).subspan(*known * 16, slots->size() * 16);
  for (size_t i = 0; i < slots->size(); ++i) Compute(rest.subspan(16 * i, 16), (*slots)[i].bytes());
  TC_RETURN_IF_ERROR(lease->Commit(rest, *std::move(slots)));  // now others find them
  return lease->StillValid() ? absl::OkStatus() : absl::AbortedError("compute again, uncached");
}
