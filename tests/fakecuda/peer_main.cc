// The other process of processes_test, in one of several roles. It talks over kPeerSocket.
#include "tests/fakecuda/peer.h"

#include <unistd.h>

#include <string_view>

#include "tests/fakecuda/fake_cuda_test_util.h"

namespace thermocline::fakecuda {
namespace {

/// Until the other side goes, or kills us.
void WaitForTheEnd() { Receive(kPeerSocket, nullptr); }

char ReadByte(cudaStream_t stream, const void* device) {
  char* const pinned = NewPinnedArray<char>(1);
  EXPECT_EQ(cudaMemcpyAsync(pinned, device, 1, cudaMemcpyDeviceToHost, stream), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  return *pinned;
}

cudaStream_t NewStream() {
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  return stream;
}

/// With a slab and an event of the other side's.
void UseSlab(std::string_view role) {
  const Driver driver;
  UniqueFd fd;
  const Message grant = Receive(kPeerSocket, &fd);
  const CUmemGenericAllocationHandle slab = driver.Import(fd.get());
  const bool writes = role == "write";
  const CUdeviceptr address =
      driver.Map(slab, kSlabBytes,
                 writes ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_READ);
  const cudaStream_t stream = NewStream();
  Message answer;
  if (role == "wait-and-read") {
    cudaEvent_t event = nullptr;
    EXPECT_EQ(cudaIpcOpenEventHandle(&event, grant.event), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(stream, event, 0), cudaSuccess);
  }
  if (role == "record-slowly") {
    cudaEvent_t event = nullptr;
    EXPECT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventInterprocess),
              cudaSuccess);
    EXPECT_EQ(cudaEventRecord(event, stream), cudaSuccess);
    EXPECT_EQ(cudaIpcGetEventHandle(&answer.event, event), cudaSuccess);
  } else if (writes) {
    EXPECT_EQ(cudaMemset(Pointer(address), kPeerByte, kSlabBytes), cudaSuccess);
    answer.value = cudaDeviceSynchronize();
  } else {
    answer.value = ReadByte(stream, static_cast<char*>(Pointer(address)) + kSlabBytes - 1);
  }
  Send(kPeerSocket, answer);
  if (role == "hold" || role == "record-slowly") WaitForTheEnd();
}

void OwnSlab() {
  const Driver driver;
  const CUmemGenericAllocationHandle slab = driver.Create();
  EXPECT_EQ(cudaMemset(Pointer(driver.Map(slab)), kPeerByte, kSlabBytes), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const UniqueFd fd = driver.Export(slab);
  Message message;
  message.value = kPeerByte;
  Send(kPeerSocket, message, fd.get());
  WaitForTheEnd();
}

void Allocate() {
  char* const memory = NewDeviceArray<char>(100);
  EXPECT_EQ(cudaMemset(memory, kPeerByte, 100), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  Message message;
  EXPECT_EQ(cudaIpcGetMemHandle(&message.memory, memory), cudaSuccess);
  Send(kPeerSocket, message);
  WaitForTheEnd();
}

void CreateSlabs() {
  const Driver driver;
  driver.Create();
  Message message;
  const CUmemAllocationProp properties = Driver::Properties();
  CUmemGenericAllocationHandle slab = 0;
  message.value = driver.create(&slab, kSlabBytes, &properties, 0);
  size_t free_bytes = 0;
  EXPECT_EQ(cudaMemGetInfo(&free_bytes, &message.total_bytes), cudaSuccess);
  void* pointer = nullptr;
  message.error = cudaMalloc(&pointer, 1);
  Send(kPeerSocket, message);
}

}  // namespace
}  // namespace thermocline::fakecuda

int main(int, char** argv) {
  using namespace thermocline::fakecuda;
  const std::string_view role = argv[1];
  if (role == "own") {
    OwnSlab();
  } else if (role == "allocate") {
    Allocate();
  } else if (role == "create") {
    CreateSlabs();
  } else {
    UseSlab(role);
  }
  return testing::Test::HasFailure() ? 1 : 0;
}
