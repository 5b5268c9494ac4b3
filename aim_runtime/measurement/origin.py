"""Origin: the step of a campaign that a row comes from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from aim_cost.render import Row
from aim_runtime.measurement.environment import Environment

STAND_IN = "stand-in for "
"""How the device of a rehearsal is named before the name of its profile."""


@dataclass(frozen=True)
class Origin:
    """The step of a campaign that a row comes from, and what it was measured with.

    Args:
        step_number: from 0 on; begun_at: of the step, UTC, ISO 8601.
        commit, torch, transformers, triton, cudnn, driver: as of Environment.
        rehearsal: whether no device ran and the clock was a model.
    """

    step_number: int
    begun_at: str
    commit: str | None = None
    torch: str | None = None
    transformers: str | None = None
    triton: str | None = None
    cudnn: int | None = None
    driver: str | None = None
    rehearsal: bool = False

    @classmethod
    def in_environment(cls, number: int, begun_at: str, environment: Environment) -> "Origin":
        """That of the rows of a step which begins in ``environment``."""
        return cls(
            step_number=number,
            begun_at=begun_at,
            commit=environment.commit,
            torch=environment.torch,
            transformers=environment.transformers,
            triton=environment.triton,
            cudnn=environment.cudnn,
            driver=environment.driver,
            rehearsal=environment.rehearsal,
        )

    def to_row(self) -> Row:
        """Columns of a row; ``rehearsal`` only where it is one."""
        row = asdict(self)
        if not self.rehearsal:
            del row["rehearsal"]
        return row

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Origin | None":
        """The inverse of ``to_row``; None for a row that belongs to no campaign.

        Rows that were written before there was the column ``rehearsal`` say it by their device.
        """
        if "step_number" not in row:
            return None
        known = {field.name: row[field.name] for field in fields(cls) if field.name in row}
        return cls(**{"rehearsal": row["hardware"].startswith(STAND_IN), **known})
