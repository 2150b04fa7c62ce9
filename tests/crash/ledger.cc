#include "tests/crash/ledger.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "base/check.h"
#include "base/unique_fd.h"

namespace thermocline::crash {
namespace {

constexpr size_t kCountersBytes = 4096;
static_assert(sizeof(Counters) <= kCountersBytes);

// In one write, so that lines of several processes do not mix.
void AppendLine(const std::string& path, std::string line) {
  for (char& c : line) {
    if (c == '\n') c = ' ';
  }
  line += '\n';
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  TC_CHECK(::write(file.get(), line.data(), line.size()) == static_cast<ssize_t>(line.size()));
}

std::vector<std::string> Lines(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::string Format(const PathRecord& record) {
  std::string line = std::to_string(record.space);
  for (uint32_t choice : record.path) line += " " + std::to_string(choice);
  return line;
}

std::vector<PathRecord> Paths(const std::string& file) {
  std::vector<PathRecord> records;
  for (const std::string& line : Lines(file)) {
    std::istringstream words(line);
    PathRecord record;
    words >> record.space;
    for (uint32_t choice = 0; words >> choice;) record.path.push_back(choice);
    records.push_back(std::move(record));
  }
  return records;
}

}  // namespace

Ledger::Ledger(const std::string& directory) : directory_(directory) {
  const UniqueFd file(
      ::open((directory + "/counters").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  TC_CHECK(::ftruncate(file.get(), kCountersBytes) == 0);
  void* memory = ::mmap(nullptr, kCountersBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  TC_CHECK(memory != MAP_FAILED);
  counters_ = static_cast<Counters*>(memory);
}

Ledger::~Ledger() { ::munmap(counters_, kCountersBytes); }

void Ledger::AddViolation(const std::string& text) { AppendLine(violations_path(), text); }

std::vector<std::string> Ledger::Violations() const { return Lines(violations_path()); }

void Ledger::AddPin(const PathRecord& pin) {
  AppendLine(pins_path(), Format(pin));
  ++counters_->pins;
}

std::vector<PathRecord> Ledger::Pins() const { return Paths(pins_path()); }

bool Ledger::AddDurable(const PathRecord& path) {
  if (counters_->cutting_power != 0) return false;
  AppendLine(durable_path(), Format(path));
  ++counters_->durable_commits;
  return true;
}

std::vector<PathRecord> Ledger::Durable() const { return Paths(durable_path()); }

}  // namespace thermocline::crash
