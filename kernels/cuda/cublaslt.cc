// cuBLASLt counts columns first: a row-major x [rows][inputs] is its matrix of inputs x rows, so
// that y^T = weights x^T is asked for, with the weights transposed.
#include "kernels/cuda/cublaslt.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <string>
#include <tuple>

#include "kernels/cuda/cublaslt_api.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/memory.h"

namespace thermocline::cuda {
namespace {

constexpr uint64_t kWorkspaceBytes = uint64_t{32} << 20;  // what NVIDIA advises for Hopper
constexpr uint32_t kAlignment = 16;
constexpr size_t kMaxPlans = 512;

absl::Status StatusOf(cublaslt::Status status, const char* call) {
  if (status == cublaslt::kSuccess) return absl::OkStatus();
  const std::string text = std::string(call) + " answers status " + std::to_string(status);
  switch (status) {
    case cublaslt::kInvalidValue:
    case cublaslt::kNotSupported:
      return absl::InvalidArgumentError(text + ": not a shape that it multiplies");
    case cublaslt::kAllocFailed:
      return absl::ResourceExhaustedError(text + ": out of memory");
    default:
      return absl::InternalError(text);
  }
}

/// Why the library could not execute. It may have a runtime of its own, of whose errors ours learns
/// only when it asks the device. OK where nothing tells.
absl::Status ErrorOf(CudaStream stream) {
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) error = cudaStreamQuery(stream);
  if (error == cudaErrorNotReady) {
    cudaGetLastError();
    error = cudaSuccess;
  }
  return RuntimeStatus(error, "cublasLtMatmul");
}

absl::Status Check(const MatrixProduct& product) {
  if (product.rows < 0 || product.outputs <= 0 || product.inputs <= 0) {
    return absl::InvalidArgumentError("a matrix product of " + std::to_string(product.rows) +
                                      " rows, " + std::to_string(product.inputs) + " inputs and " +
                                      std::to_string(product.outputs) + " outputs");
  }
  const auto check = [](const char* name, const void* pointer, int64_t stride, int64_t bytes) {
    if (reinterpret_cast<uintptr_t>(pointer) % kAlignment == 0 &&
        stride * bytes % kAlignment == 0) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        std::string("a matrix product's ") + name + " whose address, or whose rows' distance of " +
        std::to_string(stride * bytes) + " bytes, is no multiple of 16 bytes");
  };
  TC_RETURN_IF_ERROR(check("y", product.y, product.y_stride, product.float_result ? 4 : 2));
  TC_RETURN_IF_ERROR(check("x", product.x, product.x_stride, 2));
  return check("weights", product.weights, product.inputs, 2);
}

/// Never closed: its threads and contexts outlive whoever used it.
absl::StatusOr<cublaslt::Calls> Open() {
  const char* named = std::getenv("THERMOCLINE_CUBLASLT");
  const std::string name = named != nullptr && *named != '\0'
                               ? std::string(named)
                               : "libcublasLt.so." + std::to_string(CUDART_VERSION / 1000);
  void* const handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* why = dlerror();
    return absl::UnavailableError("cannot load " + name + ": " + (why != nullptr ? why : "") +
                                  "; install cuBLAS, or name its libcublasLt in "
                                  "THERMOCLINE_CUBLASLT");
  }
  cublaslt::Calls library{};
  absl::Status found;
  const auto find = [&](auto& call, const char* symbol) {
    call = reinterpret_cast<std::decay_t<decltype(call)>>(dlsym(handle, symbol));
    if (call == nullptr) {
      found = absl::UnavailableError(name + " has no " + symbol + "; is it cuBLASLt?");
    }
  };
  find(library.create, "cublasLtCreate");
  find(library.destroy, "cublasLtDestroy");
  find(library.matmul, "cublasLtMatmul");
  find(library.desc_create, "cublasLtMatmulDescCreate");
  find(library.desc_destroy, "cublasLtMatmulDescDestroy");
  find(library.desc_set, "cublasLtMatmulDescSetAttribute");
  find(library.layout_create, "cublasLtMatrixLayoutCreate");
  find(library.layout_destroy, "cublasLtMatrixLayoutDestroy");
  find(library.preference_create, "cublasLtMatmulPreferenceCreate");
  find(library.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  find(library.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  find(library.get_heuristic, "cublasLtMatmulAlgoGetHeuristic");
  TC_RETURN_IF_ERROR(found);
  return library;
}

/// How products of one shape are computed. Owner: destroys the descriptors.
struct Plan {
  const cublaslt::Calls* library;
  cublaslt::MatmulDesc* operation = nullptr;
  cublaslt::MatrixLayout *weights = nullptr, *x = nullptr, *y = nullptr;
  cublaslt::MatmulAlgo algorithm{};

  explicit Plan(const cublaslt::Calls* calls) : library(calls) {}
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (operation != nullptr) library->desc_destroy(operation);
    for (cublaslt::MatrixLayout* const layout : {weights, x, y}) {
      if (layout != nullptr) library->layout_destroy(layout);
    }
  }
};

}  // namespace

class CublasLt::Impl {
 public:
  ~Impl() {
    plans_.clear();
    if (handle_ != nullptr) library_.destroy(handle_);
  }

  absl::Status Start() {
    TC_ASSIGN_OR_RETURN(library_, Open());
    TC_RETURN_IF_ERROR(StatusOf(library_.create(&handle_), "cublasLtCreate"));
    TC_ASSIGN_OR_RETURN(workspace_, DeviceBuffer::Allocate(kWorkspaceBytes));
    return absl::OkStatus();
  }

  absl::Status Multiply(const MatrixProduct& product, CudaStream stream) {
    TC_RETURN_IF_ERROR(Check(product));
    if (product.rows == 0) return absl::OkStatus();
    TC_ASSIGN_OR_RETURN(const Plan* const plan, PlanOf(product));
    const float alpha = 1, beta = product.add ? 1 : 0;
    const cublaslt::Status status =
        library_.matmul(handle_, plan->operation, &alpha, product.weights, plan->weights, product.x,
                        plan->x, &beta, product.y, plan->y, product.y, plan->y, &plan->algorithm,
                        workspace_.data(), workspace_.bytes(), stream);
    if (status == cublaslt::kExecutionFailed) TC_RETURN_IF_ERROR(ErrorOf(stream));
    return StatusOf(status, "cublasLtMatmul");
  }

 private:
  using Shape = std::tuple<int, int, int, int64_t, int64_t, NumberType, bool>;

  absl::StatusOr<const Plan*> PlanOf(const MatrixProduct& product) {
    const Shape shape = {product.rows,     product.outputs, product.inputs,      product.x_stride,
                         product.y_stride, product.type,    product.float_result};
    const auto known = plans_.find(shape);
    if (known != plans_.end()) return known->second.get();
    auto plan = std::make_unique<Plan>(&library_);
    TC_RETURN_IF_ERROR(Describe(product, *plan));
    TC_RETURN_IF_ERROR(Choose(*plan));
    if (plans_.size() == kMaxPlans) plans_.clear();
    return plans_.emplace(shape, std::move(plan)).first->second.get();
  }

  absl::Status Describe(const MatrixProduct& product, Plan& plan) const {
    const cublaslt::DataType in =
        product.type == NumberType::kF16 ? cublaslt::kR16F : cublaslt::kR16BF;
    const auto layout = [&](cublaslt::MatrixLayout*& out, cublaslt::DataType type, int rows,
                            int columns, int64_t stride) {
      return StatusOf(library_.layout_create(&out, type, static_cast<uint64_t>(rows),
                                             static_cast<uint64_t>(columns), stride),
                      "cublasLtMatrixLayoutCreate");
    };
    TC_RETURN_IF_ERROR(
        StatusOf(library_.desc_create(&plan.operation, cublaslt::kCompute32F, cublaslt::kR32F),
                 "cublasLtMatmulDescCreate"));
    const cublaslt::Operation transposed = cublaslt::kOpT;
    TC_RETURN_IF_ERROR(StatusOf(
        library_.desc_set(plan.operation, cublaslt::kDescTransA, &transposed, sizeof(transposed)),
        "cublasLtMatmulDescSetAttribute"));
    TC_RETURN_IF_ERROR(layout(plan.weights, in, product.inputs, product.outputs, product.inputs));
    TC_RETURN_IF_ERROR(layout(plan.x, in, product.inputs, product.rows, product.x_stride));
    return layout(plan.y, product.float_result ? cublaslt::kR32F : in, product.outputs,
                  product.rows, product.y_stride);
  }

  absl::Status Choose(Plan& plan) const {
    cublaslt::MatmulPreference* preference = nullptr;
    TC_RETURN_IF_ERROR(
        StatusOf(library_.preference_create(&preference), "cublasLtMatmulPreferenceCreate"));
    const auto set = [&](cublaslt::MatmulPreferenceAttribute attribute, const auto& value) {
      return library_.preference_set(preference, attribute, &value, sizeof(value));
    };
    cublaslt::Status status = set(cublaslt::kPrefMaxWorkspaceBytes, kWorkspaceBytes);
    for (const auto attribute :
         {cublaslt::kPrefMinAlignmentABytes, cublaslt::kPrefMinAlignmentBBytes,
          cublaslt::kPrefMinAlignmentCBytes, cublaslt::kPrefMinAlignmentDBytes}) {
      if (status == cublaslt::kSuccess) status = set(attribute, kAlignment);
    }
    cublaslt::MatmulHeuristicResult best{};
    int found = 0;
    if (status == cublaslt::kSuccess) {
      status = library_.get_heuristic(handle_, plan.operation, plan.weights, plan.x, plan.y, plan.y,
                                      preference, 1, &best, &found);
    }
    library_.preference_destroy(preference);
    TC_RETURN_IF_ERROR(StatusOf(status, "cublasLtMatmulAlgoGetHeuristic"));
    if (found == 0 || best.state != cublaslt::kSuccess) {
      return absl::InvalidArgumentError("cuBLASLt knows no way to multiply this shape");
    }
    plan.algorithm = best.algo;
    return absl::OkStatus();
  }

  cublaslt::Calls library_{};
  cublaslt::Context* handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<Shape, std::unique_ptr<Plan>> plans_;
};

CublasLt::CublasLt(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CublasLt::~CublasLt() = default;

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Load() {
  auto impl = std::make_unique<Impl>();
  TC_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<CublasLt>(new CublasLt(std::move(impl)));
}

absl::Status CublasLt::Multiply(const MatrixProduct& product, CudaStream stream) {
  return impl_->Multiply(product, stream);
}

}  // namespace thermocline::cuda
