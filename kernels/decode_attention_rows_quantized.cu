// Decode attention without tensor cores over codes.
#include "kernels/decode_attention_rows.cuh"
#include "kernels/quant_codes.cuh"

namespace thermocline {

CudaError LaunchCodesByRows(const DecodeAttentionArgs& args, CudaStream stream) {
  return WithCode(args.kv_dtype, [&](auto code) {
    return WithNumberType(args.type, [&](auto number) {
      return LaunchRows<decltype(number), CodeRows<decltype(code)>>(args, stream);
    });
  });
}

}  // namespace thermocline
