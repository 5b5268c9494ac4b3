"""predictions.json: what was predicted for the rows of a campaign, before they are timed."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from rich.progress import track

from aim_cost.errors import AimError
from aim_cost.files import write_atomically
from aim_cost.files.json_text import json_tree
from aim_cost.files.text import text_of
from aim_cost.render import console
from aim_runtime.campaigns.prediction import Prediction, predict
from aim_runtime.campaigns.setting import Setting
from aim_runtime.campaigns.step import Step
from aim_runtime.errors import MeasurementError
from aim_runtime.measurement.row_key import RunKey

PREDICTIONS = "predictions.json"
_FORMAT = "aim-predictions-1"


class PredictionsFile:
    """Predictions by run. One that is there is never replaced, for its date is what counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[RunKey, Prediction] = {}
        if path.exists():
            self._known = {found.run: found for found in _read(path)}

    def get(self, run: RunKey) -> Prediction | None:
        return self._known.get(run)

    def __len__(self) -> int:
        return len(self._known)

    def add(self, steps: Iterable[Step], setting: Setting, commit: str | None) -> int:
        """Predict the rows of steps that have no prediction, and write the file.

        Returns: how many were added.

        Raises: MeasurementError where the file holds predictions for other hardware.
        """
        hardware = setting.hardware
        for found in self._known.values():
            if found.hardware != hardware.name:
                raise MeasurementError(
                    f"{self._path}: hardware",
                    expected=hardware.name,
                    got=found.hardware,
                    fix="Take another folder for another GPU, or name the GPU by --hardware.",
                )
        wanted = {key.run: step for step in steps for key in setting.row_keys(step)}
        new = [run for run in wanted if run not in self._known]
        for run in track(new, "predicting", console=console(error=True), transient=True):
            spec = wanted[run].spec
            found = predict(spec, run, hardware, predicted_at=utc_now(), commit=commit)
            self._known[run] = found
        if new:
            lines = ",\n".join(json.dumps(found.to_row()) for found in self._known.values())
            text = f'{{"format": "{_FORMAT}", "predictions": [\n{lines}\n]}}\n'
            write_atomically(self._path, text.encode())
        return len(new)


def utc_now() -> str:
    """The time in UTC, ISO 8601 to the millisecond; later times are later in the alphabet."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _read(path: Path) -> list[Prediction]:
    try:
        tree = json_tree(text_of(path))
        if tree["format"] != _FORMAT:
            raise ValueError(f"the format {tree['format']}")
        return [Prediction.of(row) for row in tree["predictions"]]
    except (AimError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MeasurementError(
            str(path),
            expected=f"predictions in the format {_FORMAT}",
            got=" ".join(str(error).split()),
            fix="Restore the file, or move it away: the next call makes another one.",
        ) from error
