"""Install torch, and triton for the tests, into the environment of the interpreter that runs this.

A torch that works is kept, and so is the triton that a CUDA build brings. With a GPU (nvidia-smi
answers) pip installs what its index serves; without one, a build that brings CUDA packages is
refused before anything is downloaded.
TORCH_INDEX_URL names another index, used for torch alone.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TORCH = "torch==2.13.0"
TRITON = "triton==3.9.0"  # where torch brings none; its interpreter runs the kernels on a CPU
OLDEST = (2, 11)
PIP = [sys.executable, "-m", "pip", "install", "--force-reinstall"]  # repairs a broken torch too


def torch_works() -> bool:
    """Tell whether a torch that is new enough imports; an interrupted installation does not."""
    code = f"import torch; assert tuple(map(int, torch.__version__.split('.')[:2])) >= {OLDEST}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def has_gpu() -> bool:
    """Tell whether nvidia-smi is there and finds a GPU."""
    smi = shutil.which("nvidia-smi")
    return smi is not None and subprocess.run([smi], capture_output=True).returncode == 0


def has_triton() -> bool:
    """Tell whether any triton is installed."""
    return importlib.util.find_spec("triton") is not None


def would_install() -> list[str]:
    """Return the names of the packages pip would install for torch; reads metadata only."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run([*PIP, "--quiet", "--dry-run", "--report", report, TORCH], check=True)
        plan = json.loads(report.read_text(encoding="utf-8"))
    return [item["metadata"]["name"].lower() for item in plan["install"]]


def main() -> int:
    """Install torch and triton unless they are there; return the exit status."""
    return install_torch() or install_triton()


def install_triton() -> int:
    """Install triton on Linux, where there are builds; return the exit status."""
    if not sys.platform.startswith("linux") or has_triton():
        return 0
    return subprocess.run([*PIP, TRITON]).returncode


def install_torch() -> int:
    """Install torch unless it is there; return the exit status."""
    if torch_works():
        return 0
    index = os.environ.get("TORCH_INDEX_URL")
    gpu = has_gpu()
    if not index and not gpu:
        cuda = [name for name in would_install() if name.startswith(("nvidia-", "cuda-"))]
        if cuda:
            print(
                f"No GPU was found (nvidia-smi), and pip would install {TORCH} with "
                f"{len(cuda)} CUDA packages, several gigabytes. Set TORCH_INDEX_URL to the package "
                "index of CPU builds that torch's own install page names, and run make again.",
                file=sys.stderr,
            )
            return 1
    print(f"Installing {TORCH} ({'GPU found' if gpu else 'no GPU: CPU build'})", flush=True)
    where = ["--index-url", index] if index else []
    return subprocess.run([*PIP, *where, TORCH]).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
