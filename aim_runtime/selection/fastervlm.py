"""What the vision tower attends to most: FasterVLM, arXiv 2412.01818v1."""

from aim_runtime.selection.candidates import Candidates, Kept, selects


@selects("vision-attention")
def vision_attention(of: Candidates) -> Kept:
    """The tokens that receive the most attention in the layer whose output is read."""
    return of.best(of.attention())
