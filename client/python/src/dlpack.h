// The structures of DLPack 1.0 (https://dmlc.github.io/dlpack/latest/c_api.html) that travel in its
// capsules, as its C ABI lays them out.
#pragma once
#include <cstdint>

namespace thermocline::python::dlpack {

inline constexpr int32_t kDeviceCpu = 1;
inline constexpr uint8_t kInt = 0, kUint = 1, kFloat = 2, kBfloat = 4;
inline constexpr uint32_t kMajorVersion = 1, kMinorVersion = 0;
inline constexpr uint64_t kFlagReadOnly = 1, kFlagIsCopied = 2;

struct Device {
  int32_t type;
  int32_t id;
};
struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements
  uint64_t byte_offset;
};
struct ManagedTensor {  // in capsules called "dltensor"
  Tensor tensor;
  void* manager_context;
  void (*deleter)(ManagedTensor*);
};
struct ManagedTensorVersioned {  // in capsules called "dltensor_versioned"
  uint32_t major, minor;
  void* manager_context;
  void (*deleter)(ManagedTensorVersioned*);
  uint64_t flags;
  Tensor tensor;
};

}  // namespace thermocline::python::dlpack
