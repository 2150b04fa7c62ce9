// What the benchmarks compare: stores that take blocks and give them back. Ours and each peer do
// the same work through their best interface, block after block or a batch at a time.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "bench/report.h"
#include "kernels/aligned_buffer.h"

namespace thermocline::bench {

/// How much of a store is asked for in one round.
struct Load {
  size_t bytes = 0;   // a block
  size_t blocks = 0;  // a multiple of `batch`
  size_t batch = 1;   // blocks a call
  size_t total_bytes() const { return bytes * blocks; }
};

/// What the blocks of a round took.
struct Transfer {
  double ms = 0;
  double client_cpu_s = 0;  // of the process that calls, all its threads
  double server_cpu_s = 0;  // of all the store's other processes
};

/// The blocks' content, and memory to get them into: larger than the caches, so that every copy
/// meets cold memory. Touched before anything is timed.
struct Buffers {
  static absl::StatusOr<Buffers> Make(size_t bytes);
  const std::byte* Source(const Load& load, size_t block) const {
    return source.data() + block * load.bytes;
  }
  std::byte* Target(const Load& load, size_t block) const {
    return target.data() + block * load.bytes;
  }

  AlignedBuffer source;
  AlignedBuffer target;
};

/// The content that every process of a benchmark knows without being told: of `bytes` bytes, any
/// stretch unlike any other.
void FillContent(std::span<std::byte> bytes);

class Store {
 public:
  virtual ~Store() = default;
  virtual std::string name() const = 0;
  /// Puts all blocks. One counts when another client can find it.
  virtual absl::StatusOr<Transfer> Put(const Load& load) = 0;
  /// Copies all blocks into the client's memory.
  virtual absl::StatusOr<Transfer> Get(const Load& load) = 0;
  /// Has another client compare all blocks with what they must hold. Errors: one is not there, or
  /// wrong.
  virtual absl::Status Check(const Load& load) = 0;
  /// Forgets all blocks.
  virtual absl::Status Clear() = 0;
};

/// "123............." of 16 bytes; another for each batch size.
std::string KeyOf(const Load& load, size_t block);

/// Processor time of all threads of a process, of this one for 0; 0 when it is gone.
double CpuSeconds(pid_t pid);

/// Runs `work`, which returns absl::Status, and tells what it took of this process and of
/// `servers`.
template <class Work>
absl::StatusOr<Transfer> Measure(std::span<const pid_t> servers, Work&& work) {
  const auto server_cpu_s = [&] {
    double sum = 0;
    for (const pid_t server : servers) sum += CpuSeconds(server);
    return sum;
  };
  Transfer transfer;
  const double client_before_s = CpuSeconds(0);
  const double server_before_s = server_cpu_s();
  absl::Status status;
  transfer.ms = Milliseconds([&] { status = work(); });
  TC_RETURN_IF_ERROR(status);
  transfer.client_cpu_s = CpuSeconds(0) - client_before_s;
  transfer.server_cpu_s = server_cpu_s() - server_before_s;
  return transfer;
}

}  // namespace thermocline::bench
