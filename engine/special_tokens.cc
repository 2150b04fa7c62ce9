#include "engine/special_tokens.h"

#include <algorithm>

namespace thermocline {

SpecialTokens::SpecialTokens(const Vocabulary& vocabulary) {
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view text = vocabulary.text(id);
    if (text.empty() || !vocabulary.IsSpecial(id)) continue;
    names_.push_back({text, id, vocabulary.type(id) == TokenizerData::kUserDefined});
    leads_[static_cast<uint8_t>(text[0])] = true;
  }
  std::stable_sort(names_.begin(), names_.end(),
                   [](const Name& a, const Name& b) { return a.text.size() > b.text.size(); });
  for (size_t i = 0; i < names_.size(); ++i) {
    const size_t length = names_[i].text.size();
    if (lengths_.empty() || lengths_.back() != length) lengths_.push_back(length);
    index_.emplace(names_[i].text, i);
  }
}

std::vector<bool> SpecialTokens::Occurring(std::string_view text) const {
  std::vector<bool> occurs(names_.size());
  for (size_t at = 0; at < text.size(); ++at) {
    if (!leads_[static_cast<uint8_t>(text[at])]) continue;
    for (const size_t length : lengths_) {
      if (length > text.size() - at) continue;
      const auto found = index_.find(text.substr(at, length));
      if (found != index_.end()) occurs[found->second] = true;
    }
  }
  return occurs;
}

std::vector<SpecialTokens::Fragment> SpecialTokens::Split(std::string_view text,
                                                          bool parse_special) const {
  std::vector<Fragment> fragments;
  if (text.empty()) return fragments;
  fragments.push_back({text, Vocabulary::kNone});
  const std::vector<bool> occurs = Occurring(text);
  std::vector<Fragment> cut;
  for (size_t i = 0; i < names_.size(); ++i) {
    const Name& name = names_[i];
    if (!occurs[i] || !(parse_special || name.user_defined)) continue;
    cut.clear();
    for (const Fragment& fragment : fragments) {
      std::string_view rest = fragment.text;
      while (fragment.id == Vocabulary::kNone) {
        const size_t at = rest.find(name.text);
        if (at == std::string_view::npos) break;
        if (at > 0) cut.push_back({rest.substr(0, at), Vocabulary::kNone});
        cut.push_back({rest.substr(at, name.text.size()), name.id});
        rest.remove_prefix(at + name.text.size());
      }
      if (!rest.empty()) cut.push_back({rest, fragment.id});
    }
    fragments.swap(cut);
  }
  return fragments;
}

}  // namespace thermocline
