// Handles that cross processes: slabs by descriptors, memory and events by IPC handles; and what
// is left when one side is killed. The other side is `fakecuda_peer` (peer_main.cc), which is
// spawned: a process that has used CUDA must not fork and go on.
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>

#include "tests/fakecuda/fake_cuda_test_util.h"
#include "tests/fakecuda/peer.h"

extern char** environ;

namespace thermocline::fakecuda {
namespace {

/// The other process; killed at the end if it is still there.
class Peer {
 public:
  explicit Peer(const std::string& role, std::vector<std::string> environment = {}) {
    int sockets[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    socket_ = UniqueFd(sockets[0]);
    const UniqueFd theirs(sockets[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, theirs.get(), kPeerSocket);
    const std::string program = std::string(TC_BUILD_DIR) + "/bin/fakecuda_peer";
    std::string arguments[] = {program, role};
    char* argv[] = {arguments[0].data(), arguments[1].data(), nullptr};
    std::vector<char*> variables;
    for (std::string& variable : environment) variables.push_back(variable.data());
    for (char** variable = environ; *variable != nullptr; ++variable) {
      variables.push_back(*variable);
    }
    variables.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&process_, program.c_str(), &actions, nullptr, argv, variables.data()),
              0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Peer() {
    if (process_ > 0) Kill();
  }

  int socket() const { return socket_.get(); }

  void Kill() {
    kill(process_, SIGKILL);
    int status = 0;
    EXPECT_EQ(waitpid(process_, &status, 0), process_);
    process_ = -1;
  }

  /// What it says at last; it ends.
  Message Finish() {
    const Message message = Receive(socket(), nullptr);
    int status = 0;
    EXPECT_EQ(waitpid(process_, &status, 0), process_);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    process_ = -1;
    return message;
  }

 private:
  UniqueFd socket_;
  pid_t process_ = -1;
};

/// A slab of ours that a peer has, and an event: we fill it slowly, the peer reads it.
class ProcessTest : public FakeCudaTest {
 protected:
  void SetUp() override {
    FakeCudaTest::SetUp();
    slab_ = driver_.Create();
    address_ = driver_.Map(slab_);
    stream_ = NewStream();
    event_ = NewEvent(cudaEventDisableTiming | cudaEventInterprocess);
  }
  void TearDown() override {
    Restart();
    driver_.Unmap(address_);
    EXPECT_EQ(driver_.release(slab_), CUDA_SUCCESS);
    FakeCudaTest::TearDown();
  }

  void Fill(int value) {
    EXPECT_EQ(cudaMemsetAsync(Pointer(address_), value, kSlabBytes, stream_), cudaSuccess);
    EXPECT_EQ(cudaEventRecord(event_, stream_), cudaSuccess);
  }

  void Grant(const Peer& peer) {
    Message message;
    EXPECT_EQ(cudaIpcGetEventHandle(&message.event, event_), cudaSuccess);
    const UniqueFd fd = driver_.Export(slab_);
    Send(peer.socket(), message, fd.get());
  }

  Driver driver_;
  CUmemGenericAllocationHandle slab_ = 0;
  CUdeviceptr address_ = 0;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t event_ = nullptr;
};

TEST_F(ProcessTest, APeerThatWaitsForTheEventReadsWhatWasWritten) {
  Peer peer("wait-and-read");
  Gate gate(stream_);
  Fill(42);
  Grant(peer);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  gate.Open();
  EXPECT_EQ(peer.Finish().value, 42);
}

TEST_F(ProcessTest, APeerThatForgetsToWaitReadsTooEarly) {
  Peer peer("read");
  Gate gate(stream_);
  Fill(42);
  Grant(peer);
  EXPECT_EQ(peer.Finish().value, 0);
}

TEST_F(ProcessTest, WhatAPeerWritesIsHere) {
  Peer peer("write");
  Grant(peer);
  EXPECT_EQ(peer.Finish().value, 0);
  EXPECT_EQ(Read(static_cast<char*>(Pointer(address_))), kPeerByte);
}

TEST_F(ProcessTest, AKilledPeerLeavesTheSlabAsItIs) {
  Peer peer("hold");
  Grant(peer);
  EXPECT_EQ(Receive(peer.socket(), nullptr).value, 0) << "it has mapped the slab";
  peer.Kill();
  EXPECT_EQ(UsedBytes(), kSlabBytes);
  EXPECT_EQ(cudaMemset(Pointer(address_), 1, kSlabBytes), cudaSuccess);
  EXPECT_EQ(Read(static_cast<char*>(Pointer(address_))), 1);
}

TEST_F(ProcessTest, AnEventOfAKilledPeerNeverPasses) {
  Peer peer("record-slowly", {"TC_FAKECUDA_DELAY=600000000"});
  Grant(peer);
  const Message message = Receive(peer.socket(), nullptr);
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaIpcOpenEventHandle(&event, message.event), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  peer.Kill();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
}

TEST_F(ProcessTest, AMappedSlabOutlivesItsKilledOwner) {
  Peer peer("own");
  UniqueFd fd;
  const Message message = Receive(peer.socket(), &fd);
  ASSERT_TRUE(static_cast<bool>(fd));
  const CUmemGenericAllocationHandle slab = driver_.Import(fd.get());
  fd.Reset();
  const CUdeviceptr address = driver_.Map(slab, kSlabBytes, CU_MEM_ACCESS_FLAGS_PROT_READ);
  EXPECT_EQ(driver_.release(slab), CUDA_SUCCESS);
  peer.Kill();
  EXPECT_EQ(Read(static_cast<char*>(Pointer(address)) + kSlabBytes - 1), message.value);
  driver_.Unmap(address);
}

TEST_F(ProcessTest, MemoryOfAPeerIsOpenedByItsHandle) {
  Peer peer("allocate");
  const Message message = Receive(peer.socket(), nullptr);
  void* pointer = nullptr;
  ASSERT_EQ(cudaIpcOpenMemHandle(&pointer, message.memory, cudaIpcMemLazyEnablePeerAccess),
            cudaSuccess);
  EXPECT_EQ(Read(static_cast<char*>(pointer) + 99), kPeerByte);
  EXPECT_EQ(cudaMemset(static_cast<char*>(pointer) + 99, 1, 2), cudaErrorInvalidValue)
      << "beyond its end";
  EXPECT_EQ(cudaFree(pointer), cudaErrorInvalidValue) << "it is the peer's";
  peer.Kill();
  EXPECT_EQ(Read(static_cast<char*>(pointer)), kPeerByte) << "the importer keeps it";
  EXPECT_EQ(cudaIpcOpenMemHandle(&pointer, message.memory, cudaIpcMemLazyEnablePeerAccess),
            cudaErrorMapBufferObjectFailed)
      << "its owner has gone";
}

TEST_F(ProcessTest, TheEnvironmentTellsAPeerOfFaults) {
  Peer peer("create",
            {"TC_FAKECUDA=cuMemCreate:2=2;cudaMalloc:1+=700", "TC_FAKECUDA_VRAM=0x1000000"});
  const Message message = peer.Finish();
  EXPECT_EQ(message.value, CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(message.total_bytes, 16 * kMiB);
  EXPECT_EQ(message.error, cudaErrorIllegalAddress);
}

}  // namespace
}  // namespace thermocline::fakecuda
