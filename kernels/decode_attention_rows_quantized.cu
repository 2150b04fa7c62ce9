// Decode attention without tensor cores over codes.
#include "kernels/decode_attention_rows.cuh"
#include "kernels/quant_codes.cuh"

namespace thermocline {
namespace {

template <class Code>
struct CodeRows {
  __device__ __forceinline__ static void Load8(const PagedKv& kv, const std::byte* head, int row,
                                               int chunk, float (&x)[8]) {
    uint32_t words[kWords<Code>];
    LoadCodes8<Code>(head + row * kv.row_stride + 4 * kWords<Code> * chunk, words);
    Code::Decode8(words, x);
    const float scale = ToFloat(reinterpret_cast<const Half*>(head + kv.scales_offset)[row]);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] *= scale;
  }
};

}  // namespace

CudaError LaunchCodesByRows(const DecodeAttentionArgs& args, CudaStream stream) {
  return WithCode(args.kv_dtype, [&](auto code) {
    return WithNumberType(args.type, [&](auto number) {
      return LaunchRows<decltype(number), CodeRows<decltype(code)>>(args, stream);
    });
  });
}

}  // namespace thermocline
