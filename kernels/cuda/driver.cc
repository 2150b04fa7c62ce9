#include "kernels/cuda/driver.h"

#include <string>

#include "kernels/cuda/errors.h"

namespace thermocline::cuda {
namespace {

constexpr int kBaseVersion = 12000;
constexpr int kBatchVersion = 13000;
constexpr int kBatchWithFailIndexVersion = 12080;

/// Whether the driver has the call as it was in `version`.
template <class Function>
absl::StatusOr<bool> LookUp(const char* name, int version, Function& function) {
  // A driver answers a version newer than its own with an error.
  int driver_version = 0;
  TC_RETURN_IF_ERROR(RuntimeStatus(cudaDriverGetVersion(&driver_version), "cudaDriverGetVersion"));
  if (driver_version > 0 && version > driver_version) return false;
  void* found = nullptr;
  auto result = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(
      name, &found, static_cast<unsigned>(version), cudaEnableDefault, &result);
  TC_RETURN_IF_ERROR(RuntimeStatus(error, std::string("looking up ") + name));
  if (result != cudaDriverEntryPointSuccess || found == nullptr) return false;
  function = reinterpret_cast<Function>(found);
  return true;
}

struct Lookups {
  absl::Status status;
  template <class Function>
  void Need(const char* name, Function& function) {
    if (!status.ok()) return;
    const absl::StatusOr<bool> found = LookUp(name, kBaseVersion, function);
    if (!found.ok()) {
      status = found.status();
    } else if (!*found) {
      status = absl::UnavailableError(std::string("the CUDA driver has no ") + name +
                                      "; install one of CUDA 12.0 or later");
    }
  }
};

absl::StatusOr<Driver> LookUpAll() {
  Driver driver;
  Lookups lookups;
  lookups.Need("cuMemGetAllocationGranularity", driver.mem_get_allocation_granularity);
  lookups.Need("cuMemCreate", driver.mem_create);
  lookups.Need("cuMemRelease", driver.mem_release);
  lookups.Need("cuMemExportToShareableHandle", driver.mem_export);
  lookups.Need("cuMemImportFromShareableHandle", driver.mem_import);
  lookups.Need("cuMemAddressReserve", driver.mem_address_reserve);
  lookups.Need("cuMemAddressFree", driver.mem_address_free);
  lookups.Need("cuMemMap", driver.mem_map);
  lookups.Need("cuMemUnmap", driver.mem_unmap);
  lookups.Need("cuMemSetAccess", driver.mem_set_access);
  lookups.Need("cuMemHostRegister", driver.mem_host_register);
  lookups.Need("cuMemHostUnregister", driver.mem_host_unregister);
  lookups.Need("cuGetErrorName", driver.get_error_name);
  lookups.Need("cuGetErrorString", driver.get_error_string);
  TC_RETURN_IF_ERROR(lookups.status);
  TC_ASSIGN_OR_RETURN(const bool has_batch,
                      LookUp("cuMemcpyBatchAsync", kBatchVersion, driver.memcpy_batch));
  if (!has_batch) {
    TC_RETURN_IF_ERROR(LookUp("cuMemcpyBatchAsync", kBatchWithFailIndexVersion,
                              driver.memcpy_batch_with_fail_index)
                           .status());
  }
  return driver;
}

}  // namespace

absl::StatusOr<const Driver*> GetDriver() {
  static const absl::StatusOr<Driver> driver = LookUpAll();
  TC_RETURN_IF_ERROR(driver.status());
  return &*driver;
}

}  // namespace thermocline::cuda
