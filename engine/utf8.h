// The two things that tokenizers must know of UTF-8: how to read text that is not quite UTF-8, the
// way llama.cpp reads it (its ids are the reference), and where a text that is still growing may
// be cut.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace thermocline {

/// Appends the UTF-8 form of `code_point`. Requires: a Unicode scalar value.
void AppendUtf8(char32_t code_point, std::string& out);

/// Bytes of the character that `lead` opens by its high bits alone: 1 for ASCII and for a byte
/// that opens nothing, else 2 to 4.
[[nodiscard]] size_t Utf8Length(char lead);

/// The code point at the front of `text`, which is shortened by it. Overlong forms are taken at
/// their value; a byte that opens no whole sequence, a surrogate and a value above U+10FFFF give
/// U+FFFD. Requires: `text` is not empty.
[[nodiscard]] char32_t TakeCodePoint(std::string_view& text);

/// `text` read by TakeCodePoint and written again: valid UTF-8, and unchanged if it was that.
[[nodiscard]] std::string RepairUtf8(std::string_view text);

/// Bytes at the end of `text` that begin a character but do not finish it: 0 to 3.
[[nodiscard]] size_t IncompleteUtf8Suffix(std::string_view text);

}  // namespace thermocline
