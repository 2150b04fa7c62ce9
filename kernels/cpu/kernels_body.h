// All kernels and their table, for the one translation unit that compiles them for a form.
#pragma once
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/simd.h"
// In order: later ones use earlier ones.
#include "kernels/cpu/matmul_body.h"
// clang-format off
#include "kernels/cpu/attention_body.h"
#include "kernels/cpu/row_body.h"
// clang-format on

namespace thermocline::TC_CPU_FORM {

extern const CpuKernels kKernels;
const CpuKernels kKernels = {
    .name = TC_CPU_NAME,
    .fused_panels = kFusedPanels,
    .unpack = Unpack,
    .matmul_tile = MatmulTile,
    .matmul_fused = MatmulFused,
    .rms_norm = RmsNorm,
    .rope = Rope,
    .store_kv = StoreKv,
    .attend_tile = AttendTile,
    .attend_span = AttendSpan,
    .merge_spans = MergeSpans,
};

}  // namespace thermocline::TC_CPU_FORM
