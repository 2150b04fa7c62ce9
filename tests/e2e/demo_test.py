"""The demo over the build under test, as ./demo.sh runs it: every step holds, and its JSON says so.
Usage: demo_test.py BUILD_DIR"""

import json
import os
import subprocess
import sys
import unittest

from programs import BUILD, Place, SMOLLM2, SOURCE

STEPS = [("cold", "none"), ("warm", "warm"), ("restart", "warm"), ("cold_tier", "cold"), ("no_daemon", "none")]
DEMO = os.path.join(SOURCE, "deploy/demo/demo.py")


@unittest.skipUnless(os.path.exists(SMOLLM2), f"needs {SMOLLM2}")
class DemoTest(unittest.TestCase):
    def setUp(self):
        self.place = Place()
        self.addCleanup(self.place.remove)

    def test_every_step_holds(self):
        for _ in range(2):
            rows = self.run_demo()
            if all(row["ttft_ms"] < rows[0]["ttft_ms"] / 3 for row in rows[1:4]):
                return
        # A machine may stop for seconds just then, but not three times.
        rows = self.run_demo()
        for row in rows[1:4]:
            self.assertLess(row["ttft_ms"], rows[0]["ttft_ms"] / 3, "a hit must be worth having")

    def run_demo(self):
        """Its rows, all of which hold but for the times."""
        path = self.place.path("demo.json")
        done = subprocess.run([sys.executable, DEMO, "--bin", os.path.join(BUILD, "bin"), "--model", SMOLLM2, "--json", path],
                              capture_output=True, text=True)
        print(done.stdout)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with open(path, encoding="utf-8") as file:
            result = json.load(file)
        self.assertEqual(result["model"], os.path.basename(SMOLLM2))
        rows = result["rows"]
        self.assertEqual([(row["step"], row["tier"]) for row in rows], STEPS)
        for row in rows:
            self.assertEqual(set(row), {"step", "prompt_tokens", "cached_tokens", "tier", "ttft_ms", "identical"})
            self.assertIs(row["identical"], True)
            self.assertGreater(row["prompt_tokens"], 1000)
            cached = row["cached_tokens"]
            self.assertTrue(cached == 0 if row["tier"] == "none" else cached >= 0.95 * row["prompt_tokens"], row)
        for answer in ("Meridian", "Ravi Menon", "Kepler", "Samuel Okoro", "April"):
            self.assertIn(answer, done.stdout, "the model answers rightly")
        return rows


if __name__ == "__main__":
    unittest.main(verbosity=2)
