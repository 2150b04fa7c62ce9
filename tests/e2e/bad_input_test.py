"""What a user may get wrong, and damaged or hostile files, as the whole of programs meets them: never a crash, never a
wrong answer, and a message that says what was wrong, where, and what to do. What concerns the daemon alone is in
tests/daemon/life_test.cc. Usage: bad_input_test.py BUILD_DIR"""

import json
import os
import random
import signal
import struct
import subprocess
import unittest

from programs import (Daemon, Place, SMOLLM2, STORIES, engine, generate, ids, make_model, program, refused, run)

TOKENS = [5 + 7 * i % 59 for i in range(70)]
ADVICE = ("fetch", "give", "check", "convert", "choose", "needs")
SEED = int(os.environ.get("TC_SEED", "20261125"), 0)


class BadInputTest(unittest.TestCase):
    def setUp(self):
        self.place = Place()
        self.addCleanup(self.place.remove)

    def model(self, name="model", **shape):
        return make_model(self.place.path(name), **shape)

    def ask(self, model, *words, tokens=TOKENS):
        cache = words or ("--socket", self.place.socket)
        return generate("--model", model, "--tokens", ids(tokens), "--max-tokens", 8, *cache)


class WrongSpace(BadInputTest):
    def test_another_models_blocks_are_never_hit(self):
        models = [self.model("one", seed=1), self.model("two", seed=2), self.model("deep", layers=3)]
        with Daemon(self.place, warm_capacity="192MiB") as daemon:  # a chunk for each size of block: nobody waits for one
            for model in models:
                answer = self.ask(model)
                self.assertEqual(answer["cached_tokens"], 0, model)
                self.assertEqual(answer["output_ids"], self.ask(model, "--no-cache")["output_ids"])
            self.assertEqual(len(daemon.control("spaces")["spaces"]), len(models))
            for model in models:
                self.assertEqual(self.ask(model)["cached_tokens"], 64, model)

    def test_other_weights_under_the_same_name_are_another_space(self):
        model = self.model(seed=1)
        other = self.model("other", seed=2)
        with Daemon(self.place):
            self.ask(model)
            self.assertEqual(self.ask(model)["cached_tokens"], 64)
            os.rename(model, self.place.path("old"))
            os.rename(other, model)
            answer = self.ask(model)
            self.assertEqual(answer["cached_tokens"], 0, "the name is not the model")
            self.assertEqual(answer["output_ids"], self.ask(model, "--no-cache")["output_ids"])

    def test_the_same_weights_by_another_name_are_the_same_space(self):
        model = self.model()
        with Daemon(self.place) as daemon:
            self.ask(model)
            os.rename(model, self.place.path("renamed"))
            for spelling in ("renamed", "renamed/", "renamed/./", "renamed/model.safetensors"):
                self.assertEqual(self.ask(os.path.join(self.place.root, spelling))["cached_tokens"], 64, spelling)
            spaces = daemon.control("spaces")["spaces"]
        self.assertEqual([space["model"] for space in spaces], ["llama by thermocline-engine, numerics 1"])

    def test_another_rope_base_is_another_space(self):
        model = self.model()
        with Daemon(self.place):
            self.ask(model)
            path = os.path.join(model, "config.json")
            with open(path, encoding="utf-8") as file:
                config = json.load(file)
            config["rope_theta"] = 500.0
            with open(path, "w", encoding="utf-8") as file:
                json.dump(config, file)
            self.assertEqual(self.ask(model)["cached_tokens"], 0)


class DamagedModels(BadInputTest):
    def refused_by_every_verb(self, path, says=()):
        """No verb may crash or run; the message names the file and says what to do."""
        for verb in (["generate", "--tokens", "1", "--max-tokens", "1", "--no-cache"],
                     ["logits", "--tokens", "1", "--out", self.place.path("out")], ["tokenize"]):
            done = engine(*verb, "--model", path)
            self.assertEqual(done.returncode, 1, (verb, path, done.stderr))
            self.assertTrue(done.stderr.startswith("thermocline-engine: "), done.stderr)
            self.assertIn(path, done.stderr)
            self.assertTrue(any(word in done.stderr for word in ADVICE), done.stderr)
            if verb[0] != "tokenize":
                for text in says:
                    self.assertIn(text, done.stderr)
        self.assertFalse(os.path.exists(self.place.path("out")))

    def test_what_is_no_model(self):
        self.refused_by_every_verb(self.place.write("empty.gguf", b""), ["neither a GGUF nor a safetensors"])
        self.refused_by_every_verb(self.place.write("text.gguf", "Once upon a time, there was no model here. " * 9))
        self.refused_by_every_verb(self.place.write("lfs.gguf", "version https://git-lfs.github.com/spec/v1\n"),
                                   ["git lfs pull"])
        os.mkfifo(self.place.path("fifo"))
        self.refused_by_every_verb(self.place.path("fifo"), ["not a regular file"])
        os.mkdir(self.place.path("directory"))
        self.refused_by_every_verb(self.place.path("directory"), ["model.safetensors"])
        self.refused_by_every_verb(self.place.write("v9.gguf", b"GGUF" + struct.pack("<IQQ", 9, 0, 0)), ["version"])
        self.refused_by_every_verb(self.place.path("missing"), ["check the model's path"])

    def test_gguf_that_claims_too_much(self):
        for tensors, keys in ((2**63, 0), (0, 2**63), (2**64 - 1, 2**64 - 1), (2**32, 1)):
            content = b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + b"\0" * 64
            self.refused_by_every_verb(self.place.write("greedy.gguf", content))
        key = struct.pack("<Q", 2**62) + b"general.architecture"
        self.refused_by_every_verb(self.place.write("key.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key))

    def test_safetensors_damaged_in_every_way(self):
        model = self.model()
        path = os.path.join(model, "model.safetensors")
        with open(path, "rb") as file:
            whole = file.read()
        length = struct.unpack_from("<Q", whole)[0]
        header = json.loads(whole[8:8 + length])

        def damaged(content, says=()):
            with open(path, "wb") as file:
                file.write(content)
            self.refused_by_every_verb(model, says)

        for cut in (7, 8, 8 + length // 2, 8 + length, len(whole) // 2, len(whole) - 1):
            damaged(whole[:cut])
        damaged(struct.pack("<Q", 2**63) + whole[8:])
        damaged(struct.pack("<Q", length - 1) + whole[8:])
        damaged(whole + b"more")
        name = "model.norm.weight"
        for change in ({"shape": [2**40, 2**40]}, {"shape": [-1]}, {"shape": "16"}, {"dtype": "F31"}, {"dtype": None},
                       {"data_offsets": [0, 2**62]}, {"data_offsets": [64, 0]}, {"data_offsets": []}):
            text = json.dumps({**header, name: {**header[name], **change}}).encode()
            damaged(struct.pack("<Q", len(text)) + text + whole[8 + length:])
        deep = b"[" * 100_000
        damaged(struct.pack("<Q", len(deep)) + deep)

    def test_configurations_that_do_not_fit_the_weights(self):
        for change, says in (({"num_hidden_layers": 3}, "blk.2."), ({"num_hidden_layers": 2**31}, "layers"),
                             ({"num_attention_heads": 0}, "num_attention_heads"), ({"head_dim": 7}, "head dim"),
                             ({"num_key_value_heads": 3}, "3 KV heads"), ({"rms_norm_eps": 0}, "epsilon"),
                             ({"hidden_size": "wide"}, "hidden_size"), ({"model_type": "gpt2"}, "architecture"),
                             ({"rope_scaling": {"type": "yarn"}}, "RoPE"), ({"attention_bias": True}, "attention_bias"),
                             ({"hidden_act": "gelu"}, "hidden_act"), ({"max_position_embeddings": 0}, "context")):
            model = self.model()
            path = os.path.join(model, "config.json")
            with open(path, encoding="utf-8") as file:
                config = {**json.load(file), **change}
            with open(path, "w", encoding="utf-8") as file:
                json.dump(config, file)
            done = engine("generate", "--model", model, "--tokens", "1", "--max-tokens", "1", "--no-cache")
            self.assertEqual(done.returncode, 1, (change, done.stderr))
            self.assertIn(model, done.stderr)
            self.assertIn(says, done.stderr)
        os.remove(path)
        self.refused_by_every_verb(model, ["config.json: missing"])

    @unittest.skipUnless(os.path.exists(STORIES), f"needs {STORIES}")
    def test_truncated_gguf(self):
        with open(STORIES, "rb") as file:
            whole = file.read()
        for cut in (4, 23, 24, 1000, 20_000, len(whole) // 2, len(whole) - 1000):
            path = self.place.write("cut.gguf", whole[:cut])
            done = engine("generate", "--model", path, "--tokens", "1", "--max-tokens", "1", "--no-cache")
            self.assertEqual(done.returncode, 1, (cut, done.stderr))
            self.assertIn(path, done.stderr)
            self.assertTrue(any(word in done.stderr for word in ADVICE), done.stderr)

    @unittest.skipUnless(os.path.exists(STORIES), f"needs {STORIES}")
    def test_mutated_gguf_never_crashes(self):
        with open(STORIES, "rb") as file:
            whole = file.read()
        draw = random.Random(SEED)
        refusals = 0
        for round_number in range(40):
            content = bytearray(whole)
            for _ in range(draw.choice((1, 4, 30))):
                # Most of the first 18 KiB is the header: keys, vocabulary, tensor table.
                content[draw.randrange(draw.choice((64, 2_000, 18_000)))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
            path = self.place.write("mutated.gguf", bytes(content))
            done = engine("generate", "--model", path, "--prompt", "Once", "--max-tokens", "1", "--no-cache")
            self.assertIn(done.returncode, (0, 1), (f"TC_SEED={SEED}", round_number, done.stderr))
            if done.returncode == 1:
                refusals += 1
                self.assertTrue(done.stderr.startswith("thermocline-engine: "), done.stderr)
        self.assertGreater(refusals, 10)


class Capacity(BadInputTest):
    def test_capacity_too_small_for_one_block(self):
        model = self.model(heads=64, kv_heads=64, head_dim=128, width=8)  # blocks of 2 MiB
        with Daemon(self.place, warm_capacity="1MiB"):
            done = engine("generate", "--model", model, "--tokens", ids(TOKENS), "--max-tokens", "2", "--json", "--socket",
                          self.place.socket)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("going on without a cache", done.stderr)
        self.assertIn("2 MiB", done.stderr)
        self.assertIn("warm", done.stderr)
        plain = generate("--model", model, "--tokens", ids(TOKENS), "--max-tokens", 2, "--no-cache")
        self.assertEqual(json.loads(done.stdout)["output_ids"], plain["output_ids"])

    def test_arena_smaller_than_the_prompt(self):
        model = self.model(heads=32, kv_heads=32, head_dim=64, width=8)  # blocks of 512 KiB
        with Daemon(self.place, warm_capacity="1MiB", cold_capacity="0"):
            answers = [self.ask(model) for _ in range(2)]
        self.assertEqual([answer["cached_tokens"] for answer in answers], [0, 32])
        self.assertEqual([answer["uncached_blocks"] for answer in answers], [3, 3])
        plain = self.ask(model, "--no-cache")
        for answer in answers:
            self.assertEqual(answer["output_ids"], plain["output_ids"])

    def test_capacities_out_of_range_name_the_option(self):
        for options, says in (({"warm_capacity": "100KiB"}, "warm_capacity"), ({"warm_capacity": "-1"}, "warm_capacity"),
                              ({"cold_capacity": "much"}, "cold_capacity"), ({"max_sessions": "0"}, "max_sessions")):
            code, text = refused(self.place, **options)
            self.assertEqual(code, 2, text)
            self.assertIn(says, text.replace("-", "_"))


class DaemonPlaces(BadInputTest):
    def mount(self, name, size):
        """A tiny tmpfs, for those who may mount one."""
        path = self.place.path(name)
        os.mkdir(path)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True)
        if done.returncode != 0:
            self.skipTest("a tmpfs cannot be mounted here")
        self.addCleanup(subprocess.run, ["umount", "-l", path], capture_output=True)
        return path

    def test_data_directory_full_from_the_start(self):
        full = self.mount("full", "1m")
        with open(os.path.join(full, "other"), "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass  # full
        code, text = refused(self.place, data_dir=os.path.join(full, "data"))
        self.assertEqual(code, 1, text)
        self.assertIn("No space left on device", text)
        self.assertIn("--data-dir", text)

    def test_tmpfs_too_small_says_how_much_there_is(self):
        tiny = self.mount("tiny", "8m")
        code, text = refused(self.place, arena_dir=tiny, warm_capacity="64MiB")
        self.assertEqual(code, 1, text)
        self.assertIn(tiny, text)
        self.assertIn("room for 8 MiB where 64 MiB are asked for", text)
        self.assertIn("lower warm_capacity", text)

    def test_foreign_file_in_place_of_the_arena_is_left_alone(self):
        path = os.path.join(self.place.arena_dir, "default.arena")
        precious = b"not an arena, but somebody's work\n" * 1000
        with open(path, "wb") as file:
            file.write(precious)
        code, text = refused(self.place)
        self.assertEqual(code, 1, text)
        self.assertIn(path, text)
        with open(path, "rb") as file:
            self.assertEqual(file.read(), precious)

    def test_typos_are_told_with_the_nearest_name(self):
        config = self.place.write("t.toml", '[log]\nlevle = "info"\n')
        for words, says in ((["--config", config], "level"), (["--shutdown=dran"], "drain"), (["--data-dri=x"], "--data-dir"),
                            (["--config", self.place.path("no.toml")], "no.toml"),
                            (["--config", self.place.write("bad.toml", "socket = \n")], "bad.toml:1")):
            done = run("thermoclined", *words, "--check-config")
            self.assertEqual(done.returncode, 2, (words, done.stderr))
            self.assertIn(says, done.stderr, words)
        done = run("thermoclined", "--check-config", env={"THERMOCLINE_WARM_CAPASITY": "1GiB"})
        self.assertIn("THERMOCLINE_WARM_CAPACITY", done.stderr)


@unittest.skipUnless(os.path.exists(SMOLLM2), f"needs {SMOLLM2}")
class RealModel(BadInputTest):
    def test_truncated_download(self):
        path = self.place.path("SmolLM2.gguf")
        with open(SMOLLM2, "rb") as source, open(path, "wb") as file:
            file.write(source.read(20_000_000))
        done = engine("generate", "--model", path, "--chat", "Hello", "--max-tokens", "1", "--no-cache")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn(path, done.stderr)
        self.assertIn("fetch", done.stderr)

    def test_a_daemon_killed_while_the_engine_runs_costs_nothing(self):
        words = ("--model", SMOLLM2, "--prompt", "The capital of France is", "--max-tokens", 40)
        plain = generate(*words, "--no-cache")
        with Daemon(self.place) as daemon:
            process = subprocess.Popen([program("thermocline-engine"), "generate", *map(str, words),
                                        "--socket", self.place.socket], stdout=subprocess.PIPE, text=True)
            first = process.stdout.read(1)
            daemon.stop(signal.SIGKILL)
            rest = process.stdout.read()
            self.assertEqual(process.wait(60), 0)
            process.stdout.close()
        self.assertEqual(first + rest, plain["text"] + "\n")


if __name__ == "__main__":
    unittest.main(verbosity=2)
