#include "kernels/cuda/copies.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/copy_pieces.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/driver.h"
#include "kernels/cuda/errors.h"

namespace thermocline::cuda {
namespace {

constexpr size_t kMaxBatch = 4096;  // copies of one call of the driver

bool SuitsKernel(std::span<const Copy> copies, const CopyOptions& options) {
  return options.device_reaches_all && copies.size() >= options.kernel_least_pieces &&
         std::all_of(copies.begin(), copies.end(), [&](const Copy& copy) {
           const auto all = reinterpret_cast<uintptr_t>(copy.to) |
                            reinterpret_cast<uintptr_t>(copy.from) | copy.bytes;
           return copy.bytes < options.kernel_below_bytes && all % 16 == 0;
         });
}

absl::Status CopyByKernel(std::span<const Copy> copies, CudaStream stream,
                          const CopyOptions& options) {
  while (!copies.empty()) {
    CopyPiecesArgs args;
    args.max_thread_blocks = options.max_thread_blocks;
    args.count = static_cast<int>(std::min<size_t>(copies.size(), CopyPiecesArgs::kMaxPieces));
    for (int i = 0; i < args.count; ++i) {
      args.pieces[i] = {copies[i].to, copies[i].from, static_cast<int64_t>(copies[i].bytes)};
    }
    TC_RETURN_IF_ERROR(LaunchStatus(LaunchCopyPieces(args, stream), "CopyPieces"));
    copies = copies.subspan(args.count);
  }
  return absl::OkStatus();
}

absl::Status CopyByDriver(const Driver& driver, std::span<const Copy> copies, CudaStream stream) {
  std::vector<CUdeviceptr> to;
  std::vector<CUdeviceptr> from;
  std::vector<size_t> bytes;
  for (const Copy& copy : copies) {
    if (copy.bytes == 0) continue;  // the driver refuses it
    to.push_back(reinterpret_cast<CUdeviceptr>(copy.to));
    from.push_back(reinterpret_cast<CUdeviceptr>(copy.from));
    bytes.push_back(copy.bytes);
  }
  if (to.empty()) return absl::OkStatus();
  CUmemcpyAttributes attributes = {};
  attributes.srcAccessOrder = CU_MEMCPY_SRC_ACCESS_ORDER_STREAM;
  size_t first = 0;  // whose attributes begin with this copy
  const std::string call = "cuMemcpyBatchAsync of " + std::to_string(to.size()) + " copies";
  if (driver.memcpy_batch != nullptr) {
    return DriverStatus(driver.memcpy_batch(to.data(), from.data(), bytes.data(), to.size(),
                                            &attributes, &first, 1, stream),
                        call);
  }
  size_t failed = 0;
  return DriverStatus(
      driver.memcpy_batch_with_fail_index(to.data(), from.data(), bytes.data(), to.size(),
                                          &attributes, &first, 1, &failed, stream),
      call);
}

}  // namespace

absl::Status CopyAsync(const Copy& copy, CudaStream stream) {
  return RuntimeStatus(cudaMemcpyAsync(copy.to, copy.from, copy.bytes, cudaMemcpyDefault, stream),
                       "cudaMemcpyAsync of " + std::to_string(copy.bytes) + " bytes");
}

absl::Status CopyBatchAsync(std::span<const Copy> copies, CudaStream stream,
                            const CopyOptions& options) {
  if (SuitsKernel(copies, options)) return CopyByKernel(copies, stream, options);
  TC_ASSIGN_OR_RETURN(const Driver* driver, GetDriver());
  const bool has_batch =
      driver->memcpy_batch != nullptr || driver->memcpy_batch_with_fail_index != nullptr;
  if (!has_batch || copies.size() == 1) {
    for (const Copy& copy : copies) TC_RETURN_IF_ERROR(CopyAsync(copy, stream));
    return absl::OkStatus();
  }
  for (size_t at = 0; at < copies.size(); at += kMaxBatch) {
    const size_t count = std::min(kMaxBatch, copies.size() - at);
    TC_RETURN_IF_ERROR(CopyByDriver(*driver, copies.subspan(at, count), stream));
  }
  return absl::OkStatus();
}

absl::Status FillAsync(std::byte* to, uint8_t value, uint64_t bytes, CudaStream stream) {
  return RuntimeStatus(cudaMemsetAsync(to, value, bytes, stream),
                       "cudaMemsetAsync of " + std::to_string(bytes) + " bytes");
}

}  // namespace thermocline::cuda
