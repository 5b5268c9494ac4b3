"""TowerReading: what reads the attention of a vision tower, for scores that need it."""

from typing import Protocol

from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_cost.schedules.schedule import Schedule
from aim_runtime.models.adapter import Adapter
from aim_runtime.patching.block_reading import BlockReading
from aim_runtime.patching.layer_reading import LayerReading
from aim_runtime.patching.undo import Changes
from aim_runtime.selection.tower import TowerAttention


class TowerReading(Protocol):
    """Reads the attention of one layer, run by run."""

    def attach(self, changes: Changes) -> None:
        """Watch the layer."""
        ...

    def take(self, modality: str) -> TowerAttention:
        """What the last run of the tower in this thread has left; it is forgotten."""
        ...


def tower_reading(adapter: Adapter, schedule: Schedule) -> TowerReading | None:
    """For the score of ``schedule.select``; None where it reads no tower.

    Raises: PatchError for a tower that cannot be read.
    """
    select = schedule.select
    if select is None or not VISUAL_SCORES[select.by].reads_tower:
        return None
    return BlockReading(adapter) if hasattr(adapter.tower, "blocks") else LayerReading(adapter)
