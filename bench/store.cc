#include "bench/store.h"

#include <filesystem>
#include <fstream>

namespace thermocline::bench {
namespace {

constexpr size_t kKeyBytes = 16;

}  // namespace

absl::StatusOr<Buffers> Buffers::Make(size_t bytes) {
  Buffers buffers;
  TC_ASSIGN_OR_RETURN(buffers.source, AlignedBuffer::Make(bytes));
  TC_ASSIGN_OR_RETURN(buffers.target, AlignedBuffer::Make(bytes));
  FillContent({buffers.source.data(), bytes});
  FillContent({buffers.target.data(), bytes});
  return buffers;
}

void FillContent(std::span<std::byte> bytes) {
  uint64_t state = 0;
  auto* words = reinterpret_cast<uint64_t*>(bytes.data());
  for (size_t i = 0; i < bytes.size() / sizeof(uint64_t); ++i) {
    // SplitMix64 (Steele, Lea, Flood 2014).
    uint64_t word = state += 0x9e3779b97f4a7c15;
    word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9;
    word = (word ^ (word >> 27)) * 0x94d049bb133111eb;
    words[i] = word ^ (word >> 31);
  }
}

std::string KeyOf(const Load& load, size_t block) {
  std::string key = std::to_string(load.batch * 1'000'000 + block);
  key.resize(kKeyBytes, '.');
  return key;
}

double CpuSeconds(pid_t pid) {
  const std::string process = pid == 0 ? "self" : std::to_string(pid);
  uint64_t sum_ns = 0;
  std::error_code gone;
  for (std::filesystem::directory_iterator at("/proc/" + process + "/task", gone), end;
       !gone && at != end; at.increment(gone)) {
    uint64_t ns = 0;
    if (std::ifstream(at->path() / "schedstat") >> ns) sum_ns += ns;
  }
  return static_cast<double>(sum_ns) / 1e9;
}

}  // namespace thermocline::bench
