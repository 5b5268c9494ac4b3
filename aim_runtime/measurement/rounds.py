"""Rounds: every run in turn, many times, so that drift affects all of them equally."""

import random
from collections.abc import Sequence

from aim_cost.render import counted_progress
from aim_runtime.measurement.measurement import Measurement
from aim_runtime.measurement.row_file import RowStore
from aim_runtime.measurement.row_key import RowKey
from aim_runtime.measurement.timed_run import TimedRun


class Rounds:
    """``warmup`` untimed rounds, then ``repeats`` timed ones, each in a new random order.

    Args: store, its complete rows are not measured again; it gets the rows after each timed round.
    """

    def __init__(
        self,
        runs: Sequence[TimedRun],
        store: RowStore,
        *,
        repeats: int,
        warmup: int,
        seed: int = 0,
    ) -> None:
        self._runs = {run.key: run for run in runs}
        self._store, self._repeats, self._warmup = store, repeats, warmup
        self._order = random.Random(seed)
        self._earlier = {row.key: row for row in store.earlier() if self._serves(row)}

    def run(self) -> None:
        """Go on to the end. Ctrl-C passes through, after the rows so far are saved."""
        todo = [run for key, run in self._runs.items() if not self._is_complete(key)]
        try:
            with counted_progress() as progress:
                total = len(todo) * (self._warmup + self._repeats)
                task = progress.add_task("measuring", total=total)
                for round_ in range(self._warmup + self._repeats):
                    self._order.shuffle(todo)
                    for run in todo:
                        run(timed=round_ >= self._warmup)
                        progress.advance(task)
                    self._save()
        except KeyboardInterrupt:
            self._save()
            raise

    def rows(self) -> list[Measurement]:
        """A row of each run, in the order given: the earlier one where that is complete."""
        return [self._row(key, run) for key, run in self._runs.items()]

    def _serves(self, row: Measurement) -> bool:
        """Whether an earlier row has all that its run would give."""
        run = self._runs.get(row.key)
        return run is not None and not (run.counts and row.flops is None)

    def _save(self) -> None:
        if rows := [row for row in self.rows() if row.repeats or row.error]:
            self._store.save(rows)

    def _row(self, key: RowKey, run: TimedRun) -> Measurement:
        row, earlier = run.measurement(), self._earlier.get(key)
        # a row that an interrupt cut short stays until the new one has as many repeats
        if earlier is not None and not row.error and row.repeats < earlier.repeats:
            return earlier
        return earlier if earlier is not None and self._is_complete(key) else row

    def _is_complete(self, key: RowKey) -> bool:
        row = self._earlier.get(key)
        return row is not None and not row.error and row.repeats >= self._repeats
