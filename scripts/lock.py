"""Write requirements.lock: the exact version of every package of every extra, torch apart.

uv resolves once for all platforms and for Python 3.11 and newer; pip then takes the file as
constraints. torch and triton are left out: scripts/install_torch.py chooses their builds.
"""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
UV = "uv==0.13.9"
APART = ("torch", "triton")
BESIDE = ("loguru", "pytz")
"""What lmms-eval imports, which the Makefile installs without its dependencies."""

HEADER = """\
# Made by `make lock` from pyproject.toml. torch and triton: scripts/install_torch.py.
"""


def requirements() -> list[str]:
    """The requirements of the project and all its extras, and of its build, without torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    wanted = {
        *project["project"]["dependencies"],
        *(line for extra in extras for line in extra),
        *project["build-system"]["requires"],
        *BESIDE,
    }
    return sorted(line for line in wanted if not line.startswith(APART))


def main() -> int:
    """Resolve, and write the file in one step; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        tool = Path(folder) / "tool"
        subprocess.run([sys.executable, "-m", "venv", tool], check=True)
        subprocess.run([tool / "bin/python", "-m", "pip", "install", "-q", UV], check=True)
        command = [
            *(tool / "bin/uv", "pip", "compile", "-", "--universal", "--python-version", "3.11"),
            *("--strip-extras", "--no-header", "--no-annotate", "--quiet"),
        ]
        text = "\n".join(requirements())
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return done.returncode
        new = LOCK.with_suffix(".tmp")
        new.write_text(HEADER + done.stdout, encoding="utf-8")
        new.replace(LOCK)
    print(f"Wrote {LOCK.name}: {done.stdout.count('==')} versions.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
