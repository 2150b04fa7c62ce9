// Thermocline as a store of a benchmark: a daemon of its own, a client in this process, and another
// in a process of its own, the finder, which looks for what is put and compares it.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "bench/coprocess.h"
#include "bench/daemon_process.h"
#include "bench/store.h"
#include "client/client.h"

namespace thermocline::bench {

/// Thread: one.
/// Owner:  borrows `buffers`.
class OwnStore : public Store {
 public:
  static absl::StatusOr<std::unique_ptr<OwnStore>> Start(const Buffers& buffers,
                                                         const std::string& warm_capacity);

  std::string name() const override { return "thermocline"; }
  /// The time ends when the finder, by a match, has found every block.
  absl::StatusOr<Transfer> Put(const Load& load) override;
  absl::StatusOr<Transfer> Get(const Load& load) override;
  absl::Status Check(const Load& load) override;
  absl::Status Clear() override;

  /// As Put, of more blocks than the buffers and the arena hold, behind `before` others that fill
  /// the arena and do not count: the content repeats, the oldest are evicted. Every commit must
  /// have been answered well, and the time ends when the last batch is found; then the finder
  /// compares the last half arena, as others may be gone.
  absl::StatusOr<Transfer> PutMore(const Load& load, size_t before);
  /// As Put, without anybody who looks: until the last commit is answered.
  absl::StatusOr<Transfer> PutAlone(const Load& load);
  /// Reads every byte where it lies. `copied_bytes`: of the views that did not lie in the arena
  /// that all clients share.
  absl::StatusOr<Transfer> GetInPlace(const Load& load, uint64_t* copied_bytes);

  DaemonProcess& daemon() { return *daemon_; }

  /// The finder's process: `PROGRAM --find SOCKET CONTENT_BYTES`. Returns its exit code.
  static int RunFinder(const std::string& socket, size_t content_bytes);

 private:
  explicit OwnStore(const Buffers& buffers) : buffers_(buffers) {}
  absl::StatusOr<Space> SpaceOf(const Load& load);
  absl::StatusOr<Transfer> PutBetween(const Load& load, size_t from, size_t end);
  absl::StatusOr<Transfer> PutUntilFound(const Load& load, size_t from, size_t find_from);
  absl::StatusOr<Lease> PutBatch(const Space& space, const Load& load, size_t first);
  absl::Status Compare(const Load& load, size_t from);
  template <class Take>
  absl::Status GetAll(const Load& load, Take&& take);

  const Buffers& buffers_;
  std::unique_ptr<DaemonProcess> daemon_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<AdminClient> admin_;
  std::unique_ptr<Coprocess> finder_;
  std::map<size_t, Space> spaces_;  // by bytes of a block
};

}  // namespace thermocline::bench
