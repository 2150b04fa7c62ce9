// The small kernels that work on one token's row.
#pragma once

namespace thermocline::TC_CPU_FORM {

void RmsNorm(const float* x, const float* gain, float* y, int width, float epsilon) {
  Lanes squares = Zero();
  for (int i = 0; i < width; i += 16) squares = Fma(Load(x + i), Load(x + i), squares);
  const float mean = SumOfLanes(squares) / static_cast<float>(width);
  const Lanes scale = Set1(1.0f / __builtin_sqrtf(mean + epsilon));
  for (int i = 0; i < width; i += 16) Store(y + i, Mul(Mul(Load(x + i), scale), Load(gain + i)));
}

void Rope(float* x, int heads, int head_dim, const float* cos_sin, bool halves) {
  const int half = head_dim / 2, step = halves ? 1 : 2, partner = halves ? half : 1;
  for (int h = 0; h < heads; ++h, x += head_dim) {
    for (int i = 0; i < half; ++i) {
      const float c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
      float &a = x[i * step], &b = x[i * step + partner];
      const float rotated_a = a * c - b * s, rotated_b = a * s + b * c;
      a = rotated_a;
      b = rotated_b;
    }
  }
}

void StoreKv(const float* x, int head_dim, bool half, std::byte* row) {
  if (!half) {
    __builtin_memcpy(row, x, head_dim * sizeof(float));
    return;
  }
  constexpr float kLargestHalf = 65504.0f;
  for (int d = 0; d < head_dim; d += 16) {
    const int count = Least(16, head_dim - d);
    const Lanes v = Min(Max(LoadPart(x + d, count), Set1(-kLargestHalf)), Set1(kLargestHalf));
    char halves[32];
    StoreHalf(halves, v);
    __builtin_memcpy(row + 2 * d, halves, 2 * count);
  }
}

void Unpack(const Panel& panel, int block_count, float* out) {
  UnpackPanel(panel, block_count, out, 16);
}

}  // namespace thermocline::TC_CPU_FORM
