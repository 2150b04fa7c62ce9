// Redis as a store of a benchmark: pipelined over its unix socket, a batch of commands before their
// replies are taken; values are copied out of the replies, as an engine must.
#pragma once
#include <cstring>
#include <vector>

#include "bench/redis_peer.h"
#include "bench/store.h"

namespace thermocline::bench {

/// Thread: one.
/// Owner:  borrows `buffers`.
class RedisStore : public Store {
 public:
  RedisStore(const Buffers& buffers, const std::filesystem::path& directory)
      : buffers_(buffers), server_(directory), redis_(server_), other_(server_) {}

  bool there() const { return redis_.there(); }
  std::string name() const override { return "redis"; }

  absl::StatusOr<Transfer> Put(const Load& load) override {
    return Do(load, [&](size_t first) {
      for (size_t i = first; i < first + load.batch; ++i) {
        redis_.AppendSet(KeyOf(load, i), buffers_.Source(load, i), load.bytes);
      }
      bool right = true;
      for (size_t i = 0; i < load.batch; ++i) right = redis_.TakeOk() && right;
      return right;
    });
  }

  absl::StatusOr<Transfer> Get(const Load& load) override {
    return Do(load, [&](size_t first) {
      for (size_t i = first; i < first + load.batch; ++i) redis_.AppendGet(KeyOf(load, i));
      bool right = true;
      for (size_t i = first; i < first + load.batch; ++i) {
        right = redis_.TakeValue(buffers_.Target(load, i), load.bytes) && right;
      }
      return right;
    });
  }

  absl::Status Check(const Load& load) override {
    std::vector<std::byte> got(load.bytes);
    for (size_t i = 0; i < load.blocks; ++i) {
      other_.AppendGet(KeyOf(load, i));
      if (!other_.TakeValue(got.data(), load.bytes) ||
          std::memcmp(got.data(), buffers_.Source(load, i), load.bytes) != 0) {
        return absl::DataLossError("redis: a block is wrong");
      }
    }
    return absl::OkStatus();
  }

  absl::Status Clear() override {
    redis_.FlushAll();
    return absl::OkStatus();
  }

 private:
  template <class Work>
  absl::StatusOr<Transfer> Do(const Load& load, Work&& work) {
    const pid_t servers[] = {server_.pid()};
    return Measure(servers, [&]() -> absl::Status {
      for (size_t first = 0; first < load.blocks; first += load.batch) {
        if (!work(first)) return absl::InternalError("redis answered wrongly");
      }
      return absl::OkStatus();
    });
  }

  const Buffers& buffers_;
  const RedisServer server_;
  Redis redis_;
  Redis other_;  // a connection of its own: the client that checks
};

}  // namespace thermocline::bench
