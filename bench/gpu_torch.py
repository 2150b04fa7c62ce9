#!/usr/bin/env python3
"""What PyTorch reaches on the same GPU, for bench_gpu's shapes: its attention (FlashAttention, over KV that lies in one run, not in
pages), and a large matrix product as the measure of arithmetic. Without PyTorch or a GPU: exit code 77.

gpu_torch.py [--json FILE]
"""
import argparse
import json
import statistics
import sys

try:
    import torch
    from torch.nn.functional import scaled_dot_product_attention
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError:
    print("SKIPPED: no PyTorch here")
    sys.exit(77)
if not torch.cuda.is_available():
    print("SKIPPED: PyTorch sees no GPU")
    sys.exit(77)


def milliseconds(call, runs=15):
    """Of one call among others in a row, as bench/gpu_device.h does it."""
    def row(count):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / count
    row(3)
    count = int(min(max(2 / row(3), 1), 100))
    return statistics.median(row(count) for _ in range(runs))


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.float16)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    options = parser.parse_args()
    rows = []

    def add(case, metric, value, unit, ms):
        rows.append({"case": case, "metric": metric, "value": value, "unit": unit, "against": "", "ratio": 0})
        print(f"{case:55} {value:9.1f} {unit}  ({1000 * ms:.1f} us)")

    a, b = random(8192, 8192), random(8192, 8192)
    ms = milliseconds(lambda: a @ b)
    add("torch/matrix_product/8192", "arithmetic", 2 * 8192**3 / ms / 1e9, "TFLOP/s", ms)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        for name, batch, tokens, heads, kv_heads, dim in (
                ("llama8b/batch:1/tokens:8192", 1, 8192, 32, 8, 128), ("llama8b/batch:16/tokens:8192", 16, 8192, 32, 8, 128),
                ("llama8b/batch:64/tokens:2048", 64, 2048, 32, 8, 128), ("smollm2/batch:64/tokens:2048", 64, 2048, 9, 3, 64)):
            q, k, v = random(batch, heads, 1, dim), random(batch, kv_heads, tokens, dim), random(batch, kv_heads, tokens, dim)
            ms = milliseconds(lambda: scaled_dot_product_attention(q, k, v, enable_gqa=True))
            add(f"torch/decode/{name}", "bandwidth", 4.0 * batch * kv_heads * tokens * dim / ms / 1e6, "GB/s", ms)
        for name, batch, tokens, heads, kv_heads, dim in (
                ("llama8b/batch:1/tokens:8192", 1, 8192, 32, 8, 128), ("smollm2/batch:8/tokens:2048", 8, 2048, 9, 3, 64),
                ("gemma3/batch:1/tokens:8192", 1, 8192, 8, 4, 256)):
            q, k, v = (random(batch, n, tokens, dim) for n in (heads, kv_heads, kv_heads))
            ms = milliseconds(lambda: scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
            operations = 4.0 * batch * heads * dim * tokens * (tokens + 1) / 2
            add(f"torch/prefill/{name}/chunk:{tokens}", "arithmetic", operations / ms / 1e9, "TFLOP/s", ms)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
