"""Run the tests with other versions of Python, torch and transformers, and print what came out.

``python scripts/compatibility.py run --python python3.12 --torch 2.13.0 --transformers 5.24.0``
makes an environment under .venv-compatibility, everything else from the lock, runs CHECKS there and
keeps the result in measurements/compatibility.json. Without ``run`` the command prints the table of
docs/compatibility.md from that file.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ROWS = ROOT / "measurements" / "compatibility.json"
PAGE = ROOT / "docs" / "compatibility.md"
KEY = ("python", "torch", "transformers")
CHECKS = (
    *(f"tests/runtime/test_{name}.py" for name in ("seams", "patch", "equivalence", "generate")),
    *(f"tests/runtime/test_{name}.py" for name in ("qwen", "llava_prompts", "images", "graph")),
    *("tests/contract/test_flops.py", "tests/cost/test_estimate.py", "tests/cost/test_sweep.py"),
)

Row = dict[str, Any]


def run(python: str, torch: str, transformers: str) -> Row:
    """Make an environment, run CHECKS in it; the row that says what came out."""
    ask = "import platform; print(platform.python_version())"
    version = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    env = ROOT / ".venv-compatibility" / f"{version.stdout.strip()}-{torch}-{transformers}"
    here = env / "bin" / "python"
    if not here.exists():
        subprocess.run([python, "-m", "venv", env], check=True)
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    constraints = env / "constraints.txt"
    kept = [line for line in lock if not line.startswith(("transformers==", "huggingface-hub=="))]
    constraints.write_text("\n".join(kept) + "\n", encoding="utf-8")
    install = [here, "-m", "pip", "install", "--quiet", "--constraint", constraints]
    subprocess.run([here, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
    subprocess.run([*install, f"torch=={torch}"], check=True)
    project = f"{ROOT}[runtime,dev]"
    subprocess.run([*install, "--editable", project, f"transformers=={transformers}"], check=True)
    command = [here, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *CHECKS]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    (env / "tests.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    counts = {name: int(n) for n, name in re.findall(r"(\d+) (passed|failed|error)", done.stdout)}
    ask = (
        "import platform, torch, transformers, triton; "
        "print(platform.python_version(), torch.__version__.split('+')[0], "
        "transformers.__version__, triton.__version__)"
    )
    found = subprocess.run([here, "-c", ask], capture_output=True, text=True, check=True).stdout
    versions = dict(zip((*KEY, "triton"), found.split(), strict=True))
    return versions | {
        "passed": counts.get("passed", 0),
        "failed": counts.get("failed", 0) + counts.get("error", 0),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def read() -> list[Row]:
    """The rows so far; none when there is no file."""
    return json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else []


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table, newest versions first."""
    lines = [
        "| Python | torch | transformers | triton | tests | date |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: [_parts(row[name]) for name in KEY], reverse=True):
        result = f"{row['passed']} passed"
        result += f", {row['failed']} failed" if row["failed"] else ""
        cells = (*(row[name] for name in (*KEY, "triton")), result, row["date"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _parts(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def main() -> int:
    """Run one row, or print the table; the exit status is 1 where tests failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["run", "table"], default="table")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--torch", default="2.13.0")
    parser.add_argument("--transformers", default="5.24.0")
    given = parser.parse_args()
    if given.what == "table":
        print(table(read()))
        return 0
    new = run(given.python, given.torch, given.transformers)
    rows = [row for row in read() if [row[k] for k in KEY] != [new[k] for k in KEY]]
    text = json.dumps([*rows, new], indent=1) + "\n"
    temporary = ROWS.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(ROWS)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition("| Python |")
    after = rest.partition("\n\n")[2]
    PAGE.write_text(f"{before}{table(read())}\n\n{after}", encoding="utf-8")
    print(table([new]))
    return int(new["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
