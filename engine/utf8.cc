#include "engine/utf8.h"

#include "base/check.h"

namespace thermocline {
namespace {

constexpr char32_t kReplacement = 0xfffd;
constexpr char32_t kMaxCodePoint = 0x10ffff;
constexpr size_t kMaxUtf8Length = 4;

bool IsContinuation(char byte) { return (static_cast<uint8_t>(byte) & 0xc0) == 0x80; }

}  // namespace

void AppendUtf8(char32_t code_point, std::string& out) {
  TC_CHECK(code_point <= kMaxCodePoint);
  if (code_point < 0x80) {
    out.push_back(static_cast<char>(code_point));
    return;
  }
  int shift = code_point < 0x800 ? 6 : code_point < 0x10000 ? 12 : 18;
  const uint8_t lead = code_point < 0x800 ? 0xc0 : code_point < 0x10000 ? 0xe0 : 0xf0;
  out.push_back(static_cast<char>(lead | code_point >> shift));
  for (shift -= 6; shift >= 0; shift -= 6) {
    out.push_back(static_cast<char>(0x80 | (code_point >> shift & 0x3f)));
  }
}

size_t Utf8Length(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  return byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : kMaxUtf8Length;
}

char32_t TakeCodePoint(std::string_view& text) {
  TC_CHECK(!text.empty());
  const auto lead = static_cast<uint8_t>(text[0]);
  const size_t length = Utf8Length(text[0]);
  bool whole = lead < 0x80 || (lead >= 0xc0 && lead < 0xf8 && length <= text.size());
  for (size_t i = 1; whole && i < length; ++i) whole = IsContinuation(text[i]);
  if (!whole) {
    text.remove_prefix(1);
    return kReplacement;
  }
  char32_t value = length == 1 ? lead : lead & (0xffu >> (length + 1));
  for (size_t i = 1; i < length; ++i) value = value << 6 | (static_cast<uint8_t>(text[i]) & 0x3f);
  text.remove_prefix(length);
  const bool surrogate = value >= 0xd800 && value < 0xe000;
  return surrogate || value > kMaxCodePoint ? kReplacement : value;
}

std::string RepairUtf8(std::string_view text) {
  std::string repaired;
  repaired.reserve(text.size());
  while (!text.empty()) AppendUtf8(TakeCodePoint(text), repaired);
  return repaired;
}

size_t IncompleteUtf8Suffix(std::string_view text) {
  for (size_t length = 1; length < kMaxUtf8Length && length <= text.size(); ++length) {
    const char byte = text[text.size() - length];
    if (IsContinuation(byte)) continue;
    return Utf8Length(byte) > length && static_cast<uint8_t>(byte) < 0xf8 ? length : 0;
  }
  return 0;
}

}  // namespace thermocline
