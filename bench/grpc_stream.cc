#include "bench/grpc_stream.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <iostream>
#include <mutex>
#include <string_view>
#include <unordered_map>

#include "base/mutex.h"
#include "base/units.h"

namespace thermocline::bench {
namespace {

constexpr char kMethod[] = "/thermocline.bench.Store/Stream";
constexpr size_t kKeyBytes = 16;
constexpr char kPut = 'P', kGet = 'G', kClear = 'C';
// The largest that HTTP/2 allows, and windows that a batch of the largest blocks fits in.
constexpr int kFrameBytes = 16 * 1024 * 1024 - 1;
constexpr int kWindowBytes = 64 * 1024 * 1024;

/// What the first bytes of a message ask; they may come in several slices.
std::string Head(const std::vector<grpc::Slice>& slices) {
  std::string head;
  for (const grpc::Slice& slice : slices) {
    const size_t wanted = 1 + kKeyBytes - head.size();
    head.append(reinterpret_cast<const char*>(slice.begin()), std::min(wanted, slice.size()));
    if (head.size() == 1 + kKeyBytes) break;
  }
  return head;
}

/// A message without its first `bytes`; no byte is copied.
grpc::ByteBuffer Behind(const std::vector<grpc::Slice>& slices, size_t bytes) {
  std::vector<grpc::Slice> rest;
  for (const grpc::Slice& slice : slices) {
    const size_t cut = std::min(bytes, slice.size());
    bytes -= cut;
    if (cut < slice.size()) rest.push_back(slice.sub(cut, slice.size()));
  }
  return grpc::ByteBuffer(rest.data(), rest.size());
}

grpc::ByteBuffer Small(std::string_view text) {
  const grpc::Slice slice(text.data(), text.size());
  return grpc::ByteBuffer(&slice, 1);
}

// ---- the server

class Values {
 public:
  grpc::ByteBuffer Answer(const grpc::ByteBuffer& request) {
    std::vector<grpc::Slice> slices;
    if (!request.Dump(&slices).ok()) return Small("?");
    const std::string head = Head(slices);
    const std::string key = head.substr(1);
    const MutexLock lock(mu_);
    switch (head[0]) {
      case kPut:
        values_[key] = Behind(slices, 1 + kKeyBytes);
        return Small("+");
      case kGet:
        return values_.contains(key) ? values_[key] : Small("-");
      case kClear:
        values_.clear();
        return Small("+");
    }
    return Small("?");
  }

 private:
  Mutex mu_;
  std::unordered_map<std::string, grpc::ByteBuffer> values_ TC_GUARDED_BY(mu_);
};

/// Answers are written in order, while later requests are being read.
class Session : public grpc::ServerGenericBidiReactor {
 public:
  explicit Session(Values& values) : values_(values) { StartRead(&request_); }
  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    grpc::ByteBuffer answer = values_.Answer(request_);
    request_.Clear();
    {
      const MutexLock lock(mu_);
      answers_.push_back(std::move(answer));
      if (answers_.size() == 1) StartWrite(&answers_.front());
    }
    StartRead(&request_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return;
    const MutexLock lock(mu_);
    answers_.pop_front();
    if (!answers_.empty()) StartWrite(&answers_.front());
  }
  void OnDone() override { delete this; }

 private:
  Values& values_;
  grpc::ByteBuffer request_;
  Mutex mu_;
  std::deque<grpc::ByteBuffer> answers_ TC_GUARDED_BY(mu_);  // at most a batch: then they wait
};

class Service : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new Session(values_);  // deletes itself when the stream is done
  }

 private:
  Values values_;
};

// ---- the client

/// Thread: one.
class Stream {
 public:
  explicit Stream(const std::string& socket) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    arguments.SetMaxSendMessageSize(-1);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kFrameBytes);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kWindowBytes);
    // A connection of its own: another client.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto channel =
        grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments);
    grpc::GenericStub stub(channel);
    context_.set_wait_for_ready(true);
    call_ = stub.PrepareCall(&context_, kMethod, &queue_);
    call_->StartCall(nullptr);
    alive_ = Done();
  }
  ~Stream() {
    context_.TryCancel();
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) continue;
  }
  Stream(const Stream&) = delete;

  bool Write(const grpc::ByteBuffer& message) {
    if (!alive_) return false;
    call_->Write(message, nullptr);
    return alive_ = Done();
  }
  bool Read(grpc::ByteBuffer* message) {
    if (!alive_) return false;
    call_->Read(message, nullptr);
    return alive_ = Done();
  }

 private:
  bool Done() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  bool alive_ = false;
};

class GrpcStream : public Store {
 public:
  GrpcStream(const Buffers& buffers, const std::string& socket, std::unique_ptr<Coprocess> server)
      : buffers_(buffers), server_(std::move(server)), stream_(socket), other_(socket) {}

  std::string name() const override { return "grpc_stream"; }

  absl::StatusOr<Transfer> Put(const Load& load) override {
    return Do(load, [&](size_t first) {
      for (size_t i = first; i < first + load.batch; ++i) {
        const std::string head = kPut + KeyOf(load, i);
        const grpc::Slice slices[] = {
            grpc::Slice(head.data(), head.size()),
            grpc::Slice(buffers_.Source(load, i), load.bytes, grpc::Slice::STATIC_SLICE)};
        if (!stream_.Write(grpc::ByteBuffer(slices, 2))) return false;
      }
      bool right = true;
      for (size_t i = 0; i < load.batch; ++i) right = TakeOk() && right;
      return right;
    });
  }

  absl::StatusOr<Transfer> Get(const Load& load) override {
    return Do(load, [&](size_t first) {
      return GetBatch(stream_, load, first, [&](size_t block, const grpc::ByteBuffer& value) {
        return CopyOut(value, buffers_.Target(load, block), load.bytes);
      });
    });
  }

  absl::Status Check(const Load& load) override {
    std::vector<std::byte> got(load.bytes);
    for (size_t first = 0; first < load.blocks; first += load.batch) {
      const bool right =
          GetBatch(other_, load, first, [&](size_t block, const grpc::ByteBuffer& value) {
            return CopyOut(value, got.data(), load.bytes) &&
                   std::memcmp(got.data(), buffers_.Source(load, block), load.bytes) == 0;
          });
      if (!right) return absl::DataLossError("gRPC: a block is wrong");
    }
    return absl::OkStatus();
  }

  absl::Status Clear() override {
    if (stream_.Write(Small(std::string(1, kClear))) && TakeOk()) return absl::OkStatus();
    return absl::UnavailableError("gRPC: the stream is broken");
  }

 private:
  template <class Work>
  absl::StatusOr<Transfer> Do(const Load& load, Work&& work) {
    const pid_t servers[] = {server_->pid()};
    return Measure(servers, [&]() -> absl::Status {
      for (size_t first = 0; first < load.blocks; first += load.batch) {
        if (!work(first)) return absl::InternalError("gRPC answered wrongly");
      }
      return absl::OkStatus();
    });
  }

  bool TakeOk() {
    grpc::ByteBuffer answer;
    std::vector<grpc::Slice> slices;
    return stream_.Read(&answer) && answer.Dump(&slices).ok() && slices.size() == 1 &&
           slices[0].size() == 1 && *slices[0].begin() == '+';
  }

  template <class Take>
  static bool GetBatch(Stream& stream, const Load& load, size_t first, Take&& take) {
    for (size_t i = first; i < first + load.batch; ++i) {
      if (!stream.Write(Small(kGet + KeyOf(load, i)))) return false;
    }
    bool right = true;
    for (size_t i = first; i < first + load.batch; ++i) {
      grpc::ByteBuffer value;
      right = stream.Read(&value) && take(i, value) && right;
    }
    return right;
  }

  static bool CopyOut(const grpc::ByteBuffer& value, std::byte* into, size_t bytes) {
    std::vector<grpc::Slice> slices;
    if (value.Length() != bytes || !value.Dump(&slices).ok()) return false;
    for (const grpc::Slice& slice : slices) {
      std::memcpy(into, slice.begin(), slice.size());
      into += slice.size();
    }
    return true;
  }

  const Buffers& buffers_;
  const std::unique_ptr<Coprocess> server_;
  Stream stream_;
  Stream other_;  // the client that checks
};

}  // namespace

int RunGrpcStreamServer(const std::string& socket) {
  Service service;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  builder.SetMaxReceiveMessageSize(-1);
  builder.SetMaxSendMessageSize(-1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kFrameBytes);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kWindowBytes);
  builder.RegisterCallbackGenericService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) continue;
  server->Shutdown(std::chrono::system_clock::now());
  return 0;
}

absl::StatusOr<std::unique_ptr<Store>> StartGrpcStream(const Buffers& buffers,
                                                       const std::string& socket) {
  TC_ASSIGN_OR_RETURN(auto server, Coprocess::Start({"/proc/" + std::to_string(getpid()) + "/exe",
                                                     "--grpc-store", socket}));
  TC_RETURN_IF_ERROR(server->Hear().status());
  return std::make_unique<GrpcStream>(buffers, socket, std::move(server));
}

}  // namespace thermocline::bench
