// The state that every call of the fake passes through: is there a driver, is the context sound, is
// the call told to fail; and the runtime's last error. Internal.
#pragma once
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "tests/fakecuda/fake_cuda.h"

namespace thermocline::fakecuda {

Device TheDevice();

/// Corrupts the context: nothing more is done, and every call answers `error`.
void Poison(int error);
int PoisonError();

/// What a call is answered before it does anything: 0, or an error. With `later` it gives work to a
/// stream; a fault that corrupts the context is left there, for the work to meet.
int EnterCall(const char* name, int* later = nullptr);

/// Keeps an error for cudaGetLastError; NotReady is none.
cudaError_t Remember(int error);

/// The runtime makes the device's context the calling thread's when it first needs one.
void MakeContextCurrent();
bool IsContextCurrent();

/// Calls of the runtime that need a context.
template <class Body>
cudaError_t Serve(const char* name, Body body) {
  if (const int error = EnterCall(name)) return Remember(error);
  MakeContextCurrent();
  return Remember(body());
}

/// Calls of the runtime that need no more than a driver.
template <class Body>
cudaError_t ServeWithoutContext(const char* name, Body body) {
  if (const int error = EnterCall(name)) return Remember(error);
  return Remember(body());
}

/// Calls of the driver, which leave the runtime's last error alone.
template <class Body>
CUresult ServeDriver(const char* name, Body body) {
  if (const int error = EnterCall(name)) return static_cast<CUresult>(error);
  return static_cast<CUresult>(body());
}

template <class Body>
CUresult ServeDriverInContext(const char* name, Body body) {
  if (const int error = EnterCall(name)) return static_cast<CUresult>(error);
  if (!IsContextCurrent()) return CUDA_ERROR_INVALID_CONTEXT;
  return static_cast<CUresult>(body());
}

}  // namespace thermocline::fakecuda
