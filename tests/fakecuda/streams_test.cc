// Streams and events of one process: what is ordered, what is not, and when calls come back.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "tests/fakecuda/fake_cuda_test_util.h"

namespace thermocline::fakecuda {
namespace {

constexpr int64_t kSlowUs = 50'000;

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
  SetDelay(stream, 1000);
  for (char letter = 'a'; letter <= 'j'; ++letter) Write(stream, letter);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess);
  EXPECT_EQ(text(), "abcdefghij");
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "NotReady is no error";
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

TEST_F(StreamTest, WithoutAnEventASlowStreamIsOvertaken) {
  const cudaStream_t slow = NewStream(), fast = NewStream();
  SetDelay(slow, kSlowUs);
  Write(slow, 's');
  Write(fast, 'f');
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(text(), "fs");
}

TEST_F(StreamTest, AnEventOrdersTwoStreams) {
  const cudaStream_t slow = NewStream(), fast = NewStream();
  const cudaEvent_t event = NewEvent();
  SetDelay(slow, kSlowUs);
  Write(slow, 's');
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess) << "never recorded, it has passed";
  EXPECT_EQ(cudaEventRecord(event, slow), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamWaitEvent(fast, event, 0), cudaSuccess);
  Write(fast, 'f');
  // Recorded anew, it means later work to those who ask later alone.
  Write(slow, 't');
  EXPECT_EQ(cudaEventRecord(event, slow), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess) << "before it has passed, as CUDA allows";
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(text(), "sft");
}

TEST_F(StreamTest, TheDefaultStreamIsAFenceBetweenBlockingStreamsAlone) {
  const cudaStream_t blocking = NewStream(cudaStreamDefault), other = NewStream(cudaStreamDefault);
  const cudaStream_t free = NewStream(cudaStreamNonBlocking);
  SetDelay(blocking, kSlowUs);
  Write(blocking, 'a');
  Write(nullptr, 'b');
  Write(other, 'c');
  Write(free, 'f');
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(text(), "fabc");
}

TEST_F(StreamTest, ADestroyedStreamFinishesItsWork) {
  const cudaStream_t stream = NewStream();
  SetDelay(stream, kSlowUs);
  Write(stream, 'a');
  const auto before = std::chrono::steady_clock::now();
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::microseconds(kSlowUs));
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(text(), "a");
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
