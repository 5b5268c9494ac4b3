"""Arguments: the values of lmms-eval's ``--model_args``, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from aim_cost.checks import whole
from aim_cost.schedules.schedule import PARTS, Schedule
from aim_cost.studies.lmms_results import OUR_FRAMES
from aim_runtime.errors import InputError

_SCHEDULE = ("schedule", *PARTS)
_BATCH = ("batch_size", "max_batch_size")  # lmms-eval passes its own options together with ours


@dataclass(frozen=True)
class Arguments:
    """The options of loading and running the model.

    Args:
        pretrained: preset, hub name or folder of a LLaVA-OneVision checkpoint.
        schedule: of all requests; by default nothing is reduced.
        max_frames: frames of a video, spread evenly; of a shorter one, all.
        device: None for cuda where there is one; dtype: of weights and activations.
        log: a new JSONL file, one line an answer.
        images_as_frames: several images of a document are the frames of one video.
        damaged: of a damaged video, take what comes before the damage.
    """

    pretrained: str
    schedule: Schedule = field(default_factory=Schedule)
    max_frames: int = OUR_FRAMES
    device: str | None = None
    dtype: str = "bfloat16"
    log: Path | None = None
    images_as_frames: bool = False
    damaged: bool = False

    @classmethod
    def from_model_args(cls, given: Mapping[str, Any]) -> "Arguments":
        """Read what lmms-eval made of ``name=value,name=value``: strings, numbers and bools.

        ``schedule`` is its text or a YAML or JSON file; instead of it each part may have an
        argument of its own, as on the command line. Text with commas stands in quotes.
        Raises: InputError that lists the valid names; ScheduleError.
        """
        given = {name.replace("-", "_"): value for name, value in given.items()}
        valid = sorted({*_SCHEDULE, *(argument.name for argument in fields(cls))})
        unknown = sorted(given.keys() - {*valid, *_BATCH})
        if unknown:
            raise _wrong(unknown[0], "a known argument", unknown[0], f"Known: {', '.join(valid)}.")
        values = {name: _unquoted(value) for name, value in given.items()}
        for name in _BATCH:
            if str(values.pop(name, 1)) != "1":
                raise _wrong(name, "1, since prompts differ in length", given[name], "Set it to 1.")
        if not values.get("pretrained"):
            raise _wrong(
                "pretrained",
                "a checkpoint: a hub name, a folder or a preset",
                "none",
                "Add pretrained=NAME.",
            )
        parts = {name: values.pop(name) for name in _SCHEDULE if name in values}
        if "log" in values:
            values["log"] = Path(str(values["log"]))
        arguments = cls(**values, schedule=Schedule.from_options(parts, "model_args.{}"))
        whole(arguments.max_frames, "model_args.max_frames", InputError)
        for name in ("images_as_frames", "damaged"):
            got = values.get(name, False)
            if not isinstance(got, bool):
                raise _wrong(name, "true or false", got, "Write one of them.")
        return arguments


def _unquoted(value: Any) -> Any:
    return value.strip("'\"") if isinstance(value, str) else value


def _wrong(name: str, expected: str, got: object, fix: str) -> InputError:
    return InputError(f"model_args.{name}", expected=expected, got=got, fix=fix)
