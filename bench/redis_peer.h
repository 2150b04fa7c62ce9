// The peer that everybody knows: a real redis-server, started by the benchmark and stopped by pid.
#pragma once
#include <hiredis/hiredis.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

extern char** environ;

namespace thermocline::bench {

/// A redis-server on a unix socket alone, without persistence. Not there: nobody can connect.
class RedisServer {
 public:
  explicit RedisServer(const std::filesystem::path& directory)
      : socket_((directory / "redis.sock").string()) {
    const std::vector<std::string> words = {
        "redis-server", "--port", "0",     "--unixsocket",     socket_,     "--save",   "",
        "--appendonly", "no",     "--dir", directory.string(), "--logfile", "/dev/null"};
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    if (posix_spawnp(&pid_, argv[0], nullptr, nullptr, argv.data(), environ) != 0) pid_ = -1;
  }
  ~RedisServer() {
    if (pid_ <= 0) return;
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
  }
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  pid_t pid() const { return pid_; }
  const std::string& socket() const { return socket_; }

 private:
  const std::string socket_;
  pid_t pid_ = -1;
};

/// A connection. Not there: the rows are left out, visibly.
class Redis {
 public:
  explicit Redis(const RedisServer& server) {
    for (int i = 0; server.pid() > 0 && i < 500 && context_ == nullptr; ++i) {
      context_ = redisConnectUnix(server.socket().c_str());
      if (context_ != nullptr && context_->err != 0) {
        redisFree(context_);
        context_ = nullptr;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    }
  }
  ~Redis() {
    if (context_ != nullptr) redisFree(context_);
  }
  Redis(const Redis&) = delete;
  Redis& operator=(const Redis&) = delete;

  bool there() const { return context_ != nullptr; }
  void AppendSet(const std::string& key, const std::byte* value, size_t bytes) {
    redisAppendCommand(context_, "SET %b %b", key.data(), key.size(), value, bytes);
  }
  void AppendGet(const std::string& key) {
    redisAppendCommand(context_, "GET %b", key.data(), key.size());
  }
  /// How many of `keys` there are, by one command; below 0 for an error.
  int64_t Exists(const std::vector<std::string>& keys) {
    std::vector<const char*> words = {"EXISTS"};
    std::vector<size_t> lengths = {6};
    for (const std::string& key : keys) {
      words.push_back(key.data());
      lengths.push_back(key.size());
    }
    redisAppendCommandArgv(context_, static_cast<int>(words.size()), words.data(), lengths.data());
    redisReply* reply = Take();
    const int64_t count =
        reply != nullptr && reply->type == REDIS_REPLY_INTEGER ? reply->integer : -1;
    freeReplyObject(reply);
    return count;
  }
  /// The next reply's bytes, copied to `into` as an engine would; false when it is not that many.
  bool TakeValue(std::byte* into, size_t bytes) {
    redisReply* reply = Take();
    const bool right = reply != nullptr && reply->type == REDIS_REPLY_STRING && reply->len == bytes;
    if (right) std::memcpy(into, reply->str, bytes);
    freeReplyObject(reply);
    return right;
  }
  bool TakeOk() {
    redisReply* reply = Take();
    const bool right = reply != nullptr && reply->type == REDIS_REPLY_STATUS;
    freeReplyObject(reply);
    return right;
  }
  void FlushAll() { freeReplyObject(redisCommand(context_, "FLUSHALL")); }

 private:
  redisReply* Take() {
    void* reply = nullptr;
    return redisGetReply(context_, &reply) == REDIS_OK ? static_cast<redisReply*>(reply) : nullptr;
  }
  redisContext* context_ = nullptr;
};

}  // namespace thermocline::bench
