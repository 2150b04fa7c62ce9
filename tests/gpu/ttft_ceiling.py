#!/usr/bin/env python3
"""The least time to first token that a GPU allows for the demo's steps: the prompt's arithmetic at the rate of a large matrix
product, or its cached bytes at that of a copy to the device, whichever takes longer. Prints a line for each step, for run.sh.

ttft_ceiling.py MODEL.gguf DEMO.json BENCH_GPU.json TORCH.json, as run.sh has them. Exit code 77 if one of them is not there.
"""
import json
import math
import os
import struct
import sys

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


def read_gguf(path):
    """Its metadata, arrays left out, and each tensor's dimensions."""
    with open(path, "rb") as file:
        def take(form):
            return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]
        def value(kind):
            if kind == STRING:
                return file.read(take("Q")).decode(errors="replace")
            if kind == ARRAY:
                inner, count = take("I"), take("Q")
                for _ in range(count):
                    value(inner)
                return None
            return take(SCALARS[kind])
        if file.read(4) != b"GGUF":
            raise SystemExit(f"{path} is no GGUF file")
        take("I")
        tensors, pairs = take("Q"), take("Q")
        metadata = {}
        for _ in range(pairs):
            key = value(STRING)
            metadata[key] = value(take("I"))
        shapes = {}
        for _ in range(tensors):
            name = value(STRING)
            shapes[name] = [take("Q") for _ in range(take("I"))]
            take("I"), take("Q")
    return metadata, shapes


def arithmetic(metadata, shapes, cached, prompt):
    """Of what is computed behind a cached prefix until the first id: products with the weights, and attention."""
    kind = metadata["general.architecture"]
    weights = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("blk.") and len(shape) == 2)
    head = shapes.get("output.weight", shapes["token_embd.weight"])  # for the last token alone
    attended = (prompt * (prompt + 1) - cached * (cached + 1)) / 2
    attention = 4 * metadata[f"{kind}.block_count"] * shapes["blk.0.attn_q.weight"][1] * attended
    return 2 * weights * (prompt - cached) + 2 * math.prod(head) + attention


def kv_bytes(metadata, shapes, tokens):
    """As f16."""
    kind = metadata["general.architecture"]
    return 2 * 2 * metadata[f"{kind}.block_count"] * shapes["blk.0.attn_k.weight"][1] * tokens


def main():
    model, *files = sys.argv[1:]
    missing = [path for path in (model, *files) if not os.path.exists(path)]
    if missing:
        print(f"no ceiling of the time to first token: there is no {missing[0]}")
        return 77
    results = []
    for path in files:
        with open(path, encoding="utf-8") as file:
            results.append(json.load(file))
    demo, bench, torch = results
    metadata, shapes = read_gguf(model)
    rate = {row["case"]: row["value"] for row in bench + torch}
    products, copies = rate["torch/matrix_product/8192"], rate["copy/host_to_device"]
    for row in demo["rows"]:
        operations = arithmetic(metadata, shapes, row["cached_tokens"], row["prompt_tokens"])
        moved = kv_bytes(metadata, shapes, row["cached_tokens"])
        least_ms = max(operations / products / 1e9, moved / copies / 1e6)
        print(f"| time to first token, {row['step']} | {least_ms / row['ttft_ms']:.3f} of the ceiling | {row['ttft_ms']:.1f} ms, at least "
              f"{least_ms:.2f}: {operations / 1e9:.0f} GFLOP at {products:.0f} TFLOP/s, {moved / 1e6:.0f} MB at {copies:.0f} GB/s | |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
