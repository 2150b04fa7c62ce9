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
    "simt_decode_attention_test_checked": ("decode_attention", "decode_attention_rows", "decode_attention_int8",
                                           "decode_attention_e4m3", "decode_attention_int4", "decode_attention_rows_quantized"),
    "simt_quantize_test_checked": ("quantize",),
    "simt_dequantize_weights_test_checked": ("dequantize_weights",),
    "simt_prefill_attention_test_checked": ("prefill_attention", "prefill_attention_rows", "prefill_attention_int8",
                                            "prefill_attention_e4m3", "prefill_attention_int4"),
    "simt_sample_test_checked": ("sample",),
    "simt_copy_pieces_test_checked": ("copy_pieces",),
}
RUN_SECONDS = 120
# What kernels of a kind share: looked through after a kernel's own source and header.
SHARED = {
    "decode": ("attention.cuh", "decode_attention_quantized.cuh", "quant_codes.cuh"),
    "prefill": ("prefill_attention.cuh", "prefill_attention_tiles.cuh", "prefill_attention_codes.cuh", "attention.cuh", "quant_codes.cuh"),
    "quantize": ("quant_codes.cuh",),
}

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
    ("kv_append", "not saturated", "Saturate<T>(simt::LoadOnce16(from))", "simt::LoadOnce16(from)"),
    ("kv_append", "padding is written", "if (position < 0) return;", ""),
    ("kv_append", "keys in the place of values", "is_value ? args.values : args.keys", "args.keys"),
    ("kv_append", "values are read behind the token", "8 * of_half", "8 * i"),
    ("kv_append", "every token in the first block", "table + position / kBlockTokens", "table"),
    ("block_copy", "heads share a run", "row % kBlockTokens * args.engine.token_stride", "row * args.engine.token_stride"),
    ("block_copy", "pages are copied from their first token", "slot % args.engine.page_tokens *", "0 *"),
    ("block_copy", "pieces are left out", "piece += gridDim.x", "piece += gridDim.x + 1"),
    ("block_copy", "values are taken from the keys", "layer_half % 2 * args.engine.half_stride", "0"),
    ("block_copy", "all blocks in one place", "args.blocks[block]", "args.blocks[0]"),
    ("copy_pieces", "pieces are left out", "i += gridDim.x", "i += gridDim.x + 1"),
    ("copy_pieces", "a piece ends a turn early", "at < piece.bytes", "at + kThreads * kUnitBytes <= piece.bytes"),
    ("copy_pieces", "more than the piece is copied", "at < piece.bytes", "at <= piece.bytes"),
    ("block_copy", "the other direction", "kToEngine ? b : a", "kToEngine ? a : b"),
    ("decode_attention", "no barrier before a tile is used", "__syncthreads();  // the tile", "// the tile"),
    ("decode_attention", "a tile is used before it has landed", "CopyAsyncWait<Shared::kStages - 2>",
     "CopyAsyncWait<Shared::kStages - 1>"),
    ("decode_attention", "no barrier before the ring's memory is used anew",
     "simt::CopyAsyncWait<0>();\n  __syncthreads();", "simt::CopyAsyncWait<0>();"),
    ("decode_attention", "no barrier before the states are merged",
     "KeepState<kHeadDim>(state[0], unit, states);\n  __syncthreads();", "KeepState<kHeadDim>(state[0], unit, states);"),
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
    ("decode_attention", "an empty sequence divides by zero", "FromFloat<T>(sum == 0 ? 0 : out / sum);\n    return",
     "FromFloat<T>(out / sum);\n    return"),
    ("decode_attention", "the merge of an empty sequence divides by zero",
     "FromFloat<T>(sum == 0 ? 0 : out / sum);\n}", "FromFloat<T>(out / sum);\n}"),
    ("decode_attention", "no softcap", "args.softcap > 0 ? DecodeAttention", "args.softcap < 0 ? DecodeAttention"),
    ("decode_attention", "half of a row's lanes agree on its maximum",
     "largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));", ""),
    ("decode_attention", "a shuffle that not all lanes reach",
     "largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));",
     "if (lane % 4 < 3) largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));"),
    ("decode_attention", "one warp leaves early", "    AttendTokens<T, kHeadDim, kRows, 1>(",
     "    if (warp_token == 48 && tile == 1) return;\n    AttendTokens<T, kHeadDim, kRows, 1>("),
    ("decode_attention", "rows that meet in the same banks", "kRowNumbers = kHeadDim + 8", "kRowNumbers = kHeadDim"),
    ("decode_attention", "states that meet in the same banks", "kHeadDim + (40 - kHeadDim % 32) % 32", "kHeadDim"),
    ("decode_attention_rows", "no barrier before the warps are merged", "  __syncthreads();\n", ""),
    ("decode_attention_rows", "tokens beyond the sequence are looked up", "min(mine, span.end - 1)", "mine"),
    ("decode_attention_rows", "tokens beyond the sequence count", "if (mine < span.end)", "if (mine >= 0)"),
    ("decode_attention_rows", "a shuffle that not all lanes reach",
     "  for (int distance = row_lanes / 2;",
     "  if (threadIdx.x % kWarpThreads != 1) for (int distance = row_lanes / 2;"),
    ("decode_attention_rows", "chunks beyond the head are read", "8 * chunk < args.head_dim", "8 * chunk <= args.head_dim"),
    ("decode_attention_rows", "groups of lanes are not merged", "distance < kWarpThreads; distance *= 2", "distance < row_lanes;"),
    ("decode_attention", "query heads of another group", "kv_head * group) * kHeadDim", "kv_head) * kHeadDim"),
    ("prefill_attention", "no barrier before a tile is used", "__syncthreads();  // the tile", "// the tile"),
    ("prefill_attention", "a tile is used before it has landed", "simt::CopyAsyncWait<0>();\n    __sync",
     "simt::CopyAsyncWait<1>();\n    __sync"),
    ("prefill_attention", "the next tile overwrites one in use", "    fetch(tile + 1);\n", "    fetch(tile + 2);\n"),
    ("prefill_attention", "no barrier of the warp before its queries' memory is used anew", "__syncwarp();  // the warp is", "// the warp is"),
    ("prefill_attention", "no barrier of the warp before its rows are written", "  __syncwarp();\n", ""),
    ("prefill_attention", "a token attends the next one, too", "token + at <= position &&", "token + at <= position + 1 &&"),
    ("prefill_attention", "no token attends itself", "token + at <= position &&", "token + at < position &&"),
    ("prefill_attention", "a window of one more", "position + 1 - args.window", "position - args.window"),
    ("prefill_attention", "every row has the first row's window", "token + at >= FirstAttended(args, position)", "token + at >= begin"),
    ("prefill_attention", "tokens before the window are looked up", "const int begin = first / Source::kGrain", "const int begin = 0 / Source::kGrain"),
    ("prefill_attention", "the first row of all says where the tiles end", "rows.token(rows.count - 1) + 1", "rows.token(0) + 1"),
    ("prefill_attention", "the prefix is not counted", "args.lengths[sequence] - count", "0"),
    ("prefill_attention", "all sequences begin at row 0", "const int start = args.starts[sequence], count = args.starts[sequence + 1] - start;",
     "const int start = 0, count = args.starts[sequence + 1] - args.starts[sequence];"),
    ("prefill_attention", "rows beyond the chunk are written", "if (warp_row + row >= rows.count) break;", ""),
    ("prefill_attention", "rows beyond the chunk are read", "const bool wanted = row < rows.count", "const bool wanted = true"),
    ("prefill_attention", "heads of the group one token late", "return (first + row) / group", "return (first + row + 1) / group"),
    ("prefill_attention", "the group's heads are taken for the first one", "return (first + row) % group", "return 0"),
    ("prefill_attention", "tokens are taken for contiguous", "rows.token(row)) * token_stride",
     "rows.token(row)) * (args.heads * args.head_dim)"),
    ("prefill_attention", "a lane's own sum is taken for the row's", "sum += __shfl_xor_sync(kWholeWarp, sum, 2);", ""),
    ("prefill_attention", "a step with the keys of the first", "keys + step * kRowNumbers<kHeadDim>", "keys"),
    ("prefill_attention", "the steps' values are the first step's", "value_row + 16 * k * kRow", "value_row"),
    ("prefill_attention", "weights of the other half of the tokens", "weights[f][n / 2][n % 2 * 2 + half]", "weights[f][n / 2][(1 - n % 2) * 2 + half]"),
    ("prefill_attention", "all rows of a warp attend what the last one may", "token + Source::kStepTokens <= warp_position + 1", "true"),
    ("prefill_attention", "a window's first tokens are taken for everybody's", "token >= all_from &&", ""),
    ("prefill_attention", "both fragments are the first rows", "f * kFragmentRows * kRowNumbers<kHeadDim> + 16 * k", "16 * k"),
    ("prefill_attention", "the last rows are left out", "(rows - 1) / Tiles<Kv, kHeadDim>::kRows + 1",
     "rows / Tiles<Kv, kHeadDim>::kRows + (rows < 64)"),
    ("prefill_attention_int8", "no barrier before the halves are used", "__syncthreads();  // the halves", "// the halves"),
    ("prefill_attention_int8", "the next codes overwrite those in use", "fetch(tile + 1);", ""),
    ("prefill_attention_int8", "tiles begin within a block", "kGrain = kBlockTokens", "kGrain = 1"),
    ("prefill_attention_int8", "codes of tokens that are none", "attended ? x[i] * scale : 0", "x[i] * scale"),
    ("prefill_attention_int8", "values have the scales of keys", "scales[kTokens + row]", "scales[row]"),
    ("prefill_attention_int8", "keys have the scales of values", "ToFloat(scales[threadIdx.x])", "ToFloat(scales[kTokens + threadIdx.x])"),
    ("prefill_attention_int8", "the scales of keys are those of the first step", "Source::Scaled(memory, step + at, product)",
     "Source::Scaled(memory, at, product)"),
    ("prefill_attention_int8", "every block has the scales of its first tokens", "threadIdx.x % 2 * 16", "0"),
    ("prefill_attention_e4m3", "tokens beyond the sequence are looked up", "min(token, end - 1)", "token"),
    ("prefill_attention_int4", "values are read behind the keys' first row", "codes + kTokens * kRowBytes, x", "codes + kRowBytes, x"),
    ("prefill_attention_int4", "another row's codes", "row % kBlockTokens * kv.row_stride", "0 * kv.row_stride"),
    ("prefill_attention_rows", "a token attends the next one, too", "mine <= position", "mine <= position + 1"),
    ("prefill_attention_rows", "tokens beyond itself are looked up", "min(mine, position)", "mine"),
    ("prefill_attention_rows", "rows of the next sequence are written", "fresh_token >= fresh.count ||", ""),
    ("prefill_attention_rows", "heads that do not exist", "|| head >= args.heads", ""),
    ("prefill_attention_rows", "groups of lanes are not merged", "distance < kWarpThreads; distance *= 2", "distance < row_lanes;"),
    ("prefill_attention_rows", "not divided by the sum", "state.out[i] /= state.sum", "state.out[i] /= 1"),
    ("sample", "the highest id wins a tie", "(kLastId - static_cast<uint32_t>(id)) : 0", "static_cast<uint32_t>(id) : 0"),
    ("sample", "negative logits in the wrong order", "bits >> 31 != 0 ? ~bits", "bits >> 31 != 0 ? bits"),
    ("sample", "-0 is less than 0", "logit + 0.0f", "logit"),
    ("sample", "NaN is a number", "logit == logit ? ", "true ? "),
    ("sample", "no barrier before the warps' greatest are read",
     "places[threadIdx.x / kWarpThreads] = greatest;\n  __syncthreads();", "places[threadIdx.x / kWarpThreads] = greatest;"),
    ("sample", "no barrier before the sums are used anew", "  __syncthreads();  // all have read the sums before\n", ""),
    ("sample", "no barrier before the sums are read", "counts[warp] = mass.count;\n  }\n  __syncthreads();", "counts[warp] = mass.count;\n  }"),
    ("sample", "tokens are collected before the count is set", "collected[0] = 0;\n  __syncthreads();", "collected[0] = 0;"),
    ("sample", "the tokens are read while they are collected", "  __syncthreads();\n  const uint32_t count", "  const uint32_t count"),
    ("sample", "more tokens than there is room for", "stretch.from_end.count > kRoom", "stretch.from_end.count > 2 * kRoom"),
    ("sample", "tokens beyond the end are collected", " && token.place < stretch.end", ""),
    ("sample", "what lies beyond is not counted", "mass.weight + beyond.weight", "mass.weight"),
    ("sample", "top-k keeps one more", "static_cast<uint32_t>(settings.top_k), kept)", "static_cast<uint32_t>(settings.top_k) + 1, kept)"),
    ("sample", "top-p of the whole, not of the likeliest k",
     "kept = {kept.begin, highest + 1, kept.from_begin, {0, 0}};\n  }\n  if (settings.top_p < 1)",
     "const Mass whole = MassFrom(row, 0);\n    kept = {kept.begin, highest + 1, whole, {0, 0}};\n  }\n  if (settings.top_p < 1)"),
    ("sample", "top-p's last token is left out", "ceil(double{settings.top_p}", "0.5 * ceil(double{settings.top_p}"),
    ("sample", "drawn from what top-p took away, too", "kept = Find(row, false, min(target, kept.from_begin.weight), kept);",
     "Find(row, false, min(target, kept.from_begin.weight), kept);"),
    ("sample", "always drawn in order of logits", "row.by_id = true", "row.by_id = false"),
    ("sample", "the draw before", "(draw + 1) *", "draw *"),
    ("sample", "the temperature is forgotten", "kLog2E / settings.temperature", "kLog2E"),
    ("sample", "numbers beyond the row are read", "id < vocabulary; id += kThreads", "id <= vocabulary; id += kThreads"),
    ("sample", "rows are taken for contiguous", "blockIdx.x * args.logits_stride", "blockIdx.x * args.vocabulary"),
    ("sample", "infinity is not chosen", " && greatest != INFINITY", ""),
    ("sample", "no bound on the exponents", "fminf(kLog2E / settings.temperature, kMostExponents)", "kLog2E / settings.temperature"),
    ("quantize", "the lanes of a row do not agree on its largest",
     "largest = max(largest, __shfl_xor_sync(kWholeWarp, largest, distance));", ""),
    ("quantize", "a NaN is taken for a number", "largest > kInfinityFloat ?", "largest > kNanFloat ?"),
    ("quantize", "an infinity makes its row's scale infinite", "fminf(__int_as_float(largest), kLargestHalf)",
     "__int_as_float(largest)"),
    ("quantize", "rows are not filled up", "if (lanes.inside) {", "if (lanes.filled) {"),
    ("quantize", "all scales of a block in one place", "kBlockTokens * plan.row_bytes) + token", "kBlockTokens * plan.row_bytes)"),
    ("quantize", "padding is written", "if (position < 0) return;", ""),
    ("quantize", "every token in the first block", "table + position / kBlockTokens", "table"),
    ("quantize", "keys in the place of values", "is_value ? args.values : args.keys", "args.keys"),
    ("quantize", "codes are cut off instead of rounded", "rintf(Clamp(x[4 * w + i], kLargest))", "Clamp(x[4 * w + i], kLargest)"),
    ("quantize", "codes beyond the largest", "rintf(Clamp(x[i], kLargest))", "rintf(1.2f * x[i])"),
    ("quantize", "the halves of a byte exchanged", "static_cast<uint32_t>(code) << 4 * i", "static_cast<uint32_t>(code) << 4 * (i ^ 1)"),
    ("quantize", "numbers are not scaled on the way back", "x[i] *= scale;", ""),
    ("quantize", "rows are left out", "first < rows; first += step", "first < rows; first += 2 * step"),
    ("quantize", "all blocks in one place", "plan.args.blocks[pair]", "plan.args.blocks[0]"),
    ("dequantize_weights", "no barrier before the blocks are read", "  __syncthreads();\n", ""),
    ("dequantize_weights", "the last bytes are left out", "if (at < bytes) {", "if (at < 0) {"),
    ("dequantize_weights", "bytes behind the last are read", "if (at < bytes) {", "if (at < bytes + 16) {"),
    ("dequantize_weights", "blocks behind the last are read", "left < kBlocksAtOnce ? left : kBlocksAtOnce", "kBlocksAtOnce"),
    ("dequantize_weights", "the halves of a byte exchanged", "part / 2 * 4)", "(1 - part / 2) * 4)"),
    ("dequantize_weights", "five bits have the centre of four", "kHasHighBits ? 16 : 8", "8"),
    ("dequantize_weights", "the first part's fifth bits", ">> 8 * part : 0", ">> 0 * part : 0"),
    ("dequantize_weights", "a weight beyond the type is not told", "if (beyond) atomicMax(args.beyond, 1);", ""),
    ("dequantize_weights", "the minimum is forgotten", "fmaf(static_cast<float>(code), d, m)", "d * static_cast<float>(code)"),
    ("decode_attention_int4", "no barrier before a tile is used", "__syncthreads();  // the tile", "// the tile"),
    ("decode_attention_int4", "a tile is used before it has landed", "CopyAsyncWait<Tile::kStages - 2>", "CopyAsyncWait<Tile::kStages - 1>"),
    ("decode_attention_int4", "the next tile overwrites one in use",
     "fetch(tile + Tile::kStages - 1, ring + free);", "fetch(tile + Tile::kStages - 1, ring + landing);"),
    ("decode_attention_int4", "all tiles are in the first stage", "landing += Tile::kStageBytes;", ""),
    ("decode_attention_int4", "a window's first tile is taken for whole", "begin < span.begin ? 1 : 0", "0"),
    ("decode_attention_int4", "the last tile is taken for whole", "(span.end - begin) / Tile::kTileTokens", "(span.end - begin + 1) / Tile::kTileTokens + 1"),
    ("decode_attention_int4", "the sum of the row keeps its scale", "state.sums[2 * half] *= kept;", ""),
    ("decode_attention_int4", "no barrier before the ring's memory is used anew",
     "simt::CopyAsyncWait<0>();\n  __syncthreads();", "simt::CopyAsyncWait<0>();"),
    ("decode_attention_int4", "no barrier before the states are merged",
     "(multiplier, state, states);\n  __syncthreads();", "(multiplier, state, states);"),
    ("decode_attention_int4", "tokens beyond the sequence are looked up", "min(token, end - 1)", "token"),
    ("decode_attention_int4", "one token too many", "static_cast<uint32_t>(span.end - span.begin);",
     "static_cast<uint32_t>(span.end - span.begin + 1);"),
    ("decode_attention_int4", "tokens before the window count", "static_cast<uint32_t>(first + token) <",
     "static_cast<uint32_t>(max(first + token, 0)) <"),
    ("decode_attention_int4", "tiles begin within a block", "span.begin / kBlockTokens * kBlockTokens", "span.begin"),
    ("decode_attention_int4", "scales of tokens that are none", "& attended;", ";"),
    ("decode_attention_int4", "values have the scales of keys", "at + 2 * Tile::kTileTokens", "at"),
    ("decode_attention_int4", "the scales of keys are forgotten", "score *= i == 0 ? scales.x : scales.y;", ""),
    ("decode_attention_int4", "the scale of the neighbour's key", "i == 0 ? scales.x : scales.y", "scales.x"),
    ("decode_attention_int4", "the bias of keys stays", "-Code::kKeyBias / Code::kKeyUnit", "0"),
    ("decode_attention_int4", "the bias of values stays", "Code::kValueBias * state.weights[2 * half]", "0 * state.weights[2 * half]"),
    ("decode_attention_int4", "the sum of weights keeps its scale", "state.weights[2 * half] *= kept;", ""),
    ("decode_attention_int4", "odd pairs of keys keep their factor", "factor[i % 2] / (i / 2 == 1 ? Code::kOddFactor : 1)", "factor[i % 2]"),
    ("decode_attention_int4", "odd pairs of values keep their factor", "Code::kValueUnit / (r % 2 == 1 ? Code::kOddFactor : 1)", "Code::kValueUnit"),
    ("decode_attention_int4", "queries in another order than keys", "pairs[1] = __byte_perm(v.x, v.z, kHighs)", "pairs[1] = __byte_perm(v.x, v.y, kHighs)"),
    ("decode_attention_int4", "rows of queries keep their factor", "queries.unit[0] * of_scores", "Code::kKeyUnit * of_scores"),
    ("decode_attention_int4", "results in another order than values", "chunk * Tile::kPairs + r][2 * half + j / Tile::kPairs]",
     "chunk * Tile::kPairs + r][2 * half + j % 2]"),
    ("decode_attention_int4", "half of a result keeps its scale",
     "Tile::kNumbers / 8; ++n) {\n      state.out[n][2 * half] *= kept;", "Tile::kNumbers / 8; ++n) {"),
    ("decode_attention_int4", "rows that meet in the same banks", "16 * (kChunks | 1)", "16 * kChunks"),
    ("decode_attention_int4", "rows that are written to the same banks",
     "return row / 8 * 8 + row % kAtOnce * kChunks + row % 8 / kAtOnce;", "return row;"),
    ("decode_attention_int4", "states that meet in the same banks", "(32 + kStateShift - kNumbers % 32) % 32", "0"),
    ("decode_attention_int4", "no softcap", "args.softcap > 0 ? DecodeCodes", "args.softcap < 0 ? DecodeCodes"),
    ("decode_attention_int4", "another softcap", "(kSoftcap ? 2 / args.softcap : 1)", "(kSoftcap ? 1 / args.softcap : 1)"),
    ("decode_attention_int8", "the sign of keys is lost", "0x00800080", "0x00000000"),
    ("decode_attention_int8", "the sign of values is lost", "kMagic = 0x64806480", "kMagic = 0x64006400"),
    ("decode_attention_e4m3", "the sign is lost", "simt::AndOr(word, 0x80008000,", "simt::AndOr(word, 0x00000000,"),
    ("decode_attention_e4m3", "numbers of another unit", "kUnits = 0x5c005c00", "kUnits = 0x58005c00"),
    ("decode_attention_rows_quantized", "the scale of a block's first token", "head + kv.scales_offset)[row]", "head + kv.scales_offset)[0]"),
    ("decode_attention_rows_quantized", "codes without a sign", "static_cast<int8_t>(words", "static_cast<uint8_t>(words"),
    ("decode_attention_rows_quantized", "another lane's chunk", "4 * kWords<Code> * chunk", "4 * kWords<Code> * (chunk ^ 1)"),
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
        """Writes the kernel's source, its own header and the shared ones, with the first place changed."""
        folder, planted = os.path.dirname(source), False
        own = os.path.basename(source)
        for name in dict.fromkeys((own, own + "h", *SHARED.get(re.match("[a-z]+", own).group(), ()))):
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
