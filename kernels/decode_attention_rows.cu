// Decode attention without tensor cores over 16-bit numbers.
#include "kernels/decode_attention_rows.cuh"

namespace thermocline {
namespace {

template <class T>
struct PlainRows {
  __device__ __forceinline__ static void Load8(const PagedKv& kv, const std::byte* head, int row,
                                               int chunk, float (&x)[8]) {
    simt::Unpack8<T>(simt::LoadOnce16(head + row * kv.row_stride + 16 * chunk), x);
  }
};

}  // namespace

CudaError LaunchDecodeByRows(const DecodeAttentionArgs& args, CudaStream stream) {
  return WithNumberType(args.type, [&](auto number) {
    using T = decltype(number);
    return LaunchRows<T, PlainRows<T>>(args, stream);
  });
}

}  // namespace thermocline
