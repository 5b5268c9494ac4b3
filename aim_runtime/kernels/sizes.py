"""The sizes at which kernels are measured: those that a model's schedules reach, evenly spread."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Workload

_FEWEST_TOKENS = 16
_TOKEN_STEPS = 9
_IMAGE_STEPS = 5
_BEYOND = 1.1  # a longer text than the workload's stays inside the table


@dataclass(frozen=True)
class Sizes:
    """Tokens that enter decoder layers, and frames that go through the vision tower at once."""

    tokens: tuple[int, ...]
    images: tuple[int, ...]

    @classmethod
    def of(cls, spec: ModelSpec, workload: Workload) -> "Sizes":
        """Geometric steps up to the prompt of ``workload`` without reduction.

        Token counts that schedules leave lie between the steps, so no schedule is measured itself.
        """
        visual = workload.visual_input(spec)
        prompt = visual.groups * visual.group_tokens + visual.newline_tokens + workload.text_tokens
        most = int(_BEYOND * prompt)
        return cls(
            spread(min(_FEWEST_TOKENS, most), most, _TOKEN_STEPS),
            spread(1, visual.groups * workload.batch, _IMAGE_STEPS),
        )


def spread(first: int, last: int, steps: int) -> tuple[int, ...]:
    """At most ``steps`` whole numbers in geometric steps, both ends included."""
    return tuple(sorted({round(size) for size in np.geomspace(first, last, steps)}))


def every_other(sizes: Sequence[int]) -> tuple[int, ...]:
    """Half of the sizes, the largest among them."""
    return tuple(sizes[::-2][::-1])
