"""What docs/python.md shows runs, in its order, beside a daemon; the package is typed throughout."""
import os
import pathlib
import re
import subprocess
import sys

import thermocline

DOCS = pathlib.Path(os.environ["TC_SOURCE"]) / "docs"


def test_what_the_documentation_shows_runs(daemon, tmp_path):
    shown = re.findall(r"^```python\n(.*?)^```$", (DOCS / "python.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(shown) >= 3
    program = tmp_path / "shown.py"
    program.write_text("\n".join(shown))
    environment = {**os.environ, "THERMOCLINE_SOCKET": daemon.socket}
    said = [subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, timeout=240)
            for _ in range(2)]
    for run in said:
        assert run.returncode == 0, run.stderr
    assert "attended 0, computed 5" in said[0].stdout
    assert "attended 5, computed 0" in said[1].stdout


def test_the_package_passes_mypy_strict(tmp_path):
    package = pathlib.Path(thermocline.__file__).parent
    assert (package / "py.typed").exists()
    cache = pathlib.Path(sys.prefix) / "mypy-cache"
    run = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache, "-p", "thermocline"],
                         cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout
