#include "engine/pre_tokenizer.h"

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include <optional>
#include <string>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace thermocline {
namespace {

constexpr uint32_t kMatchLimit = 10'000'000;  // steps of one match
constexpr uint32_t kDepthLimit = 100'000;     // nested backtracking of one match
constexpr uint32_t kHeapLimitKib = 64 * 1024;

// White space as Unicode and llama.cpp have it. PCRE2's own \s is ASCII without PCRE2_UCP and has
// U+180E too with it.
#define TC_SPACE                                              \
  R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a})" \
  R"(\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"

// Language Models are Unsupervised Multitask Learners (2019), section 2.2; its last branch (runs of
// space) is left to the cutting itself where nothing follows a run.
constexpr const char* kGpt2 =
    "'s|'t|'re|'ve|'m|'ll|'d"
    R"(| ?\p{L}+| ?\p{N}+| ?[^\p{L}\p{N})" TC_SPACE
    "]+"
    "|[" TC_SPACE "]+(?![^" TC_SPACE "])|[" TC_SPACE "]+";
constexpr const char* kOneNumber = R"(\p{N})";
constexpr const char* kPunctuation = R"([\p{P}$+<=>^~|]+)";
constexpr const char* kNumbers = R"(\p{N}+)";
constexpr const char* kThreeDigits = "[0-9][0-9][0-9]";

struct Recipe {
  const char* name;
  std::vector<const char*> expressions;
};

const std::vector<Recipe>& Recipes() {
  static const std::vector<Recipe> recipes = {
      {"smollm", {kOneNumber, kGpt2}},
      {"gpt-2", {kGpt2}},
      {"gpt2", {kGpt2}},
      {"default", {kPunctuation, kGpt2, kNumbers, kThreeDigits}},
  };
  return recipes;
}

std::string RegexError(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

struct Free {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

}  // namespace

/// What one Split needs of its own.
class PreTokenizer::Scratch {
 public:
  Scratch()
      : context(pcre2_match_context_create(nullptr)), data(pcre2_match_data_create(1, nullptr)) {
    if (!ok()) return;
    pcre2_set_match_limit(context.get(), kMatchLimit);
    pcre2_set_depth_limit(context.get(), kDepthLimit);
    pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  }
  [[nodiscard]] bool ok() const { return context && data; }

  std::unique_ptr<pcre2_match_context, Free> context;
  std::unique_ptr<pcre2_match_data, Free> data;
};

class PreTokenizer::Expression {
 public:
  struct Range {
    size_t begin;
    size_t end;
  };

  static absl::StatusOr<std::unique_ptr<Expression>> Compile(const char* pattern) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    std::unique_ptr<pcre2_code, Free> code(
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                      PCRE2_UTF | PCRE2_NO_AUTO_CAPTURE, &error, &offset, nullptr));
    if (!code) {
      return absl::InternalError(absl::StrCat("pre-tokenizer: expression /", pattern, "/ at ",
                                              offset, ": ", RegexError(error)));
    }
    // Where the machine forbids writing code, PCRE2 interprets instead, with equal results.
    pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
    return std::unique_ptr<Expression>(new Expression(std::move(code)));
  }

  /// The first match in `text` at or after `from`, if any.
  absl::StatusOr<std::optional<Range>> Find(std::string_view text, size_t from,
                                            Scratch& scratch) const {
    const int found =
        pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                    PCRE2_NO_UTF_CHECK, scratch.data.get(), scratch.context.get());
    if (found == PCRE2_ERROR_NOMATCH) return std::optional<Range>();
    if (found < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("pre-tokenizer: matching stopped at byte ", from, " of a piece of ",
                       text.size(), ": ", RegexError(found), "; give the text in smaller parts"));
    }
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(scratch.data.get());
    if (ends[0] < from || ends[1] <= ends[0] || ends[1] > text.size()) {
      return absl::InternalError(absl::StrCat("pre-tokenizer: an empty or misplaced match at byte ",
                                              from, " of a piece of ", text.size()));
    }
    return std::optional<Range>({ends[0], ends[1]});
  }

 private:
  explicit Expression(std::unique_ptr<pcre2_code, Free> code) : code_(std::move(code)) {}
  std::unique_ptr<pcre2_code, Free> code_;
};

PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Create(std::string_view name) {
  if (name.empty()) name = "default";
  std::string known;
  for (const Recipe& recipe : Recipes()) {
    if (recipe.name != name) {
      absl::StrAppend(&known, known.empty() ? "" : ", ", recipe.name);
      continue;
    }
    std::unique_ptr<PreTokenizer> made(new PreTokenizer);
    for (const char* pattern : recipe.expressions) {
      TC_ASSIGN_OR_RETURN(auto expression, Expression::Compile(pattern));
      made->expressions_.push_back(std::move(expression));
    }
    return made;
  }
  return absl::UnimplementedError(
      absl::StrCat("tokenizer: pre-tokenizer \"", absl::CHexEscape(std::string(name.substr(0, 64))),
                   "\" (tokenizer.ggml.pre) is not supported; supported are ", known));
}

absl::Status PreTokenizer::Split(std::string_view text,
                                 absl::FunctionRef<void(std::string_view)> take) const {
  if (text.empty()) return absl::OkStatus();
  Scratch scratch;
  if (!scratch.ok()) return absl::ResourceExhaustedError("pre-tokenizer: out of memory");
  return SplitFrom(0, text, scratch, take);
}

absl::Status PreTokenizer::SplitFrom(size_t first, std::string_view piece, Scratch& scratch,
                                     absl::FunctionRef<void(std::string_view)> take) const {
  if (first == expressions_.size()) {
    take(piece);
    return absl::OkStatus();
  }
  size_t done = 0;
  while (done < piece.size()) {
    TC_ASSIGN_OR_RETURN(const auto match, expressions_[first]->Find(piece, done, scratch));
    const size_t begin = match ? match->begin : piece.size();
    if (begin > done) {
      const auto gap = piece.substr(done, begin - done);
      TC_RETURN_IF_ERROR(SplitFrom(first + 1, gap, scratch, take));
    }
    if (!match) break;
    const auto matched = piece.substr(match->begin, match->end - match->begin);
    TC_RETURN_IF_ERROR(SplitFrom(first + 1, matched, scratch, take));
    done = match->end;
  }
  return absl::OkStatus();
}

}  // namespace thermocline
