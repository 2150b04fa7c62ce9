// Drives a libFuzzer target without libFuzzer: every file of the kept corpus, then seeded mutations
// of them. It finds less than the `fuzz` preset does, but it runs under every compiler and
// sanitizer and in every test run. The input under test lies in a file, which a crash leaves
// behind.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr int kMutationsPerInput = 400;
constexpr int kMostEditsPerMutation = 8;

std::vector<std::vector<uint8_t>> ReadCorpus(const char* directory) {
  std::vector<std::vector<uint8_t>> inputs(1);  // the empty input first
  if (!std::filesystem::is_directory(directory)) return inputs;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());  // so that a seed means the same everywhere
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return inputs;
}

void Mutate(std::vector<uint8_t>& bytes, std::mt19937_64& random) {
  const int edits = 1 + static_cast<int>(random() % kMostEditsPerMutation);
  for (int i = 0; i < edits; ++i) {
    const size_t at = bytes.empty() ? 0 : random() % bytes.size();
    switch (random() % 5) {
      case 0:
        if (!bytes.empty()) bytes[at] ^= static_cast<uint8_t>(1u << random() % 8);
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<uint8_t>(random());
        break;
      case 2:
        bytes.resize(at);
        break;
      case 3:
        bytes.insert(bytes.begin() + static_cast<ptrdiff_t>(at), static_cast<uint8_t>(random()));
        break;
      default:  // a length field gone wild
        for (size_t k = at; k < bytes.size() && k < at + 8; ++k) bytes[k] = 0xff;
    }
  }
}

void Run(const std::vector<uint8_t>& input, const std::string& kept) {
  std::ofstream(kept, std::ios::binary)
      .write(reinterpret_cast<const char*>(input.data()),
             static_cast<std::streamsize>(input.size()));
  LLVMFuzzerTestOneInput(input.data(), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  const char* given = std::getenv("TC_SEED");
  const uint64_t seed = given ? std::strtoull(given, nullptr, 0) : std::random_device{}();
  const std::string kept = std::string(argv[0]) + ".crashed";
  std::printf("TC_SEED=%llu; an input that crashes is left in %s\n",
              static_cast<unsigned long long>(seed), kept.c_str());
  std::fflush(stdout);
  std::mt19937_64 random(seed);
  size_t runs = 0;
  for (const auto& input : ReadCorpus(argc > 1 ? argv[1] : "")) {
    Run(input, kept);
    for (int i = 0; i < kMutationsPerInput; ++i, ++runs) {
      auto mutated = input;
      Mutate(mutated, random);
      Run(mutated, kept);
    }
  }
  std::filesystem::remove(kept);
  std::printf("%zu inputs\n", runs);
  return 0;
}
