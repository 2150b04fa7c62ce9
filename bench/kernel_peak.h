// How near the two kernels that prefill consists of come to what a core can multiply and add.
#pragma once
#include "base/status.h"
#include "bench/report.h"
#include "engine/weights.h"

namespace thermocline::bench {

/// Adds rows in GFLOP/s of one thread's processor time, so that other processes disturb little:
/// `fma_peak`, a loop of independent fused multiply-adds as wide as the kernels'; `gemm/rows:256`,
/// a layer's four products of Q4_1 weights with one chunk of prefill; `attention/tokens:N`, 64
/// queries behind N tokens of f16 KV. The three alternate; the medians are compared.
/// The portable kernels have no peak row: their width is the compiler's choice.
absl::Status AddKernelPeak(const ModelConfig& config, bool quick, Report& report);

}  // namespace thermocline::bench
