// cuBLASLt counts columns first: a row-major x [rows][inputs] is its matrix of inputs x rows, so
// that y^T = weights x^T is asked for, with the weights transposed.
#include "kernels/cuda/cublaslt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <string>
#include <tuple>

#include "kernels/cuda/memory.h"

namespace thermocline::cuda {
namespace {

constexpr uint64_t kWorkspaceBytes = uint64_t{32} << 20;  // what NVIDIA advises for Hopper
constexpr uint32_t kAlignment = 16;
constexpr size_t kMaxPlans = 512;

/// The library's calls, by name.
struct Library {
  decltype(&::cublasLtCreate) create = nullptr;
  decltype(&::cublasLtDestroy) destroy = nullptr;
  decltype(&::cublasLtMatmul) matmul = nullptr;
  decltype(&::cublasLtMatmulDescCreate) desc_create = nullptr;
  decltype(&::cublasLtMatmulDescDestroy) desc_destroy = nullptr;
  decltype(&::cublasLtMatmulDescSetAttribute) desc_set = nullptr;
  decltype(&::cublasLtMatrixLayoutCreate) layout_create = nullptr;
  decltype(&::cublasLtMatrixLayoutDestroy) layout_destroy = nullptr;
  decltype(&::cublasLtMatmulPreferenceCreate) preference_create = nullptr;
  decltype(&::cublasLtMatmulPreferenceDestroy) preference_destroy = nullptr;
  decltype(&::cublasLtMatmulPreferenceSetAttribute) preference_set = nullptr;
  decltype(&::cublasLtMatmulAlgoGetHeuristic) get_heuristic = nullptr;
};

absl::Status StatusOf(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  const std::string text = std::string(call) + " answers status " + std::to_string(status);
  switch (status) {
    case CUBLAS_STATUS_INVALID_VALUE:
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return absl::InvalidArgumentError(text + ": not a shape that it multiplies");
    case CUBLAS_STATUS_ALLOC_FAILED:
      return absl::ResourceExhaustedError(text + ": out of memory");
    default:
      return absl::InternalError(text);
  }
}

/// Never closed: its threads and contexts outlive whoever used it.
absl::StatusOr<Library> Open() {
  const char* named = std::getenv("THERMOCLINE_CUBLASLT");
  const std::string name = named != nullptr && *named != '\0'
                               ? std::string(named)
                               : "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  void* const handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* why = dlerror();
    return absl::UnavailableError("cannot load " + name + ": " + (why != nullptr ? why : "") +
                                  "; install cuBLAS, or name its libcublasLt in "
                                  "THERMOCLINE_CUBLASLT");
  }
  Library library;
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
  const Library* library;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weights = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulAlgo_t algorithm{};

  explicit Plan(const Library* calls) : library(calls) {}
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (operation != nullptr) library->desc_destroy(operation);
    for (const cublasLtMatrixLayout_t layout : {weights, x, y}) {
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
    TC_ASSIGN_OR_RETURN(const Plan* const plan, PlanOf(product));
    const float alpha = 1, beta = product.add ? 1 : 0;
    return StatusOf(
        library_.matmul(handle_, plan->operation, &alpha, product.weights, plan->weights, product.x,
                        plan->x, &beta, product.y, plan->y, product.y, plan->y, &plan->algorithm,
                        workspace_.data(), workspace_.bytes(), stream),
        "cublasLtMatmul");
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
    const cudaDataType in = product.type == NumberType::kF16 ? CUDA_R_16F : CUDA_R_16BF;
    const auto layout = [&](cublasLtMatrixLayout_t& out, cudaDataType type, int rows, int columns,
                            int64_t stride) {
      return StatusOf(library_.layout_create(&out, type, static_cast<uint64_t>(rows),
                                             static_cast<uint64_t>(columns), stride),
                      "cublasLtMatrixLayoutCreate");
    };
    TC_RETURN_IF_ERROR(
        StatusOf(library_.desc_create(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                 "cublasLtMatmulDescCreate"));
    const cublasOperation_t transposed = CUBLAS_OP_T;
    TC_RETURN_IF_ERROR(StatusOf(library_.desc_set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                                  &transposed, sizeof(transposed)),
                                "cublasLtMatmulDescSetAttribute"));
    TC_RETURN_IF_ERROR(layout(plan.weights, in, product.inputs, product.outputs, product.inputs));
    TC_RETURN_IF_ERROR(layout(plan.x, in, product.inputs, product.rows, product.x_stride));
    return layout(plan.y, product.float_result ? CUDA_R_32F : in, product.outputs, product.rows,
                  product.y_stride);
  }

  absl::Status Choose(Plan& plan) const {
    cublasLtMatmulPreference_t preference = nullptr;
    TC_RETURN_IF_ERROR(
        StatusOf(library_.preference_create(&preference), "cublasLtMatmulPreferenceCreate"));
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      return library_.preference_set(preference, attribute, &value, sizeof(value));
    };
    cublasStatus_t status = set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      if (status == CUBLAS_STATUS_SUCCESS) status = set(attribute, kAlignment);
    }
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = library_.get_heuristic(handle_, plan.operation, plan.weights, plan.x, plan.y, plan.y,
                                      preference, 1, &best, &found);
    }
    library_.preference_destroy(preference);
    TC_RETURN_IF_ERROR(StatusOf(status, "cublasLtMatmulAlgoGetHeuristic"));
    if (found == 0) {
      return absl::InvalidArgumentError("cuBLASLt knows no way to multiply this shape");
    }
    plan.algorithm = best.algo;
    return absl::OkStatus();
  }

  Library library_;
  cublasLtHandle_t handle_ = nullptr;
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
