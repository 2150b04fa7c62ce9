// Streams: one thread each, which does its work in order. Internal.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "tests/fakecuda/context.h"

namespace thermocline::fakecuda {

class Stream;

/// The stream of a handle, also of the legacy default one. Null if there is none.
std::shared_ptr<Stream> FindStream(cudaStream_t handle);

/// Gives `work` to the stream, behind what the legacy default stream's rules put before it.
/// `poison`, if not 0, corrupts the context when the turn of the work comes, in its place.
void Submit(const std::shared_ptr<Stream>& stream, int poison, std::function<void()> work);

/// Waits for all that the stream was given until now.
void Drain(const std::shared_ptr<Stream>& stream);
void DrainAll();

void SetDelayOfAll(int64_t microseconds);
/// Of the `nth` stream that is created, from 1 on.
void SetDelayOfNth(int nth, int64_t microseconds);

/// A call of the runtime that gives work to a stream: `body` gets the stream, and what is to be
/// passed on to Submit; it answers an error.
template <class Body>
int GiveWork(cudaStream_t handle, int poison, Body body) {
  const std::shared_ptr<Stream> stream = FindStream(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  return body(stream, poison);
}

template <class Body>
cudaError_t ServeOnStream(const char* name, cudaStream_t handle, Body body) {
  int poison = 0;
  if (const int error = EnterCall(name, &poison)) return Remember(error);
  MakeContextCurrent();
  return Remember(GiveWork(handle, poison, body));
}

}  // namespace thermocline::fakecuda
