"""What the vision tower attends to: FasterVLM's choice, and VisionZip's dominant tokens.

Sources: arXiv 2412.01818, arXiv 2412.04467.
"""

from aim_runtime.selection.candidates import Candidates, Kept, selects


@selects("vision-attention")
def vision_attention(of: Candidates) -> Kept:
    """The tokens that receive the most attention in the layer whose output is read."""
    assert of.tower is not None
    return of.best(of.tower.received().reshape(of.features.shape[:2]))
