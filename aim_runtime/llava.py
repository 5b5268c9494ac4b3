"""Video prompts of LLaVA-OneVision: placeholders as the processor wrote them, or fewer."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from aim_cost.workload import VisualInput
from aim_runtime.errors import PatchError
from aim_runtime.prompt import Prompt, check_visual_mask

Inputs = dict[str, Any]


@dataclass(frozen=True)
class VideoLayout:
    """How many placeholders a video takes.

    Args:
        video_token_id: the placeholder.
        merge_tokens: tokens of a frame before merging and after each pass.
    One newline token follows the last frame; it has a placeholder of its own.
    """

    video_token_id: int
    merge_tokens: tuple[int, ...]

    def frames(self, inputs: Inputs) -> int:
        """Frames of each prompt's video, read from pixels or from features that are ready.

        Raises: PatchError for images, for no video, or for other than one video a prompt.
        """
        ready = inputs.get("mm_encoder_outputs") or {}
        if inputs.get("pixel_values") is not None or ready.get("image") is not None:
            raise PatchError(
                "pixel_values",
                expected="a video",
                got="images",
                fix="Images are not supported yet: pass pixel_values_videos, or unpatch.",
            )
        pixels, features = inputs.get("pixel_values_videos"), ready.get("video")
        if pixels is None and features is None:
            raise PatchError(
                "prompt",
                expected="a video: a schedule reduces visual tokens",
                got="no pixel_values_videos",
                fix="Pass a video, or use the unpatched model.",
            )
        if pixels is not None:
            videos, frames = pixels.shape[:2]
        else:
            videos, length = features.pooler_output.shape[:2]
            frames = (length - 1) // self.merge_tokens[-1]
        prompts = inputs["input_ids"].shape[0]
        if videos != prompts:
            raise PatchError(
                "pixel_values_videos",
                expected=f"one video for each of {prompts} prompts",
                got=f"{videos} videos",
                fix="Several videos in one prompt are not supported.",
            )
        return frames

    def prepare(self, inputs: Inputs) -> tuple[Inputs, Prompt]:
        """Shorten ``input_ids`` and ``attention_mask`` to the placeholders that merging leaves.

        Inputs that are already short pass unchanged; ``inputs`` itself is not changed.
        Raises: PatchError when placeholders and frames do not fit, and as ``frames``.
        """
        frames = self.frames(inputs)
        visual = VisualInput(frames, self.merge_tokens[0], newline_tokens=1)
        mask = (inputs["input_ids"] == self.video_token_id).cpu()
        check_visual_mask(mask, "input_ids")
        given = int(mask[0].sum())
        full, short = (frames * n + 1 for n in (self.merge_tokens[0], self.merge_tokens[-1]))
        if given not in (full, short):
            raise PatchError(
                "input_ids",
                expected=f"{full} video placeholders for {frames} frames"
                + (f" ({short} when already merged)" if short < full else ""),
                got=given,
                fix="Let the model's processor write the prompt.",
            )
        if given == short:
            return inputs, Prompt(mask, visual)
        if inputs.get("position_ids") is not None:
            raise PatchError(
                "position_ids",
                expected="none, because merging shortens the prompt",
                got="position_ids of the full prompt",
                fix="Leave them out.",
            )
        index = _without_last_placeholders(mask, remove=full - short)
        shortened = dict(inputs)
        for name in ("input_ids", "attention_mask"):
            if inputs.get(name) is not None:
                shortened[name] = inputs[name].gather(1, index.to(inputs[name].device))
        return shortened, Prompt(mask.gather(1, index), visual)


def _without_last_placeholders(mask: Tensor, remove: int) -> Tensor:
    """Index [B, n - remove] of a prompt whose one run of placeholders has lost its end."""
    place = mask.cumsum(dim=1)
    inside = (place > 0) & (place < place[:, -1:])
    if not bool(mask[inside].all()):
        raise PatchError(
            "input_ids",
            expected="the placeholders of a video in one run",
            got="text between them",
            fix="Merging shortens the run: keep text before and after the video.",
        )
    keep = ~mask | (place <= place[:, -1:] - remove)
    return keep.nonzero()[:, 1].view(mask.shape[0], -1)
