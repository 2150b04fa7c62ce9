#include "daemon/remote_tokens.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include "base/file_util.h"
#include "base/log.h"

namespace thermocline {
namespace {

constexpr uint64_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxTokens = 4096;
constexpr size_t kMaxWordCharacters = 128;
constexpr std::string_view kBlank = " \t\r";

/// The words of a line up to a '#'; one more than `most` when there are more.
std::vector<std::string_view> WordsOf(std::string_view line, size_t most) {
  line = line.substr(0, line.find('#'));
  std::vector<std::string_view> words;
  while (words.size() <= most) {
    const size_t begin = line.find_first_not_of(kBlank);
    if (begin == std::string_view::npos) break;
    line.remove_prefix(begin);
    const size_t end = std::min(line.find_first_of(kBlank), line.size());
    words.push_back(line.substr(0, end));
    line.remove_prefix(end);
  }
  return words;
}

bool IsPlainWord(std::string_view word) {
  return word.size() <= kMaxWordCharacters &&
         std::all_of(word.begin(), word.end(), [](char c) { return c > ' ' && c <= '~'; });
}

absl::StatusOr<RemoteToken> TokenOf(const std::vector<std::string_view>& words,
                                    const std::vector<std::string>& tenants) {
  if (words.size() != 4) {
    return absl::InvalidArgumentError(
        "a line is: SHA-256 of the token, tenant, \"reader\" or \"writer\", name");
  }
  RemoteToken token;
  const absl::StatusOr<Sha256> hash = Sha256FromHex(words[0]);
  if (!hash.ok()) {
    return absl::InvalidArgumentError(
        "the first word must be the SHA-256 of the token, 64 hexadecimal digits, as given by "
        "printf %s TOKEN | sha256sum");
  }
  if (std::find(tenants.begin(), tenants.end(), words[1]) == tenants.end()) {
    std::string known;
    for (const std::string& name : tenants) {
      known += (known.empty() ? "\"" : ", \"") + name + "\"";
    }
    return absl::InvalidArgumentError("this daemon has no tenant of that name; it has " + known);
  }
  if (words[2] != "reader" && words[2] != "writer") {
    return absl::InvalidArgumentError("the role must be \"reader\" or \"writer\"");
  }
  if (!IsPlainWord(words[3])) {
    return absl::InvalidArgumentError("the name must be of at most " +
                                      std::to_string(kMaxWordCharacters) + " ASCII characters");
  }
  token.hash = *hash;
  token.tenant = words[1];
  token.may_write = words[2] == "writer";
  token.name = words[3];
  return token;
}

}  // namespace

Sha256 HashOfRemoteToken(std::string_view token) {
  Sha256Builder sha;
  sha.Raw(std::as_bytes(std::span(token.data(), token.size())));
  return sha.Finish();
}

absl::StatusOr<std::vector<RemoteToken>> ParseRemoteTokens(
    std::string_view content, std::string_view file, const std::vector<std::string>& tenants) {
  std::vector<RemoteToken> tokens;
  for (size_t number = 1; !content.empty(); ++number) {
    const size_t end = std::min(content.find('\n'), content.size());
    const auto words = WordsOf(content.substr(0, end), 4);
    content.remove_prefix(std::min(end + 1, content.size()));
    if (words.empty()) continue;
    const std::string where = std::string(file) + ":" + std::to_string(number);
    absl::StatusOr<RemoteToken> token = TokenOf(words, tenants);
    if (!token.ok()) return Annotate(token.status(), where);
    const bool known = std::any_of(tokens.begin(), tokens.end(),
                                   [&](const auto& other) { return other.hash == token->hash; });
    if (known) return absl::InvalidArgumentError(where + ": this token has a line already");
    if (tokens.size() == kMaxTokens) {
      return absl::InvalidArgumentError(where + ": more than " + std::to_string(kMaxTokens) +
                                        " tokens");
    }
    tokens.push_back(*std::move(token));
  }
  return tokens;
}

absl::StatusOr<std::unique_ptr<RemoteTokenFile>> RemoteTokenFile::Open(
    std::string path, std::vector<std::string> tenants) {
  std::unique_ptr<RemoteTokenFile> file(new RemoteTokenFile(std::move(path), std::move(tenants)));
  TC_RETURN_IF_ERROR(file->Reload());
  return file;
}

RemoteTokenFile::Version RemoteTokenFile::VersionOf(const struct stat& file) {
  return {file.st_ino, file.st_size, file.st_mtim};
}

absl::Status RemoteTokenFile::Reload() {
  struct stat file {};
  if (::stat(path_.c_str(), &file) != 0) return ErrnoStatus(errno, "token_file " + path_);
  {
    MutexLock lock(mutex_);
    seen_ = VersionOf(file);  // before it is read: a change meanwhile is seen the next time
  }
  if ((file.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return absl::PermissionDeniedError("token_file " + path_ +
                                       " may be written by others; chmod go-w it");
  }
  TC_ASSIGN_OR_RETURN(const std::string content, ReadFile(path_, kMaxFileBytes));
  TC_ASSIGN_OR_RETURN(std::vector<RemoteToken> tokens, ParseRemoteTokens(content, path_, tenants_));
  MutexLock lock(mutex_);
  tokens_ = std::move(tokens);
  return absl::OkStatus();
}

void RemoteTokenFile::ReloadIfChanged() {
  struct stat file {};
  const bool there = ::stat(path_.c_str(), &file) == 0;
  {
    MutexLock lock(mutex_);
    const Version now = there ? VersionOf(file) : Version{};
    if (now == seen_) return;
    seen_ = now;
  }
  const absl::Status status = Reload();
  if (status.ok()) {
    LogEvent(LogLevel::kInfo, "tokens_reloaded", {{"file", path_}});
  } else {
    LogEvent(LogLevel::kError, "tokens_not_reloaded", {{"reason", status}});
  }
}

std::optional<RemoteToken> RemoteTokenFile::Find(std::string_view token) const {
  if (token.size() < kMinTokenCharacters || token.size() > kMaxTokenCharacters) return {};
  const Sha256 hash = HashOfRemoteToken(token);
  std::optional<RemoteToken> found;
  MutexLock lock(mutex_);
  // All of them, whichever it is: how long this takes tells nothing.
  for (const RemoteToken& known : tokens_) {
    if (CRYPTO_memcmp(known.hash.data(), hash.data(), hash.size()) == 0) found = known;
  }
  return found;
}

bool RemoteTokenFile::Has(const RemoteToken& token) const {
  MutexLock lock(mutex_);
  return std::any_of(tokens_.begin(), tokens_.end(), [&](const RemoteToken& known) {
    return known.hash == token.hash && known.tenant == token.tenant &&
           known.may_write == token.may_write;
  });
}

}  // namespace thermocline
