"""SampleLog: one line of JSON an answer, on disk as soon as there is one."""

import json
from pathlib import Path

from aim_cost.render import Row
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import InputError
from aim_runtime.measurement.place import device_name
from aim_runtime.models.load import Loaded
from aim_runtime.trace import RunTrace


class SampleLog:
    """A new file of rows. Raises: InputError when the file is there already."""

    def __init__(self, path: Path) -> None:
        self._path, self._rows = path, 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=False)
        except OSError as error:
            raise InputError(
                "model_args.log",
                expected="a file that can be made",
                got=f"{path}: {error.strerror}",
                fix="Give another path, or move the old file away.",
            ) from error

    def append(self, row: Row) -> None:
        """Add a row, with its number in this file, which counts from 0."""
        line = json.dumps({"request": self._rows} | row)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._rows += 1


def sample_row(
    loaded: Loaded, schedule: Schedule, trace: RunTrace, seconds: dict[str, float]
) -> Row:
    """What one answer cost; docs/lmms_eval.md explains the keys.

    Args: seconds, as ``FirstToken`` had them recorded.
    """
    tokens = trace.tokens
    return {
        "model": loaded.spec.name,
        "hardware": device_name(loaded.device),
        "dtype": loaded.dtype,
        "schedule": schedule.label(),
        "frames": tokens.groups,
        "text_tokens": tokens.text_tokens,
        "visual_tokens": tokens.groups * tokens.merge_tokens[0] + tokens.newline_tokens,
        "visual_tokens_entering_llm": tokens.visual_tokens,
        "visual_tokens_after_last_layer": trace.kept[-1].shape[1] - tokens.text_tokens,
        "tokens_per_layer": list(tokens.attention_tokens),
        "ttft_s": seconds["ttft"],
        "decode_s": seconds["decode"],
    }
