// Streams and events of one process: what is ordered, what is not, and when calls come back.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "tests/fakecuda/fake_cuda_test_util.h"

namespace thermocline::fakecuda {
namespace {

class StreamTest : public FakeCudaTest {
 protected:
  struct Note {
    StreamTest* test;
    char letter;
  };

  /// Adds a letter when its turn comes.
  void Write(cudaStream_t stream, char letter) {
    auto* const note = new Note{this, letter};
    ASSERT_EQ(cudaLaunchHostFunc(
                  stream,
                  [](void* argument) {
                    const auto* const written = static_cast<Note*>(argument);
                    written->test->Add(written->letter);
                    delete written;
                  },
                  note),
              cudaSuccess);
  }

  void Add(char letter) {
    std::lock_guard lock(mutex_);
    text_ += letter;
  }
  std::string text() {
    std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  std::mutex mutex_;
  std::string text_;
};

TEST_F(StreamTest, DoesItsWorkInOrder) {
  const cudaStream_t stream = NewStream();
  Gate gate(stream);
  for (char letter = 'a'; letter <= 'j'; ++letter) Write(stream, letter);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  gate.Open();
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
  EXPECT_EQ(text(), "abcdefghij");
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "NotReady is no error";
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

TEST_F(StreamTest, WithoutAnEventASlowStreamIsOvertaken) {
  const cudaStream_t slow = NewStream(), fast = NewStream();
  Gate gate(slow);
  Write(slow, 's');
  Write(fast, 'f');
  EXPECT_EQ(cudaStreamSynchronize(fast), cudaSuccess);
  gate.Open();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(text(), "fs");
}

TEST_F(StreamTest, AnEventOrdersTwoStreams) {
  const cudaStream_t slow = NewStream(), fast = NewStream();
  const cudaEvent_t event = NewEvent();
  Gate gate(slow);
  Write(slow, 's');
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess) << "never recorded, it has passed";
  EXPECT_EQ(cudaEventRecord(event, slow), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamWaitEvent(fast, event, 0), cudaSuccess);
  Write(fast, 'f');
  // Recorded anew, it means later work to those who ask later alone.
  Gate second_gate(slow);
  Write(slow, 't');
  EXPECT_EQ(cudaEventRecord(event, slow), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess) << "before it has passed, as CUDA allows";
  gate.Open();
  EXPECT_EQ(cudaStreamSynchronize(fast), cudaSuccess);
  EXPECT_EQ(text(), "sf");
  second_gate.Open();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(text(), "sft");
}

TEST_F(StreamTest, TheDefaultStreamIsAFenceBetweenBlockingStreamsAlone) {
  const cudaStream_t blocking = NewStream(cudaStreamDefault), other = NewStream(cudaStreamDefault);
  const cudaStream_t free = NewStream(cudaStreamNonBlocking);
  Gate gate(blocking);
  Write(blocking, 'a');
  Write(nullptr, 'b');
  Write(other, 'c');
  Write(free, 'f');
  EXPECT_EQ(cudaStreamSynchronize(free), cudaSuccess);
  EXPECT_EQ(text(), "f");
  gate.Open();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(text(), "fabc");
}

TEST_F(StreamTest, ADestroyedStreamFinishesItsWork) {
  const cudaStream_t stream = NewStream();
  Gate gate(stream);
  Write(stream, 'a');
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess) << "without waiting";
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  gate.Open();
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(text(), "a");
}

TEST_F(StreamTest, ADelayIsBeforeEachPieceOfWork) {
  const cudaStream_t stream = NewStream();
  SetDelay(stream, 20'000);
  const auto before = std::chrono::steady_clock::now();
  Write(stream, 'a');
  Write(stream, 'b');
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_GE(std::chrono::steady_clock::now() - before, std::chrono::milliseconds(40));
}

TEST_F(StreamTest, EventsForOtherProcessesCannotTime) {
  cudaEvent_t event = nullptr;
  EXPECT_EQ(cudaEventCreateWithFlags(&event, cudaEventInterprocess), cudaErrorInvalidValue);
  event = NewEvent();
  cudaIpcEventHandle_t handle;
  EXPECT_EQ(cudaIpcGetEventHandle(&handle, event), cudaErrorInvalidResourceHandle);
  event = NewEvent(cudaEventDisableTiming | cudaEventInterprocess);
  EXPECT_EQ(cudaIpcGetEventHandle(&handle, event), cudaSuccess);
  EXPECT_EQ(cudaIpcOpenEventHandle(&event, handle), cudaErrorDeviceUninitialized)
      << "not by the process that exported it";
}

}  // namespace
}  // namespace thermocline::fakecuda
