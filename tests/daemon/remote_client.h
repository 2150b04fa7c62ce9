// Clients without the map, by hand: certificates made by the openssl program, the stream that is a
// remote session, and blocks by Read and Write.
#pragma once
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "base/file_util.h"
#include "hashing/checksum.h"
#include "hashing/sha256.h"
#include "tests/daemon/daemon_process.h"

namespace thermocline::testing {

inline bool HaveOpenssl() { return std::system("openssl version >/dev/null 2>&1") == 0; }

inline std::string ContentOf(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// Files NAME.pem and NAME.key in a directory, signed by the authority of that directory.
class Certificates {
 public:
  explicit Certificates(std::string directory) : directory_(std::move(directory)) {
    std::filesystem::create_directories(directory_);
    Run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj '/CN=test CA' -keyout ca.key -out ca.pem");
  }
  void Make(const std::string& name) const {
    Run("openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=" +
        name + " -keyout " + name + ".key.new -out " + name +
        ".csr && printf 'subjectAltName=IP:127.0.0.1,DNS:localhost' >ext && openssl x509 -req "
        "-in " +
        name + ".csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out " + name +
        ".pem.new && mv " + name + ".key.new " + name + ".key && mv " + name + ".pem.new " + name +
        ".pem");
  }
  std::string Path(const std::string& file) const { return directory_ + "/" + file; }
  std::string Content(const std::string& file) const { return ContentOf(Path(file)); }

 private:
  void Run(const std::string& command) const {
    const std::string quiet = "cd " + directory_ + " && (" + command + ") >openssl.log 2>&1";
    if (std::system(quiet.c_str()) == 0) return;
    ADD_FAILURE() << command << "\n" << Content("openssl.log");
  }
  std::string directory_;
};

inline constexpr char kWriterToken[] = "writer-0123456789abcdef0123456789abcdef";
inline constexpr char kReaderToken[] = "reader-0123456789abcdef0123456789abcdef";

inline std::string TokenLine(const std::string& token, const std::string& role) {
  Sha256Builder sha;
  sha.Raw(std::as_bytes(std::span(token.data(), token.size())));
  return ToHex(sha.Finish()) + " default " + role + " test-" + role + "\n";
}

/// A place with certificates "server" and "client", both tokens, and the options that open the
/// door.
struct RemotePlace : DaemonPlace {
  RemotePlace() : certificates(root + "/tls"), token_file(root + "/tokens") {
    certificates.Make("server");
    certificates.Make("client");
    WriteTokens(TokenLine(kWriterToken, "writer") + "# nobody\n" +
                TokenLine(kReaderToken, "reader"));
  }
  void WriteTokens(const std::string& content) const {
    EXPECT_TRUE(WriteFileAtomically(token_file, content).ok());
  }
  std::vector<std::string> Options() const {
    return {"--grpc-listen=127.0.0.1:0", "--tls-certificate=" + certificates.Path("server.pem"),
            "--tls-key=" + certificates.Path("server.key"),
            "--tls-client-ca=" + certificates.Path("ca.pem"), "--token-file=" + token_file};
  }
  std::string Address() const {
    std::string address = ContentOf(socket + ".tcp");
    if (!address.empty()) address.pop_back();  // the newline
    return address;
  }
  /// To the TCP door, with the client's certificate of `shown`, trusting what `trusted` signed.
  std::shared_ptr<grpc::Channel> Channel(const Certificates& trusted, const Certificates& shown) {
    return ChannelWith(grpc::SslCredentials({.pem_root_certs = trusted.Content("ca.pem"),
                                             .pem_private_key = shown.Content("client.key"),
                                             .pem_cert_chain = shown.Content("client.pem")}));
  }
  std::shared_ptr<grpc::Channel> Channel() { return Channel(certificates, certificates); }
  std::shared_ptr<grpc::Channel> ChannelWith(
      const std::shared_ptr<grpc::ChannelCredentials>& credentials) const {
    grpc::ChannelArguments arguments;
    // What a reader takes ahead is what tests say, however fast the machine is.
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetMaxReceiveMessageSize(64 << 20);
    arguments.SetInt("grpc.use_local_subchannel_pool", 1);
    arguments.SetInt("grpc.enable_http_proxy", 0);
    return grpc::CreateCustomChannel(Address(), credentials, arguments);
  }

  Certificates certificates;
  std::string token_file;
};

/// A session by Control.OpenRemoteSession. Beats only where a test says so.
class RemoteClient : public RawClient {
 public:
  RemoteClient(std::shared_ptr<grpc::Channel> channel, const std::string& bearer,
               uint32_t protocol_version = kProtocolVersion)
      : RawClient(std::move(channel)) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    if (!bearer.empty()) context_.AddMetadata("authorization", "Bearer " + bearer);
    stream_ = control->OpenRemoteSession(&context_);
    v1::RemoteSessionRequest hello;
    hello.mutable_hello()->set_protocol_version(protocol_version);
    hello.mutable_hello()->set_client_name("test");
    v1::RemoteSessionResponse answer;
    if (stream_->Write(hello) && stream_->Read(&answer)) welcome = answer.welcome();
    token = Hex(welcome.session_token());
  }
  ~RemoteClient() {
    context_.TryCancel();
    if (!finished_) stream_->Finish();
  }
  bool welcomed() const { return welcome.session() != 0; }
  /// Whether it was answered.
  bool Beat() {
    v1::RemoteSessionRequest request;
    request.set_beat(++beat_);
    v1::RemoteSessionResponse answer;
    return stream_->Write(request) && stream_->Read(&answer) && answer.beat() == beat_;
  }
  /// How the session ended: waits for it.
  grpc::Status Finish() {
    v1::RemoteSessionResponse answer;
    while (stream_->Read(&answer)) {
    }
    finished_ = true;
    return stream_->Finish();
  }
  /// Ends it in good order.
  grpc::Status Leave() {
    stream_->WritesDone();
    return Finish();
  }

  v1::RemoteWelcome welcome;

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::RemoteSessionRequest, v1::RemoteSessionResponse>>
      stream_;
  uint64_t beat_ = 0;
  bool finished_ = false;
};

/// Different at every byte, block and seed.
inline std::string PayloadOf(int32_t seed, uint32_t depth, uint64_t bytes) {
  std::string payload(bytes, '\0');
  uint64_t state = uint64_t(seed) << 32 | depth;
  for (char& c : payload) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    c = static_cast<char>(state >> 56);
  }
  return payload;
}

inline v1::WritePiece Piece(uint64_t offset, uint64_t at, std::string data) {
  v1::WritePiece piece;
  piece.set_offset(offset);
  piece.set_at(at);
  piece.set_data(std::move(data));
  return piece;
}

/// Sends messages of one piece each.
inline grpc::Status WritePieces(const RawClient& client,
                                const std::vector<v1::WritePiece>& pieces) {
  grpc::ClientContext context;
  client.Prepare(context);
  v1::WriteResponse response;
  const auto writer = client.data->Write(&context, &response);
  for (const v1::WritePiece& piece : pieces) {
    v1::WriteRequest request;
    *request.add_pieces() = piece;
    if (!writer->Write(request)) break;
  }
  writer->WritesDone();
  return writer->Finish();
}

inline std::vector<v1::WritePiece> PiecesOf(uint64_t offset, const std::string& payload) {
  std::vector<v1::WritePiece> pieces;
  for (size_t at = 0; at < payload.size(); at += 1 << 20) {
    pieces.push_back(Piece(offset, at, payload.substr(at, 1 << 20)));
  }
  return pieces;
}

inline v1::ReserveResponse ReserveSlots(const RawClient& client, uint32_t space, uint32_t count) {
  v1::ReserveRequest request;
  request.set_space(space);
  request.set_count(count);
  request.set_wait_ms(30'000);
  v1::ReserveResponse slots;
  const auto status = client.Call(*client.data, &v1::Data::Stub::Reserve, request, &slots);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return slots;
}

inline grpc::Status CommitSlots(const RawClient& client, uint64_t lease, int32_t seed,
                                const v1::ReserveResponse& slots, uint64_t checksum = 0) {
  v1::CommitRequest request;
  request.set_lease(lease);
  request.mutable_names()->set_tokens(TokensOf(static_cast<uint32_t>(slots.offsets_size()), seed));
  for (int i = 0; i < slots.offsets_size(); ++i) {
    v1::CommitItem* item = request.add_items();
    item->set_offset(slots.offsets(i));
    item->set_depth(static_cast<uint32_t>(i));
    item->set_checksum(checksum);
  }
  v1::CommitResponse response;
  return client.Call(*client.data, &v1::Data::Stub::Commit, request, &response);
}

/// Sends and commits `places` places of a prompt of which nothing is there. The lease, kept.
inline uint64_t SendTokens(const RawClient& client, uint32_t space, uint32_t places, int32_t seed,
                           uint64_t block_bytes) {
  const uint64_t lease = MatchTokens(client, space, places, seed).lease();
  const v1::ReserveResponse slots = ReserveSlots(client, space, places);
  std::vector<v1::WritePiece> pieces;
  for (uint32_t depth = 0; depth < places; ++depth) {
    const auto more =
        PiecesOf(slots.offsets(static_cast<int>(depth)), PayloadOf(seed, depth, block_bytes));
    pieces.insert(pieces.end(), more.begin(), more.end());
  }
  const grpc::Status sent = WritePieces(client, pieces);
  EXPECT_TRUE(sent.ok()) << sent.error_message();
  const grpc::Status committed = CommitSlots(client, lease, seed, slots);
  EXPECT_TRUE(committed.ok()) << committed.error_message();
  return lease;
}

/// The payloads of a leased path in the order in which they came; the message sizes are checked.
inline grpc::Status ReadLease(const RawClient& client, uint64_t lease, uint32_t from_depth,
                              std::vector<std::pair<v1::Block, std::string>>& blocks) {
  grpc::ClientContext context;
  client.Prepare(context);
  v1::ReadRequest request;
  request.set_lease(lease);
  request.set_from_depth(from_depth);
  const auto reader = client.data->Read(&context, request);
  for (v1::ReadResponse response; reader->Read(&response);) {
    size_t bytes = 0;
    for (const v1::ReadPiece& piece : response.pieces()) {
      bytes += piece.data().size();
      if (piece.at() == 0) blocks.emplace_back(piece.block(), std::string());
      EXPECT_EQ(piece.at(), blocks.back().second.size()) << "in order";
      EXPECT_EQ(piece.block().id(), blocks.back().first.id());
      blocks.back().second += piece.data();
    }
    EXPECT_LE(bytes, size_t{1} << 20);
  }
  return reader->Finish();
}

/// How many blocks came, from the first on, that are whole and what SendTokens sent.
inline uint32_t RightBlocks(const std::vector<std::pair<v1::Block, std::string>>& blocks,
                            int32_t seed, uint32_t from_depth = 0) {
  uint32_t right = 0;
  for (const auto& [block, payload] : blocks) {
    const bool whole =
        payload.size() == block.bytes() &&
        Checksum(std::as_bytes(std::span(payload.data(), payload.size()))) == block.checksum();
    if (!whole || block.depth() != from_depth + right ||
        payload != PayloadOf(seed, block.depth(), block.bytes())) {
      break;
    }
    ++right;
  }
  return right;
}

}  // namespace thermocline::testing
