#include "bench/kernel_peak.h"

#include <immintrin.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "engine/sampler.h"
#include "kernels/aligned_buffer.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/kv_geometry.h"

namespace thermocline::bench {
namespace {

constexpr int kRows = 256;    // of a chunk of prefill
constexpr int kQueries = 64;  // of one tile of attention
constexpr int kChains = 12;   // more than latency times units of any processor
constexpr size_t kPeakSteps = 500'000;
constexpr size_t kScaleBytes = 4;              // a Q4_1 block's scale and minimum, f16 each
constexpr size_t kBlockBytes = 20;             // and its 32 nibbles
constexpr uint32_t kSmallHalves = 0x98001400;  // +2^-10, -2^-9

#if defined(__clang__)
#define TC_BENCH_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TC_BENCH_UNROLL _Pragma("GCC unroll 16")
#endif

__attribute__((target("avx512f"))) float PeakAvx512(size_t steps) {
  __m512 sum[kChains];
  const __m512 factor = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f);
  TC_BENCH_UNROLL
  for (int i = 0; i < kChains; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  for (size_t step = 0; step < steps; ++step) {
    TC_BENCH_UNROLL
    for (int i = 0; i < kChains; ++i) sum[i] = _mm512_fmadd_ps(sum[i], factor, one);
  }
  TC_BENCH_UNROLL
  for (int i = 1; i < kChains; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  return _mm512_cvtss_f32(sum[0]);
}

__attribute__((target("avx2,fma"))) float PeakAvx2(size_t steps) {
  __m256 sum[kChains];
  const __m256 factor = _mm256_set1_ps(0.5f), one = _mm256_set1_ps(1.0f);
  TC_BENCH_UNROLL
  for (int i = 0; i < kChains; ++i) sum[i] = _mm256_set1_ps(static_cast<float>(i));
  for (size_t step = 0; step < steps; ++step) {
    TC_BENCH_UNROLL
    for (int i = 0; i < kChains; ++i) sum[i] = _mm256_fmadd_ps(sum[i], factor, one);
  }
  TC_BENCH_UNROLL
  for (int i = 1; i < kChains; ++i) sum[0] = _mm256_add_ps(sum[0], sum[i]);
  return _mm256_cvtss_f32(sum[0]);
}

#undef TC_BENCH_UNROLL

/// Seconds of processor that `body` takes of this thread.
template <class Body>
double ThreadSeconds(Body&& body) {
  const auto now = [] {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
  };
  const double start = now();
  body();
  return now() - start;
}

/// GFLOP/s, 0 where there is no loop of the kernels' width.
double Peak(const std::string& kernels) {
  const bool wide = kernels == "avx512";
  if (!wide && kernels != "avx2") return 0;
  volatile float result = 0;
  const double seconds =
      ThreadSeconds([&] { result = wide ? PeakAvx512(kPeakSteps) : PeakAvx2(kPeakSteps); });
  return 2.0 * kChains * kPeakSteps * (wide ? 16 : 8) / seconds * 1e-9;
}

/// A matrix of random Q4_1 weights as panels, and its product with a chunk.
class Product {
 public:
  static absl::StatusOr<Product> Make(int outputs, int columns, Epilogue epilogue) {
    Product product;
    const size_t row_bytes = StoredRowBytes(WeightType::kQ4_1, columns);
    std::vector<std::byte> weights(outputs * row_bytes);
    SplitMix64 random(outputs);
    for (std::byte& byte : weights) byte = static_cast<std::byte>(random.Next());
    for (size_t at = 0; at < weights.size(); at += kBlockBytes) {
      std::memcpy(&weights[at], &kSmallHalves, kScaleBytes);
    }
    const StoredMatrix matrix{WeightType::kQ4_1, weights.data(), outputs, columns};
    TC_RETURN_IF_ERROR(CheckStoredMatrix(matrix));
    const size_t panel_bytes = PanelBytes(WeightType::kQ4_1, columns);
    const int panels = PaddedRows(outputs) / kPanelRows, blocks = columns / kBlockColumns;
    // A cache line more, as the engine has it: rows of a power of two would share a set.
    const size_t x_stride = columns + 16, y_stride = PaddedRows(outputs) + 16;
    TC_ASSIGN_OR_RETURN(product.panel_memory_, AlignedBuffer::Make(panels * panel_bytes));
    TC_ASSIGN_OR_RETURN(product.x_, AlignedBuffer::Make(kRows * x_stride * sizeof(float)));
    TC_ASSIGN_OR_RETURN(product.y_, AlignedBuffer::Make(kRows * y_stride * sizeof(float)));
    TC_ASSIGN_OR_RETURN(product.scratch_,
                        AlignedBuffer::Make(MatmulScratchFloats(blocks) * sizeof(float)));
    for (int i = 0; i < panels; ++i) {
      std::byte* panel = product.panel_memory_.data() + i * panel_bytes;
      PackPanel(matrix, i * kPanelRows, panel);
      product.panels_.push_back({panel, WeightType::kQ4_1});
    }
    std::fill_n(product.x_.floats(), kRows * x_stride, 0.01f);
    product.flops_ = 2.0 * kRows * outputs * columns;
    product.args_ = {.panels = nullptr,
                     .block_count = blocks,
                     .x = product.x_.floats(),
                     .x_stride = x_stride,
                     .rows = kRows,
                     .y = product.y_.floats(),
                     .y_stride = y_stride,
                     .output_columns = outputs,
                     .epilogue = epilogue};
    return product;
  }

  void Run(const CpuKernels& kernels) {
    args_.panels = panels_.data();
    for (int first = 0; first < static_cast<int>(panels_.size()); first += 2) {
      const int count = std::min(2, static_cast<int>(panels_.size()) - first);
      kernels.matmul_tile(args_, first, count, scratch_.floats());
    }
  }
  double flops() const { return flops_; }

 private:
  AlignedBuffer panel_memory_, x_, y_, scratch_;
  std::vector<Panel> panels_;
  MatmulArgs args_;
  double flops_ = 0;
};

/// The products of one layer, as the engine calls them.
absl::StatusOr<std::vector<Product>> ProductsOf(const ModelConfig& config) {
  const int width = static_cast<int>(config.embedding_width);
  const int ff_width = static_cast<int>(config.ff_width);
  const int query_width = static_cast<int>(config.heads * config.head_dim);
  const int kv_width = static_cast<int>(config.kv_heads * config.head_dim);
  std::vector<Product> products;
  const auto add = [&](int outputs, int columns, Epilogue epilogue) -> absl::Status {
    TC_ASSIGN_OR_RETURN(Product product, Product::Make(outputs, columns, epilogue));
    products.push_back(std::move(product));
    return absl::OkStatus();
  };
  TC_RETURN_IF_ERROR(add(query_width + 2 * kv_width, width, Epilogue::kStore));
  TC_RETURN_IF_ERROR(add(width, query_width, Epilogue::kAdd));
  TC_RETURN_IF_ERROR(add(2 * ff_width, width, Epilogue::kSwiGlu));
  TC_RETURN_IF_ERROR(add(width, ff_width, Epilogue::kAdd));
  return products;
}

/// The last 64 queries of a prefill of `tokens`, in one layer.
class Attention {
 public:
  static absl::StatusOr<Attention> Make(const ModelConfig& config, int tokens) {
    const KvGeometry geometry = {.layers = 1,
                                 .kv_heads = static_cast<int>(config.kv_heads),
                                 .head_dim = static_cast<int>(config.head_dim),
                                 .dtype = KvDtype::kF16};
    const int heads = static_cast<int>(config.heads);
    const size_t width = static_cast<size_t>(heads) * geometry.head_dim;
    Attention attention;
    TC_ASSIGN_OR_RETURN(attention.kv_,
                        AlignedBuffer::Make(BlocksOf(tokens) * geometry.block_bytes()));
    TC_ASSIGN_OR_RETURN(attention.q_, AlignedBuffer::Make(kQueries * width * sizeof(float)));
    TC_ASSIGN_OR_RETURN(attention.out_, AlignedBuffer::Make(kQueries * width * sizeof(float)));
    const size_t scratch = AttentionScratchFloats(heads, geometry.kv_heads, geometry.head_dim);
    TC_ASSIGN_OR_RETURN(attention.scratch_, AlignedBuffer::Make(scratch * sizeof(float)));
    SplitMix64 random(tokens);
    for (size_t i = 0; i < kQueries * width; ++i) {
      attention.q_.floats()[i] = static_cast<float>(random.Next() % 2001) * 1e-3f - 1.0f;
    }
    auto* halves = reinterpret_cast<uint16_t*>(attention.kv_.data());
    for (size_t i = 0; i < attention.kv_.size_bytes() / 2; ++i) {  // +-[.5, 1)
      halves[i] = static_cast<uint16_t>(0x3800 | (random.Next() & 0x83ff));
    }
    for (size_t i = 0; i < BlocksOf(tokens); ++i) {
      attention.blocks_.push_back(attention.kv_.data() + i * geometry.block_bytes());
    }
    attention.args_ = {.q = attention.q_.floats(),
                       .q_stride = width,
                       .out = attention.out_.floats(),
                       .out_stride = width,
                       .heads = heads,
                       .kv_heads = geometry.kv_heads,
                       .head_dim = geometry.head_dim,
                       .rows = kQueries,
                       .position = tokens - kQueries,
                       .keys_offset = geometry.head_offset(0, KvHalf::kKeys, 0),
                       .values_offset = geometry.head_offset(0, KvHalf::kValues, 0),
                       .head_bytes = geometry.head_bytes(),
                       .half = true};
    for (int i = 1; i <= kQueries; ++i) {  // two products with what each query sees
      attention.flops_ += 4.0 * static_cast<double>(width) * (tokens - kQueries + i);
    }
    return attention;
  }

  void Run(const CpuKernels& kernels) {
    args_.blocks = blocks_.data();
    for (int head = 0; head < args_.kv_heads; ++head) {
      kernels.attend_tile(args_, 0, head, scratch_.floats());
    }
  }
  double flops() const { return flops_; }

 private:
  AlignedBuffer kv_, q_, out_, scratch_;
  std::vector<std::byte*> blocks_;
  AttentionArgs args_;
  double flops_ = 0;
};

}  // namespace

absl::Status AddKernelPeak(const ModelConfig& config, bool quick, Report& report) {
  const int rounds = quick ? 1 : 25, tokens = quick ? 256 : 4096;
  TC_ASSIGN_OR_RETURN(const CpuKernels* kernels, SelectCpuKernels());
  TC_ASSIGN_OR_RETURN(std::vector<Product> products, ProductsOf(config));
  TC_ASSIGN_OR_RETURN(Attention attention, Attention::Make(config, tokens));
  double product_flops = 0;
  for (const Product& product : products) product_flops += product.flops();
  std::vector<double> peaks, gemms, attentions;
  for (int i = 0; i < rounds; ++i) {
    peaks.push_back(Peak(kernels->name));
    const double gemm_seconds = ThreadSeconds([&] {
      for (Product& product : products) product.Run(*kernels);
    });
    gemms.push_back(product_flops / gemm_seconds * 1e-9);
    const double attention_seconds = ThreadSeconds([&] { attention.Run(*kernels); });
    attentions.push_back(attention.flops() / attention_seconds * 1e-9);
  }
  const double peak = Median(peaks);
  const auto add = [&](const std::string& name, double rate) {
    peak > 0 ? report.Add({name, "arithmetic", rate, "GFLOP/s", "fma_peak", rate / peak})
             : report.Add({name, "arithmetic", rate, "GFLOP/s"});
  };
  if (peak > 0) report.Add({"fma_peak", "arithmetic", peak, "GFLOP/s"});
  add("gemm/rows:" + std::to_string(kRows), Median(gemms));
  add("attention/tokens:" + std::to_string(tokens), Median(attentions));
  return absl::OkStatus();
}

}  // namespace thermocline::bench
