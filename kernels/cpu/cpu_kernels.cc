#include "kernels/cpu/cpu_kernels.h"

#if defined(TC_CPU_X86)
#include <cpuid.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <string>

namespace thermocline {

#if defined(TC_CPU_X86)
namespace cpu_avx512 {
extern const CpuKernels kKernels;
}
namespace cpu_avx2 {
extern const CpuKernels kKernels;
}
#endif
namespace cpu_portable {
extern const CpuKernels kKernels;
}

namespace {

#if defined(TC_CPU_X86)
bool HasF16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
// __builtin_cpu_supports also asks the system whether it saves the registers.
bool RunsAvx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c();
}
bool RunsAvx512() { return RunsAvx2() && __builtin_cpu_supports("avx512f"); }
#endif

}  // namespace

size_t MatmulScratchFloats(int block_count) {
  return 2 * static_cast<size_t>(kPanelRows) * kBlockColumns * block_count;
}

size_t PartialFloats(int head_dim) { return 32 + static_cast<size_t>(PaddedRows(head_dim)); }

size_t AttentionScratchFloats(int heads, int kv_heads, int head_dim) {
  const size_t rows = static_cast<size_t>(kGroupTokens) * (heads / kv_heads);
  const size_t scores = 8 * kGroupTokens;
  const size_t keys_and_values =
      kGroupTokens * (head_dim + static_cast<size_t>(PaddedRows(head_dim)));
  return scores + keys_and_values + rows * (head_dim + 2 * PartialFloats(head_dim));
}

absl::Status CheckAttentionShape(int heads, int kv_heads, int head_dim) {
  constexpr int kMaxHeads = 1024, kMaxHeadDim = 512;
  if (heads <= 0 || kv_heads <= 0 || heads % kv_heads != 0 || heads > kMaxHeads) {
    return absl::InvalidArgumentError(
        "attention with " + std::to_string(heads) + " heads over " + std::to_string(kv_heads) +
        " KV heads; the heads must be a multiple of the KV heads and at most 1024");
  }
  if (head_dim <= 0 || head_dim % 8 != 0 || head_dim > kMaxHeadDim) {
    return absl::InvalidArgumentError("a head dimension of " + std::to_string(head_dim) +
                                      "; it must be a multiple of 8 and at most 512");
  }
  return absl::OkStatus();
}

std::vector<const CpuKernels*> SupportedCpuKernels() {
  std::vector<const CpuKernels*> tables;
#if defined(TC_CPU_X86)
  if (RunsAvx512()) tables.push_back(&cpu_avx512::kKernels);
  if (RunsAvx2()) tables.push_back(&cpu_avx2::kKernels);
#endif
  tables.push_back(&cpu_portable::kKernels);
  return tables;
}

absl::StatusOr<const CpuKernels*> SelectCpuKernels() {
  const std::vector<const CpuKernels*> tables = SupportedCpuKernels();
  const char* wanted = std::getenv("THERMOCLINE_CPU");
  if (wanted == nullptr || *wanted == '\0') return tables.front();
  for (const CpuKernels* table : tables) {
    if (std::string_view(table->name) == wanted) return table;
  }
  const std::string_view name = wanted;
  if (name == "avx512" || name == "avx2") {
    return absl::FailedPreconditionError("THERMOCLINE_CPU=" + std::string(name) +
                                         ", but this processor lacks it; unset it");
  }
  return absl::InvalidArgumentError("THERMOCLINE_CPU=" + std::string(name) +
                                    "; it must be avx512, avx2 or portable");
}

}  // namespace thermocline
