"""own_selection: a way of one's own to choose tokens before the LLM, run, counted and priced."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from aim_cost.ops.op import Op
from aim_cost.ops.score import OWN
from aim_cost.ops.visual_scores import VISUAL_SCORES, VisualScore, VisualSize
from aim_runtime.reduction.traced import DTYPES, traced_ops
from aim_runtime.selection.candidates import Candidates, Choose, selects
from aim_runtime.selection.tower import TowerAttention


def own_selection(
    name: str,
    summary: str,
    *,
    across_sizes: bool = False,
    reads_tower: bool = False,
    reads_text: bool = False,
) -> Callable[[Choose], Choose]:
    """Register a function as ``select 0.25 score=NAME``, from Candidates to Kept.

    It is priced as it runs: its kernels are counted on the meta device. Registering a name of one's
    own again replaces it.
    Args: summary, what it looks at, in a phrase; the rest as in VisualScore.
    Raises: ScheduleError for a name that a score of the project has.
    """
    VISUAL_SCORES.require_free(name)

    def registered(choose: Choose) -> Choose:
        @lru_cache(maxsize=1024)
        def ops(size: VisualSize) -> list[Op]:
            of = _on_meta(size, reads_tower, reads_text)
            return traced_ops(lambda: choose(of), "merge", None, name)

        VISUAL_SCORES[name] = VisualScore(
            name,
            summary,
            OWN,
            ops,
            across_sizes=across_sizes,
            reads_tower=reads_tower,
            reads_text=reads_text,
        )
        return selects(name)(choose)

    return registered


def _on_meta(size: VisualSize, reads_tower: bool, reads_text: bool) -> Candidates:
    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, device="meta", dtype=DTYPES[size.width])

    vision, frame_tokens = size.vision, size.tokens // size.frames
    tower = None
    if reads_tower:
        heads = vision.num_attention_heads
        shape = (size.views, size.tower_tokens, heads, vision.hidden_size // heads)
        tower = TowerAttention(
            empty(*shape).unbind(),
            empty(*shape).unbind(),
            1.0,
            vision.class_tokens,
            lambda x: x.new_empty(len(x), frame_tokens, x.shape[-1]),
        )
    text = empty(size.text_tokens, size.hidden)
    return Candidates(
        empty(size.items, size.rows // size.items, size.hidden),
        size.sets // size.items,
        size.frames,
        size.kept,
        tower,
        (text,) * size.items if reads_text else (),
    )
