"""Write the answers of the aim-cost commands to tests/golden, against which a test compares.

``python scripts/golden.py`` rewrites the files after a change that is meant to change numbers; the
diff of the commit then shows which. A file holds the answers of one command, by its arguments. An
answer that differs by less than TOLERANCE stays as it was written: its last digits move with the
order in which the code sums, and with the instructions that numpy chooses for a processor.
"""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from aim_cost.cli.main import app
from aim_cost.files import write_atomically

FOLDER = Path(__file__).parents[1] / "tests" / "golden"
TOLERANCE = 1e-12
"""Relative, of numbers with a fraction."""

_AIM = "--merge 0.25 --prune linear:14:22"
_PREDICT = (
    "--frames 32",
    f"--frames 32 {_AIM}",
    f"--frames 16 --batch 2 {_AIM} --scoring fused --execution cuda-graph",
    f"--frames 16 {_AIM} --attention eager --hardware a100-sxm4-80gb --dtype float16",
    f"--frames 32 {_AIM} --convention llm-viewer --hardware a100-sxm4-40gb",
    f"--frames 32 {_AIM} --convention pdrop",
    f"--frames 8 {_AIM} --hardware rtx-4090 --last-layer needed",
    "--frames 8 --prune 'layers:1000,500 score=text-attention' --hardware h200-sxm",
    "--frames 8 --prune 'linear:3:9 score=eager-attention' --execution ideal",
    "--frames 8 --prune 'linear:3:9 score=next-layer-query' --hardware mi300x",
    "--frames 8 --prune 'linear:3:9 score=rater-attention'",
    "--frames 8 --prune 'linear:3:9 score=pivot-similarity'",
    "--frames 8 --prune 'linear:3:9 score=key-distances'",
    "--frames 8 --prune 'linear:3:9 score=neighbour-cosine'",
    "--frames 8 --prune 'linear:3:9 score=pagerank-causal' --dtype float32",
    "--frames 8 --select '0.25 score=determinantal'",
    "--frames 8 --select '0.25 score=adjacent-cosine'",
    "--frames 8 --select '0.25 score=frame-centres'",
    "--frames 8 --select '0.25 score=vision-attention-dense'",
    "--frames 8 --vision-merge 16",
    "--frames 8 --vision-merge '16 layers=4-20 attention=plain' --execution cuda-graph",
    "--model llava-onevision-qwen2-7b --image 600x900 --image 336x336",
    "--model llava-onevision-qwen2-0.5b --image 2000x3000 --merge 0.5",
    "--model llava-1.5-7b --image-tokens 576 --select '0.25 score=vision-attention-pairs'",
    "--model llava-1.5-13b --image-tokens 576 --batch 4 --vision-merge 8 --attention eager",
    f"--model llava-next-video-7b --frames 16 {_AIM}",
    "--model llava-next-video-7b --image 672x500",
    f"--model llava-v1.6-vicuna-7b --image 672x672 {_AIM}",
    "--model llava-v1.6-mistral-7b --image 300x900 --image 500x500 --hardware a100-sxm4-80gb",
    "--model llava-v1.6-34b --image-tokens 2880 --batch 2 --select '0.25 score=pairwise-cosine'",
    f"--model qwen2-vl-7b --frames 16 --frame-size 280x420 {_AIM}",
    "--model qwen2-vl-7b --image 640x480 --image 200x900 --execution cuda-graph",
    f"--model qwen2.5-vl-7b --frames 16 --frame-size 280x420 {_AIM}",
    "--model qwen2.5-vl-7b --image 1000x700 --hardware a100-sxm4-80gb --attention eager",
    "--model qwen2.5-vl-7b --image-tokens 64 --hardware cpu-generic --dtype float32",
    f"--model qwen3-vl-8b --frames 16 --frame-size 288x416 {_AIM}",
    "--model qwen3-vl-2b --image 640x480 --select 0.25 --execution cuda-graph",
)
COMMANDS = {
    "predict": _PREDICT,
    "models": ("",),
    "hardware": ("",),
    "methods": ("", "fastv"),
    "table": ("",),
    "compare": (
        "--methods all --conventions executed,pdrop",
        "--methods aim,pyramiddrop,visionzip --equal flops --model llava-next-video-7b --frames 16",
        "--methods aim,fastv --conventions executed --model qwen2.5-vl-7b --frames 8",
    ),
    "sweep": (
        "--top 12",
        "--model llava-next-video-7b,qwen2-vl-7b,qwen2.5-vl-7b --frames 4,9 --l1 3,20 "
        "--hardware h100-sxm,rtx-3090 --execution eager,cuda-graph,ideal --top 72",
        "--frames 6 --last-layer needed --attention eager --batch 2 --dtype float32",
    ),
    "symbolic": ("",),
    "plan": ("--ttft-ms 120", "--flops-tera 20 --frames 16 --hardware a100-sxm4-80gb"),
}
"""The arguments with which each command is run; all print JSON."""


def answer(command: str, arguments: str) -> Any:
    """What ``aim-cost command arguments`` prints; keys with dots once, not as objects too."""
    words = [command, *shlex.split(arguments), "--format", "json"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    if result.exit_code:
        raise RuntimeError(f"aim-cost {shlex.join(words)} ended with {result.exit_code}")
    found = json.loads(result.stdout)
    return _flat(found) if command == "predict" else found


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The row without the objects that say its keys with dots a second time."""
    groups = {key.partition(".")[0] for key in row if "." in key}
    return {key: value for key, value in row.items() if key not in groups}


def answers(command: str) -> dict[str, Any]:
    """All answers of one command, by its arguments."""
    return {arguments: answer(command, arguments) for arguments in COMMANDS[command]}


def path_of(command: str) -> Path:
    """The file that holds the answers of ``command``."""
    return FOLDER / f"{command}.json"


def kept(command: str) -> Any:
    """The answers of ``command`` as they are written, by its arguments."""
    return json.loads(path_of(command).read_text(encoding="utf-8"))


def differences(found: Any, kept: Any, where: str = "") -> Iterator[str]:
    """Each place where two answers differ; whole numbers and words are compared exactly."""
    if isinstance(kept, dict) and isinstance(found, dict):
        for key in [*kept, *(key for key in found if key not in kept)]:
            if key in kept and key in found:
                yield from differences(found[key], kept[key], f"{where}/{key}")
            else:
                yield f"{where}/{key}: only {'kept' if key in kept else 'found'}"
    elif isinstance(kept, list) and isinstance(found, list) and len(kept) == len(found):
        for place, pair in enumerate(zip(found, kept, strict=True)):
            yield from differences(*pair, f"{where}/{place}")
    elif isinstance(kept, float) and isinstance(found, float):
        if abs(found - kept) > TOLERANCE * abs(kept):
            yield f"{where}: {found!r}, kept {kept!r}"
    elif type(found) is not type(kept) or found != kept:
        yield f"{where}: {found!r}, kept {kept!r}"


def settled(found: Any, kept: Any) -> Any:
    """``found``, or ``kept`` where that says the same."""
    return found if any(differences(found, kept)) else kept


def main() -> None:
    """Write every file; one line an answer, or a row of it."""
    for command in COMMANDS:
        written = kept(command) if path_of(command).exists() else {}
        lines = [
            f"{json.dumps(key)}: {_text(settled(value, written.get(key)))}"
            for key, value in answers(command).items()
        ]
        write_atomically(path_of(command), ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(one) for one in value) + "\n]"
    return json.dumps(value)


if __name__ == "__main__":
    main()
