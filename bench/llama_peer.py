"""llama.cpp's side of bench/engine.cc: prints the tokens/s of one prefill, or of decoding behind a context.

usage: llama_peer.py MODEL f32|q4_1 prefill|decode TOKENS DECODE_STEPS THREADS
"""

import ctypes
import os
import sys
import time

import llama_cpp


def weights_as_f32(model):
    """The same weights, dequantised: what our prefill computes with. Made once, beside the model."""
    path = model.removesuffix(".gguf") + ".as-f32.gguf"
    if not os.path.exists(path):
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
        parameters.allow_requantize = True
        scratch = path + ".part"
        if llama_cpp.llama_model_quantize(model.encode(), scratch.encode(), ctypes.byref(parameters)) != 0:
            sys.exit("llama.cpp could not write " + scratch)
        os.rename(scratch, path)
    return path


def main():
    model, weights, work, tokens, steps, threads = sys.argv[1:]
    tokens, steps, threads = int(tokens), int(steps), int(threads)
    llm = llama_cpp.Llama(weights_as_f32(model) if weights == "f32" else model, n_ctx=tokens + steps + 8, n_batch=512,
                          n_ubatch=512, n_threads=threads, n_threads_batch=threads, logits_all=False, verbose=False)
    vocabulary = llm.n_vocab()
    ids = [(7919 * i + 104729) % vocabulary for i in range(tokens + steps)]
    llm.eval(ids[:32])  # the first run faults the weights in
    llm.reset()
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llm.ctx), True)
    begin = time.perf_counter()
    llm.eval(ids[:tokens])
    if work == "decode":
        begin = time.perf_counter()
        for i in range(steps):
            llm.eval(ids[tokens + i:tokens + i + 1])
    seconds = time.perf_counter() - begin
    print((tokens if work == "prefill" else steps) / seconds)


if __name__ == "__main__":
    main()
