#include "hashing/token_ids.h"

#include <charconv>

namespace thermocline {
namespace {

constexpr std::string_view kBlanks = " \t\n\v\f\r";
constexpr size_t kShownBytes = 32;  // of a wrong id

std::string_view Trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) + 1 - begin);
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> ParseTokenIds(std::string_view text,
                                                   const std::string& where) {
  std::vector<int32_t> ids;
  text = Trim(text);
  bool more = !text.empty();
  while (more) {
    const size_t length = text.find_first_of(", \t\n\v\f\r");
    const std::string_view word = text.substr(0, length);
    int32_t id = -1;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc() || end != word.data() + word.size() || id < 0) {
      return absl::InvalidArgumentError(
          "id " + std::to_string(ids.size() + 1) + " of " + where + " is '" +
          std::string(word.substr(0, kShownBytes)) +
          "'; token ids are whole numbers from 0 to 2147483647, separated like 1,2,3");
    }
    ids.push_back(id);
    text = Trim(text.substr(word.size()));
    more = !text.empty();
    if (more && text.front() == ',') text = Trim(text.substr(1));
  }
  return ids;
}

}  // namespace thermocline
