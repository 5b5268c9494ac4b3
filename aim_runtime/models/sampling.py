"""FrameSampling: which groups of a video the vision tower gets, and their pixels."""

from dataclasses import dataclass

from aim_cost.schedules.sample import Sample
from aim_runtime.models.adapter import Adapter, Items
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.visual import VisualItem, fewer_groups


@dataclass(frozen=True)
class FrameSampling:
    """What ``sample`` leaves of the videos that an adapter reads; None leaves all."""

    adapter: Adapter
    sample: Sample | None

    def items(self, inputs: Inputs, modality: str) -> Items | None:
        """As ``Adapter.items``, with the frames that are sampled."""
        items = self.adapter.items(inputs, modality)
        return None if items is None else self._fewer(items, modality)

    def items_of_pixels(self, inputs: Inputs, modality: str) -> Items:
        """As ``Adapter.items_of_pixels``, with the frames that are sampled. Raises: PatchError."""
        return self._fewer(self.adapter.items_of_pixels(inputs, modality), modality)

    def _fewer(self, items: Items, modality: str) -> Items:
        if self.sample is None or modality != "video":
            return items
        return tuple(fewer_groups(item, self._kept(item)) for item in items)

    def pixels(self, inputs: Inputs) -> Inputs:
        """``inputs`` of ``get_video_features`` with the pixels of the frames that are sampled."""
        if self.sample is None:
            return inputs
        items = self.adapter.items_of_pixels(inputs, "video")
        if all(map(self.agrees, items)):
            return inputs
        return self.adapter.with_groups(inputs, [self._kept(item) for item in items])

    def agrees(self, item: VisualItem) -> bool:
        """Whether an encoded video has the frames that are sampled of it, and no others."""
        wanted = item.all_groups
        if self.sample is not None:
            wanted = len(self.sample.groups(wanted, self.adapter.group_frames))
        return wanted == item.blocks[0].groups

    def _kept(self, item: VisualItem) -> tuple[int, ...]:
        assert self.sample is not None
        return self.sample.groups(item.blocks[0].groups, self.adapter.group_frames)
