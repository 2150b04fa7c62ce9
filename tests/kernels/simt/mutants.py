#!/usr/bin/env python3
"""Plants bugs in the kernels, one at a time, and fails if the checked tests let one pass.

Each mutant is a piece of a kernel's source and what replaces it. The changed source is compiled as the build compiles the
kernel for its checked test, linked in its place, and the test is run: it must fail (a wrong number, a breach the checker
reports) or hang. Usage: mutants.py BUILD_DIR [PATTERN]; the checked tests must have been built there, by Ninja.
"""
import concurrent.futures
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile

TESTS = {
    "simt_row_kernels_test_checked": ("activation", "embedding", "rms_norm", "rope"),
    "simt_kv_moves_test_checked": ("block_copy", "kv_append"),
    "simt_decode_attention_test_checked": ("decode_attention", "decode_attention_rows"),
}
RUN_SECONDS = 120

# (kernel, what is wrong, its source, what stands there instead)
MUTANTS = [
    ("rms_norm", "no barrier before the warps' sums are read", "  __syncthreads();\n", ""),
    ("rms_norm", "sums of warps that do not exist are added", "lane < warps ? partial[lane] : 0.0f", "partial[lane]"),
    ("rms_norm", "numbers beyond the row are read", "if (at >= args.width) break;", ""),
    ("rms_norm", "the gain's offset is forgotten", "(gain[i] + args.gain_offset)", "gain[i]"),
    ("rms_norm", "the sum is normalised before it is rounded", "simt::Unpack8<T>(sum, values[chunk]);", ""),
    ("rms_norm", "rows are taken for contiguous", "row * args.x_stride", "row * args.width"),
    ("rms_norm", "no epsilon", "mean + args.epsilon", "mean"),
    ("rope", "turned the other way", "a * sine + b * cosine", "b * cosine - a * sine"),
    ("rope", "padding is rotated", "if (position < 0) return;", ""),
    ("rope", "the wrong partner", "head[word + words]", "head[word + 1]"),
    ("rope", "heads are taken for as wide as what rotates", "i / words * args.head_dim", "i / words * args.rotary_dim"),
    ("activation", "another constant", "0.044715f", "0.44715f"),
    ("activation", "the exponent's sign", "__expf(-x)", "__expf(x)"),
    ("activation", "numbers beyond the row are written", "if (at >= args.width) return;", ""),
    ("activation", "all rows are the first one of the gates", "row * args.gate_stride", "0 * args.gate_stride"),
    ("embedding", "no bound on ids", "id >= 0 && id < args.vocabulary", "id >= 0"),
    ("embedding", "every second chunk", "at += 8 * kThreads", "at += 16 * kThreads"),
    ("embedding", "not scaled", "values[i] *= args.scale", "values[i] *= 1"),
    ("kv_append", "the wrong row", "position % kBlockTokens", "position % 8"),
    ("kv_append", "not saturated", "Saturate(T{}, simt::LoadOnce16(from))", "simt::LoadOnce16(from)"),
    ("kv_append", "padding is written", "if (position < 0) return;", ""),
    ("kv_append", "keys in the place of values", "is_value ? args.values : args.keys", "args.keys"),
    ("kv_append", "values are read behind the token", "8 * of_half", "8 * i"),
    ("kv_append", "every token in the first block", "table + position / kBlockTokens", "table"),
    ("block_copy", "heads share a run", "row % kBlockTokens * args.engine.token_stride", "row * args.engine.token_stride"),
    ("block_copy", "pages are copied from their first token", "slot % args.engine.page_tokens *", "0 *"),
    ("block_copy", "pieces are left out", "piece += gridDim.x", "piece += gridDim.x + 1"),
    ("block_copy", "values are taken from the keys", "layer_half % 2 * args.engine.half_stride", "0"),
    ("block_copy", "all blocks in one place", "args.blocks[block]", "args.blocks[0]"),
    ("block_copy", "the other direction", "kToEngine ? b : a", "kToEngine ? a : b"),
    ("decode_attention", "no barrier before a tile is used", "__syncthreads();  // the tile", "// the tile"),
    ("decode_attention", "a tile is used before it has landed", "CopyAsyncWait<Shared::kStages - 2>",
     "CopyAsyncWait<Shared::kStages - 1>"),
    ("decode_attention", "no barrier before the ring's memory is used anew",
     "simt::CopyAsyncWait<0>();\n  __syncthreads();", "simt::CopyAsyncWait<0>();"),
    ("decode_attention", "no barrier before the states are merged",
     "KeepState<kHeadDim>(state, states);\n  __syncthreads();", "KeepState<kHeadDim>(state, states);"),
    ("decode_attention", "tokens beyond the sequence are looked up", "wanted ? first_token + row : end - 1",
     "first_token + row"),
    ("decode_attention", "the next tile overwrites one in use",
     "    fetch(tile + Shared::kStages - 1);\n    const", "    fetch(tile + Shared::kStages);\n    const"),
    ("decode_attention", "all splits write one state", "head * args.splits + split", "head * args.splits"),
    ("decode_attention", "one token too many", "token < span.end ?", "token <= span.end ?"),
    ("decode_attention", "a window of one more", "length - args.window)", "length - args.window - 1)"),
    ("decode_attention", "values of other tokens", "lane % 16 * kRow + lane / 16 * 8",
     "lane % 16 * kRow + lane % 16 / 8 * 8"),
    ("decode_attention", "the old sum keeps its scale", "state.sum[half] *= kept;", ""),
    ("decode_attention", "the merge forgets the largest score", "    largest = now;\n", ""),
    ("decode_attention", "an empty sequence divides by zero", "FromFloat<T>(sum > 0 ? out / sum : 0);\n    return",
     "FromFloat<T>(out / sum);\n    return"),
    ("decode_attention", "the merge of an empty sequence divides by zero",
     "FromFloat<T>(sum > 0 ? out / sum : 0);\n}", "FromFloat<T>(out / sum);\n}"),
    ("decode_attention", "no softcap", "if (args.softcap > 0)", "if (args.softcap < 0)"),
    ("decode_attention", "half of a row's lanes agree on its maximum",
     "largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));", ""),
    ("decode_attention", "a shuffle that not all lanes reach",
     "largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));",
     "if (lane % 4 < 3) largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));"),
    ("decode_attention", "one warp leaves early", "    AttendTokens<T, kHeadDim, kRows>(",
     "    if (warp_token == 48 && tile == 1) return;\n    AttendTokens<T, kHeadDim, kRows>("),
    ("decode_attention", "rows that meet in the same banks", "kRowNumbers = kHeadDim + 8", "kRowNumbers = kHeadDim"),
    ("decode_attention", "states that meet in the same banks", "kHeadDim + (40 - kHeadDim % 32) % 32", "kHeadDim"),
    ("decode_attention_rows", "no barrier before the warps are merged", "  __syncthreads();\n", ""),
    ("decode_attention_rows", "tokens beyond the sequence are looked up", "min(mine, span.end - 1)", "mine"),
    ("decode_attention_rows", "tokens beyond the sequence count", "if (mine < span.end)", "if (mine >= 0)"),
    ("decode_attention_rows", "a shuffle that not all lanes reach",
     "    for (int distance = row_lanes / 2;", "    if (has_chunk) for (int distance = row_lanes / 2;"),
    ("decode_attention_rows", "chunks beyond the head are read", "8 * chunk < args.head_dim", "8 * chunk <= args.head_dim"),
    ("decode_attention_rows", "groups of lanes are not merged", "distance < kWarpThreads; distance *= 2", "distance < row_lanes;"),
    ("decode_attention", "query heads of another group", "kv_head * group) * kHeadDim", "kv_head) * kHeadDim"),
]


class Build:
    def __init__(self, directory):
        self.directory = os.path.abspath(directory)
        with open(os.path.join(directory, "compile_commands.json"), encoding="utf-8") as file:
            commands = json.load(file)
        self.compile, self.link = {}, {}
        for test, kernels in TESTS.items():
            link = subprocess.run(["ninja", "-C", self.directory, "-t", "commands", "-s", f"bin/{test}"],
                                  capture_output=True, text=True, check=True).stdout.strip().split("\n")[-1]
            for kernel in kernels:
                entry = next(c for c in commands if c["file"].endswith(f"/kernels/{kernel}.cu") and
                             f"/{test}_kernels.dir/" in c["command"])
                words = shlex.split(entry["command"])
                cut = words.index("-o")
                self.compile[kernel] = (entry["file"], words[:cut] + words[cut + 2:], words[cut + 1])
                self.link[kernel] = (test, link)

    def run(self, command, **options):
        return subprocess.run(command, cwd=self.directory, capture_output=True, text=True, **options)

    @staticmethod
    def plant(source, mutated, old, new):
        """Writes the kernel's source, its own header and the shared one, with the first place changed."""
        folder, planted = os.path.dirname(source), False
        for name in (os.path.basename(source), os.path.basename(source) + "h", "attention.cuh"):
            if not os.path.exists(os.path.join(folder, name)):
                continue
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                text = file.read()
            if not planted and old in text:
                text, planted = text.replace(old, new, 1), True
            with open(os.path.join(os.path.dirname(mutated), name), "w", encoding="utf-8") as file:
                file.write(text)
        if not planted:
            raise LookupError(f"{source} does not hold: {old}")

    def verdict(self, kernel, old, new):
        """What became of the mutant, or None if nothing noticed it."""
        source, compile_words, kernel_object = self.compile[kernel]
        test, link = self.link[kernel]
        with tempfile.TemporaryDirectory() as scratch:
            os.mkdir(os.path.join(scratch, "kernels"))
            mutated = os.path.join(scratch, "kernels", f"{kernel}.cu")
            self.plant(source, mutated, old, new)
            words = [w.replace(source, mutated) for w in compile_words if w != "-Werror"]
            first = next(i for i, word in enumerate(words) if word.startswith("-"))
            built = self.run(words[:first] + ["-I", scratch] + words[first:] + ["-w", "-o", mutated + ".o"])
            if built.returncode != 0:
                raise LookupError(f"the mutant does not compile:\n{built.stderr}")
            program = os.path.join(scratch, test)
            command = link.replace(kernel_object, mutated + ".o").replace(f"-o bin/{test}", f"-o {program}")
            linked = self.run(command, shell=True)
            if linked.returncode != 0:
                raise LookupError(f"the mutant does not link:\n{linked.stderr}")
            try:
                ran = self.run([program, "--gtest_fail_fast"], timeout=RUN_SECONDS)
            except subprocess.TimeoutExpired:
                return "hangs"
        if ran.returncode == 0:
            return None
        breach = re.search(r"^simt: (.*)$", ran.stderr, re.MULTILINE)
        return breach.group(1)[:90] if breach else "wrong result"


def main():
    build = Build(sys.argv[1])
    wanted = [m for m in MUTANTS if len(sys.argv) < 3 or re.search(sys.argv[2], f"{m[0]}: {m[1]}")]
    missed = 0

    def judge(mutant):
        kernel, wrong, old, new = mutant
        try:
            return build.verdict(kernel, old, new), False
        except LookupError as error:
            return str(error), True

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for mutant, (verdict, broken) in zip(wanted, pool.map(judge, wanted)):
            missed += broken or verdict is None
            print(f"{mutant[0]}: {mutant[1]}: {'NOT NOTICED' if verdict is None else verdict}", flush=True)
    print(f"{len(wanted)} mutants, {missed} not noticed")
    return 1 if missed or not wanted else 0


if __name__ == "__main__":
    sys.exit(main())
