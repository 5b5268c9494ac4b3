"""VisionMerge: how many tokens of a frame are merged in each layer of the vision tower."""

from dataclasses import dataclass
from typing import ClassVar

from aim_cost.checks import one_of, sequence, whole
from aim_cost.errors import ScheduleError
from aim_cost.models.vision_spec import Tower
from aim_cost.schedules.language import Amount, Numbers, OneOf, Part, Word

_ATTENTION = {
    "proportional": "a token that stands for several draws as much attention as they would (ToMe)",
    "plain": "a token that stands for several draws the attention of one",
}
ATTENTION_KINDS = tuple(_ATTENTION)


@dataclass(frozen=True)
class VisionMerge(Part):
    """Bipartite merging of each frame's tokens inside the tower, between attention and MLP.

    After the tower every place of the frame has a token again: the one that its own was merged
    into.

    Args:
        remove: tokens of a frame merged in each layer, at most half of those there are.
        layers: first and last layer that merges, 0-based, both included; None for all.
        attention: ``proportional``, ToMe's: a token that stands for several draws as much attention
            as they would; or ``plain``.
    Raises: ScheduleError. Source: ToMe, arXiv 2210.09461.
    """

    remove: int
    layers: tuple[int, int] | None = None
    attention: str = "proportional"

    AMOUNTS: ClassVar = (
        Amount("", "remove", Numbers("16"), "this many tokens of a frame are merged in each layer"),
    )
    WORDS: ClassVar = (
        Word(
            "layers",
            "layers",
            Numbers("4-20", between="-,"),
            "the first and the last layer of the tower that merges, counted from 0",
        ),
        Word("attention", "attention", OneOf(_ATTENTION), "the attention to merged tokens"),
    )

    def __post_init__(self) -> None:
        whole(self.remove, "vision_merge.remove", ScheduleError)
        one_of(self.attention, ATTENTION_KINDS, "vision_merge.attention", ScheduleError)
        if self.layers is None:
            return
        where = "vision_merge.layers"
        layers = sequence(self.layers, where, ScheduleError)
        object.__setattr__(self, "layers", layers)
        for layer in layers:
            whole(layer, where, ScheduleError, at_least=0)
        if len(layers) != 2 or layers[0] > layers[1]:
            raise ScheduleError(
                where, expected="first and last layer", got=list(layers), fix="E.g. [4, 20]."
            )

    def merging_layers(self, layers: int) -> range:
        """The layers that merge, of a tower of ``layers``. Raises: ScheduleError."""
        if self.layers is None:
            return range(layers)
        first, last = self.layers
        if last >= layers:
            raise ScheduleError(
                "vision_merge.layers",
                expected=f"layers below {layers}, the layers of the vision tower",
                got=f"{first} to {last}",
                fix="Leave the layers out, or end earlier.",
            )
        return range(first, last + 1)

    def token_counts(self, tokens: int, layers: int, protected: int = 0) -> tuple[int, ...]:
        """Tokens of a frame entering each layer of a tower, and those after the last layer.

        Args: tokens entering the tower; protected, those of them that no other is merged with.
        Raises: ScheduleError where a layer would have to merge more than half.
        """
        merging, counts = self.merging_layers(layers), [tokens]
        for layer in range(layers):
            left = counts[-1]
            if layer not in merging:
                counts.append(left)
                continue
            if self.remove > (left - protected) // 2:
                most = (tokens - protected) // (len(merging) + 1)
                raise ScheduleError(
                    "vision_merge.remove",
                    expected=f"at most half of the {left - protected} tokens in layer {layer}",
                    got=self.remove,
                    fix=f"Merge at most {most} a layer, or in fewer layers.",
                )
            counts.append(left - self.remove)
        return tuple(counts)

    def tower_tokens(self, tower: Tower) -> tuple[int, ...]:
        """``token_counts`` of ``tower``; CLIP's class token is never merged.

        Raises: ScheduleError, also for a tower whose layers attend within windows.
        """
        if not tower.any_size:
            return self.token_counts(tower.tokens, tower.num_hidden_layers, tower.class_tokens)
        raise ScheduleError(
            "vision_merge",
            expected="a tower of SigLIP's or CLIP's kind",
            got=tower.model_type,
            fix="Leave vision_merge out for this model.",
        )
