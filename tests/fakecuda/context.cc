// Faults, counts, the sticky error, the last error, and the settings from the environment. All of
// it is never destroyed: streams work while the program ends.
#include "tests/fakecuda/context.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"
#include "tests/fakecuda/streams.h"

namespace thermocline::fakecuda {
namespace {

struct Fault {
  std::string name;
  int nth;
  int error;
  bool repeatedly;
};

struct Context {
  Mutex mutex;
  Device device TC_GUARDED_BY(mutex);
  std::vector<Fault> faults TC_GUARDED_BY(mutex);
  std::map<std::string, int, std::less<>> counts TC_GUARDED_BY(mutex);
  std::atomic<int> poison{0};
  std::atomic<bool> forked{false};

  Context();
};

constinit thread_local cudaError_t last_error = cudaSuccess;
constinit thread_local bool context_current = false;

Context& TheContext() {
  static Context& context = *new Context;
  return context;
}

std::string Environment(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

uint64_t NumberOf(const std::string& text, const char* variable) {
  char* end = nullptr;
  const uint64_t number = std::strtoull(text.c_str(), &end, 0);
  if (text.empty() || *end != '\0') {
    std::fprintf(stderr, "fakecuda: %s: \"%s\" is no number\n", variable, text.c_str());
    std::abort();
  }
  return number;
}

/// Calls `take` for every one of `text`'s items, which lie apart by semicolons.
template <class Take>
void ForEachItem(const std::string& text, Take take) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(';', begin), text.size());
    take(text.substr(begin, end - begin));
    begin = end + 1;
  }
}

/// "name:nth=error" or "name:nth+=error".
Fault ParseFault(const std::string& item) {
  const size_t colon = item.find(':'), equals = item.find('=');
  if (colon == std::string::npos || equals == std::string::npos || equals < colon + 2) {
    std::fprintf(stderr, "fakecuda: TC_FAKECUDA: \"%s\" is not NAME:NTH=ERROR\n", item.c_str());
    std::abort();
  }
  const bool repeatedly = item[equals - 1] == '+';
  const std::string nth = item.substr(colon + 1, equals - colon - 1 - (repeatedly ? 1 : 0));
  return {item.substr(0, colon), static_cast<int>(NumberOf(nth, "TC_FAKECUDA")),
          static_cast<int>(NumberOf(item.substr(equals + 1), "TC_FAKECUDA")), repeatedly};
}

std::vector<Fault> ParseFaults(const std::string& text) {
  std::vector<Fault> faults;
  ForEachItem(text, [&](const std::string& item) { faults.push_back(ParseFault(item)); });
  return faults;
}

void SetDelays(const std::string& text) {
  ForEachItem(text, [](const std::string& item) {
    const size_t colon = item.find(':');
    if (colon == std::string::npos) {
      SetDelayOfAll(static_cast<int64_t>(NumberOf(item, "TC_FAKECUDA_DELAY")));
    } else {
      SetDelayOfNth(static_cast<int>(NumberOf(item.substr(0, colon), "TC_FAKECUDA_DELAY")),
                    static_cast<int64_t>(NumberOf(item.substr(colon + 1), "TC_FAKECUDA_DELAY")));
    }
  });
}

Context::Context() {
  faults = ParseFaults(Environment("TC_FAKECUDA"));
  if (const std::string text = Environment("TC_FAKECUDA_DRIVER"); !text.empty()) {
    device.driver_version = static_cast<int>(NumberOf(text, "TC_FAKECUDA_DRIVER"));
  }
  if (const std::string text = Environment("TC_FAKECUDA_VRAM"); !text.empty()) {
    device.vram_bytes = NumberOf(text, "TC_FAKECUDA_VRAM");
  }
  if (const std::string text = Environment("TC_FAKECUDA_PIN"); !text.empty()) {
    device.max_registration_bytes = NumberOf(text, "TC_FAKECUDA_PIN");
  }
  SetDelays(Environment("TC_FAKECUDA_DELAY"));
  // A child has none of the streams' threads; the driver refuses it, too.
  TC_CHECK(pthread_atfork(nullptr, nullptr, [] { TheContext().forked = true; }) == 0);
}

}  // namespace

void SetDevice(const Device& device) {
  Context& context = TheContext();
  MutexLock lock(context.mutex);
  context.device = device;
}

Device TheDevice() {
  Context& context = TheContext();
  MutexLock lock(context.mutex);
  return context.device;
}

void FailCall(std::string_view name, int nth, int error, bool repeatedly) {
  Context& context = TheContext();
  MutexLock lock(context.mutex);
  const auto count = context.counts.find(name);
  const int before = count == context.counts.end() ? 0 : count->second;
  context.faults.push_back({std::string(name), before + nth, error, repeatedly});
}

bool IsThere() { return true; }

int CallCount(std::string_view name) {
  Context& context = TheContext();
  MutexLock lock(context.mutex);
  const auto count = context.counts.find(name);
  return count == context.counts.end() ? 0 : count->second;
}

bool IsSticky(int error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorExternalDevice:
    case 226:  // cudaErrorContained
      return true;
    default:
      return false;
  }
}

void Restart() {
  Context& context = TheContext();
  SetDelayOfAll(0);
  if (context.poison != 0) DrainAll();  // what waits there is not done, until it is sound again
  context.poison = 0;
  last_error = cudaSuccess;
  MutexLock lock(context.mutex);
  context.faults.clear();
  context.counts.clear();
}

void Poison(int error) {
  int sound = 0;
  TheContext().poison.compare_exchange_strong(sound, error);
}

int PoisonError() { return TheContext().poison; }

int EnterCall(const char* name, int* later) {
  Context& context = TheContext();
  if (context.forked) return cudaErrorInitializationError;
  int error = 0;
  {
    MutexLock lock(context.mutex);
    if (context.device.driver_version == 0) return cudaErrorInsufficientDriver;
    const int count = ++context.counts[name];
    for (const Fault& fault : context.faults) {
      if (fault.name != name || count < fault.nth) continue;
      if (count == fault.nth || fault.repeatedly) error = fault.error;
    }
  }
  if (const int poison = context.poison) return poison;
  if (!IsSticky(error)) return error;
  if (later != nullptr) {
    *later = error;
    return 0;
  }
  Poison(error);
  return error;
}

cudaError_t Remember(int error) {
  const auto result = static_cast<cudaError_t>(error);
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = result;
  return result;
}

void MakeContextCurrent() { context_current = true; }
bool IsContextCurrent() { return context_current; }

}  // namespace thermocline::fakecuda

namespace fakecuda = thermocline::fakecuda;

cudaError_t cudaGetLastError() {
  if (const int poison = fakecuda::PoisonError()) return static_cast<cudaError_t>(poison);
  return std::exchange(fakecuda::last_error, cudaSuccess);
}

cudaError_t cudaPeekAtLastError() {
  if (const int poison = fakecuda::PoisonError()) return static_cast<cudaError_t>(poison);
  return fakecuda::last_error;
}
