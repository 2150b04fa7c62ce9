// Who may do what on which socket: the table of docs/security.md against a running daemon. The
// methods come from the daemon's own reflection, so that one without a line there is found.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <cctype>
#include <future>
#include <map>
#include <set>

#include "tests/daemon/remote_client.h"

namespace thermocline {
namespace {

using namespace testing;  // NOLINT: all of remote_client.h
using ::testing::ElementsAre;

const std::vector<std::string> kRoles = {"local", "admin", "reader", "writer", "none"};

/// Cells by method, as the page has them.
std::map<std::string, std::vector<std::string>> TableOfPage() {
  std::istringstream page(ContentOf(TC_SOURCE_DIR "/docs/security.md"));
  std::map<std::string, std::vector<std::string>> table;
  for (std::string line; std::getline(page, line);) {
    if (line.rfind("| `", 0) != 0) continue;
    std::istringstream cells(line.substr(1));
    std::vector<std::string> row;
    for (std::string cell; std::getline(cells, cell, '|');) {
      const size_t first = cell.find_first_not_of(" `");
      if (first == std::string::npos) continue;
      row.push_back(cell.substr(first, cell.find_last_not_of(" `") + 1 - first));
    }
    if (row.size() != kRoles.size() + 1 || row[0].find('.') == std::string::npos) continue;
    EXPECT_FALSE(table.contains(row[0])) << row[0];
    table[row[0]] = {row.begin() + 1, row.end()};
  }
  return table;
}

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  buffer.Dump(&slices).ok();
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

/// One message to a method by its name, streaming or not; how it ended. The first answer's bytes.
grpc::Status CallByName(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                        const std::string& request,
                        const std::map<std::string, std::string>& metadata,
                        std::string* answer = nullptr) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  for (const auto& [key, value] : metadata) context.AddMetadata(key, value);
  grpc::CompletionQueue queue;
  bool ok = false;
  const auto done = [&] {
    void* tag = nullptr;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  done();
  const grpc::Slice slice(request);
  call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
  done();
  for (bool first = true;; first = false) {
    grpc::ByteBuffer message;
    call->Read(&message, nullptr);
    if (!done()) break;
    if (first && answer != nullptr) *answer = BytesOf(message);
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  done();
  return status;
}

/// The services that a door says it has.
std::set<std::string> ServicesAt(const std::shared_ptr<grpc::Channel>& channel) {
  std::string answer;
  const grpc::Status status =
      CallByName(channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                 "\x3a\x01*", {}, &answer);  // list_services
  EXPECT_TRUE(status.ok()) << status.error_message();
  std::set<std::string> services;
  // Their names stand in the answer as they are: words with a dot, the last part capitalised.
  const auto in_name = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '.';
  };
  for (auto at = answer.begin(); at != answer.end();) {
    const auto first = std::find_if(at, answer.end(), in_name);
    at = std::find_if_not(first, answer.end(), in_name);
    const std::string name(first, at);
    const size_t dot = name.rfind('.');
    if (dot != std::string::npos && dot + 1 < name.size() && std::isupper(name[dot + 1])) {
      services.insert(name);
    }
  }
  return services;
}

/// Its methods, as the page names them: Service.Method.
std::vector<std::string> MethodsOf(const std::string& service) {
  const auto* descriptor =
      google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service);
  EXPECT_NE(descriptor, nullptr) << service << " is none that this test knows";
  std::vector<std::string> methods;
  for (int i = 0; descriptor != nullptr && i < descriptor->method_count(); ++i) {
    methods.push_back(descriptor->name() + "." + descriptor->method(i)->name());
  }
  return methods;
}

std::string PathOf(std::string method) {
  return "/thermocline.v1." + method.replace(method.find('.'), 1, "/");
}

bool LetIn(const grpc::Status& status) {
  return status.error_code() != grpc::StatusCode::UNAUTHENTICATED &&
         status.error_code() != grpc::StatusCode::PERMISSION_DENIED &&
         status.error_code() != grpc::StatusCode::UNIMPLEMENTED;
}

class RolesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HaveOpenssl()) GTEST_SKIP() << "needs the program openssl";
    place_ = std::make_unique<RemotePlace>();
    daemon_ = std::make_unique<DaemonProcess>(*place_, place_->Options());
    ASSERT_TRUE(daemon_->Ready());
    open_ = RawClient::Channel(place_->socket + ".grpc");
    admin_ = RawClient::Channel(place_->socket + ".admin");
    tcp_ = place_->Channel();
  }
  std::unique_ptr<RemotePlace> place_;
  std::unique_ptr<DaemonProcess> daemon_;
  std::shared_ptr<grpc::Channel> open_, admin_, tcp_;
};

TEST_F(RolesTest, EveryDoorHasTheServicesThatAreSaid) {
  EXPECT_THAT(ServicesAt(open_),
              ElementsAre("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection",
                          "thermocline.v1.Control", "thermocline.v1.Data"));
  EXPECT_EQ(ServicesAt(tcp_), ServicesAt(open_));
  EXPECT_THAT(ServicesAt(admin_),
              ElementsAre("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection",
                          "thermocline.v1.Admin"));
}

TEST_F(RolesTest, EveryMethodDoesWhatThePageSaysForEveryRole) {
  std::map<std::string, std::vector<std::string>> table = TableOfPage();
  std::vector<std::string> methods;
  for (const auto& door : {open_, admin_}) {
    for (const std::string& service : ServicesAt(door)) {
      if (service.rfind("grpc.", 0) == 0) continue;
      const auto more = MethodsOf(service);
      methods.insert(methods.end(), more.begin(), more.end());
    }
  }
  EXPECT_EQ(methods.size(), table.size()) << "a line of the page is of no method";

  RawClient local(*place_), admin(*place_, true);
  RemoteClient reader(tcp_, kReaderToken), writer(tcp_, kWriterToken);
  ASSERT_TRUE(local.session.welcomed() && admin.session.welcomed());
  ASSERT_TRUE(reader.welcomed() && writer.welcomed());
  const std::map<std::string, std::string> token = {{"local", local.token},
                                                    {"admin", admin.token},
                                                    {"reader", reader.token},
                                                    {"writer", writer.token}};
  for (const std::string& method : methods) {
    ASSERT_TRUE(table.contains(method)) << method << " has no line in docs/security.md";
    for (size_t i = 0; i < kRoles.size(); ++i) {
      const std::string& role = kRoles[i];
      const std::string& said = table[method][i];
      std::map<std::string, std::string> metadata;
      if (role != "none") metadata["thermocline-session"] = token.at(role);
      const bool remote = role == "reader" || role == "writer";
      if (said == "token") {
        // Of the door, not of a session: an empty first message is no hello, and is looked at.
        EXPECT_FALSE(LetIn(CallByName(tcp_, PathOf(method), "", {}))) << method;
        EXPECT_TRUE(LetIn(CallByName(tcp_, PathOf(method), "",
                                     {{"authorization", std::string("Bearer ") + kReaderToken}})));
        EXPECT_TRUE(LetIn(CallByName(open_, PathOf(method), "", {})));
        continue;
      }
      if (method == "Control.OpenRemoteSession" && remote) {
        metadata["authorization"] =
            std::string("Bearer ") + (role == "reader" ? kReaderToken : kWriterToken);
      }
      const bool destroys = method.rfind("Admin.", 0) == 0;
      std::vector<std::shared_ptr<grpc::Channel>> doors;
      doors.push_back(remote ? tcp_ : destroys ? admin_ : open_);
      if (role == "none" && !destroys) doors.push_back(tcp_);
      for (const auto& door : doors) {
        const grpc::Status status = CallByName(door, PathOf(method), "", metadata);
        EXPECT_EQ(LetIn(status) ? "yes" : "no", said)
            << method << " as " << role << ": " << status.error_message();
      }
    }
  }
}

TEST_F(RolesTest, AReaderOpensWhatIsThereAndNothingNew) {
  RemoteClient reader(tcp_, kReaderToken), writer(tcp_, kWriterToken);
  ASSERT_TRUE(reader.welcomed() && writer.welcomed());
  const v1::SpaceSpec spec = TestSpace(4096);
  const auto open = [&](const RemoteClient& client) {
    v1::OpenSpaceRequest request;
    *request.mutable_spec() = spec;
    v1::OpenSpaceResponse response;
    return client.Call(*client.control, &v1::Control::Stub::OpenSpace, request, &response);
  };
  EXPECT_EQ(open(reader).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(StatsOf(reader).spaces(), 0u);
  EXPECT_TRUE(open(writer).ok());
  EXPECT_TRUE(open(reader).ok());
  EXPECT_EQ(StatsOf(reader).spaces(), 1u);
}

TEST_F(RolesTest, AnotherUserGetsThroughNoSocket) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to become somebody else";
  std::filesystem::permissions(place_->root, std::filesystem::perms(0755));
  std::filesystem::permissions(place_->root + "/run", std::filesystem::perms(0755));
  for (const char* socket : {"", ".grpc", ".admin"}) {
    const pid_t child = ::fork();
    if (child == 0) {
      if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(2);
      const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
      sockaddr_un address{};
      address.sun_family = AF_UNIX;
      std::snprintf(address.sun_path, sizeof address.sun_path, "%s%s", place_->socket.c_str(),
                    socket);
      const int connected = ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address);
      ::_exit(connected != 0 && errno == EACCES ? 0 : 1);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << place_->socket << socket;
  }
}

}  // namespace
}  // namespace thermocline
