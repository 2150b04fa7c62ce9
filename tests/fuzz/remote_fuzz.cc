// What comes from afar, hostile: the token file's text, the first message of a session, the
// messages that fill slots, and in which order they may.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "daemon/data_write.h"
#include "daemon/grpc_remote_session.h"
#include "daemon/remote_tokens.h"
#include "daemon/remote_work.h"

namespace {

void Require(bool condition) {
  if (!condition) std::abort();
}

using namespace thermocline;

void Tokens(std::string_view text) {
  const auto tokens = ParseRemoteTokens(text, "tokens", {"default"});
  if (!tokens.ok()) return Require(!tokens.status().message().empty());
  for (const RemoteToken& token : *tokens) {
    Require(token.tenant == "default" && !token.name.empty());
    // What was let through reads back.
    const std::string line =
        ToHex(token.hash) + " default " + (token.may_write ? "writer " : "reader ") + token.name;
    const auto again = ParseRemoteTokens(line, "tokens", {"default"});
    Require(again.ok() && again->size() == 1 && (*again)[0].name == token.name);
  }
}

void Hello(std::string_view bytes) {
  v1::RemoteSessionRequest request;
  if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  CheckRemoteHello(request).IgnoreError();
  const auto bearer = BearerOf(bytes);
  Require(!bearer || bearer->size() + 7 == bytes.size());
}

/// A slot counts as filled only when pieces that meet cover it from its start.
void Write(std::string_view bytes) {
  v1::WriteRequest request;
  if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return;
  if (!CheckWrite(request).ok()) return;
  RemoteWork work;
  for (const v1::WritePiece& piece : request.pieces()) {
    const uint64_t offsets[] = {piece.offset()};
    Require(work.Take(offsets).ok());
    const bool filled = work.Filled(piece.offset(), piece.at());
    const bool taken = work.Advance(piece.offset(), piece.at(), piece.data().size()).ok();
    Require(taken == (piece.at() == 0 || filled));
    Require(!taken || work.Filled(piece.offset(), piece.at() + piece.data().size()));
    work.LetGo(offsets);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 3) {
    case 0:
      Tokens(rest);
      break;
    case 1:
      Hello(rest);
      break;
    default:
      Write(rest);
  }
  return 0;
}
