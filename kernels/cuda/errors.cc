#include "kernels/cuda/errors.h"

#include <absl/strings/cord.h>

#include <string>

#include "kernels/cuda/device.h"
#include "kernels/cuda/driver.h"

namespace thermocline::cuda {
namespace {

constexpr const char* kStickyPayload = "thermocline.cuda.sticky";

// The numbers of the runtime and of the driver are the same.
absl::StatusCode CodeOf(int error) {
  switch (error) {
    case cudaErrorInvalidValue:
    case cudaErrorInvalidDevice:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorInvalidConfiguration:
    case cudaErrorHostMemoryAlreadyRegistered:
    case cudaErrorHostMemoryNotRegistered:
      return absl::StatusCode::kInvalidArgument;
    case cudaErrorMemoryAllocation:
      return absl::StatusCode::kResourceExhausted;
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorStubLibrary:
    case cudaErrorInitializationError:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
    case cudaErrorDevicesUnavailable:
      return absl::StatusCode::kUnavailable;
    case cudaErrorNotSupported:
      return absl::StatusCode::kUnimplemented;
    default:
      return absl::StatusCode::kInternal;
  }
}

// Those after which the documentation has the process end.
bool IsStickyCode(int error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorContextIsDestroyed:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorExternalDevice:
    case cudaErrorUnknown:
    case cudaErrorMpsClientTerminated:
    case 226:  // cudaErrorContained, an uncorrectable one of memory; 12.8 does not name all
    case 721:  // cudaErrorTensorMemoryLeak
      return true;
    default:
      return false;
  }
}

absl::Status StatusOf(int error, std::string_view call, const char* name, const char* text) {
  std::string message(call);
  message += ": ";
  message += name != nullptr ? name : "error";
  message += " (" + std::to_string(error) + ")";
  if (text != nullptr) {
    message += ", ";
    message += text;
  }
  absl::Status status(CodeOf(error), message);
  if (IsStickyCode(error)) status.SetPayload(kStickyPayload, absl::Cord("1"));
  return status;
}

}  // namespace

absl::Status RuntimeStatus(cudaError_t error, std::string_view call) {
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();  // so that no later call finds it, unless it is sticky
  return StatusOf(error, call, cudaGetErrorName(error), cudaGetErrorString(error));
}

absl::Status DriverStatus(CUresult result, std::string_view call) {
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  const char* name = nullptr;
  const char* text = nullptr;
  if (const auto driver = GetDriver(); driver.ok()) {
    (*driver)->get_error_name(result, &name);
    (*driver)->get_error_string(result, &text);
  }
  return StatusOf(result, call, name, text);
}

bool IsSticky(const absl::Status& status) { return status.GetPayload(kStickyPayload).has_value(); }

absl::Status LaunchStatus(CudaError error, std::string_view kernel) {
  return RuntimeStatus(static_cast<cudaError_t>(error), "launch of " + std::string(kernel));
}

}  // namespace thermocline::cuda
