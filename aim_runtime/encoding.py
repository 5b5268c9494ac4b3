"""What happens to video features after pooling: they are merged, and it is remembered how."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aim_cost.merge import Merge
from aim_runtime.errors import PatchError
from aim_runtime.merge import merge_passes
from aim_runtime.prompt import Prompt
from aim_runtime.spans import Recorder


@dataclass(frozen=True)
class Encoded:
    """The video frames that were encoded last.

    Args:
        frames: of all videos together.
        merge_tokens: tokens of a frame before merging and after each pass, as they occurred.
        places: int64 [frames, t], of each token left its place in the unmerged frame.
        features: [frames, t, hidden], what is left.
    Places and features are None where merged tokens are numbered anew: nobody needs them.
    """

    frames: int
    merge_tokens: tuple[int, ...]
    places: Tensor | None = None
    features: Tensor | None = None

    def places_in(self, prompt: Prompt, ready: Tensor | None) -> Tensor:
        """``places`` for the frames of all rows of ``prompt``: [B * groups, t].

        ``ready``: features [videos, n, hidden] that the model was given instead of pixels, with
        rows repeated as ``generate`` does. Raises: PatchError when they are not these.
        """
        rows = len(prompt.visual_mask)
        places = self.places.unflatten(0, (-1, prompt.visual.groups))
        copies = rows // len(places)
        if ready is not None and not self._are(ready.unflatten(0, (rows, -1))[::copies]):
            raise features_of_another_run("features of another video than the last one")
        return places.repeat_interleave(copies, dim=0).flatten(0, 1)

    def _are(self, ready: Tensor) -> bool:
        """Whether ready[prompts, videos, n, hidden] are these, apart from newlines at the end."""
        mine = self.features.unflatten(0, (*ready.shape[:2], -1)).flatten(2, 3)
        return torch.equal(mine, ready[:, :, : mine.shape[2]])


def features_of_another_run(got: str) -> PatchError:
    """The error for ready features that this patched model did not make for the prompt at hand."""
    return PatchError(
        "mm_encoder_outputs",
        expected="features of this video, made by this patched model",
        got=got,
        fix="Pass pixel_values_videos.",
    )


class Encoding:
    """Merges video features behind the model's pooling; ``last`` tells what came out."""

    def __init__(self, merge: Merge | None, recorder: Recorder) -> None:
        self.last: Encoded | None = None
        self._merge, self._recorder = merge, recorder

    def behind(self, pool: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """``pool``, then merging."""

        def pool_and_merge(features: Tensor) -> Tensor:
            # [frames, patches, hidden] -> [frames, tokens, hidden] -> [frames, kept, hidden]
            pooled = pool(features)
            if self._merge is None:
                self.last = Encoded(frames=len(pooled), merge_tokens=(pooled.shape[1],))
                return pooled
            with self._recorder.span("merge"):
                return self._merged(pooled, self._merge)

        return pool_and_merge

    def _merged(self, features: Tensor, merge: Merge) -> Tensor:
        frames, tokens = features.shape[:2]
        places, seen = None, [tokens]
        if merge.positions == "kept":
            places = torch.arange(tokens, device=features.device).expand(frames, -1)
        for left, plan in merge_passes(features, merge.token_counts(tokens), merge.by):
            features = left
            seen.append(features.shape[1])
            places = None if places is None else plan.places(places)
        kept = None if places is None else features
        self.last = Encoded(frames, tuple(seen), places, kept)
        return features
