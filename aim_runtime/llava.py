"""Prompts of LLaVA-OneVision: placeholders as the processor wrote them, or fewer."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from aim_cost.workload import VisualInput
from aim_runtime.errors import PatchError
from aim_runtime.prompt import Prompt, check_visual_mask, text_prompt

Inputs = dict[str, Any]

_PIXELS = (
    *("pixel_values", "image_sizes", "batch_num_images"),
    *("pixel_values_videos", "image_sizes_videos", "mm_encoder_outputs"),
)


@dataclass(frozen=True)
class Shortened:
    """A prompt whose placeholders have been cut to what merging leaves.

    Args:
        inputs: for the model; the caller's own where nothing was cut.
        prompt: the same, described.
    """

    inputs: Inputs
    prompt: Prompt


@dataclass(frozen=True)
class Layout:
    """How many placeholders visual inputs take.

    Args:
        video_token_id, image_token_id: the placeholders.
        merge_tokens: tokens of a video frame before merging and after each pass.
    One newline token follows the last frame of a video; it has a placeholder of its own. The tokens
    of images, with their newlines, are one group that is not merged.
    """

    video_token_id: int
    image_token_id: int
    merge_tokens: tuple[int, ...]

    def prepare(self, inputs: Inputs) -> Shortened:
        """Shorten ``input_ids`` and ``attention_mask`` to the placeholders that merging leaves.

        Inputs that are already short pass unchanged; ``inputs`` itself is not changed.
        Raises: PatchError when placeholders and pixels do not fit, for images that would be merged,
        and for position_ids of a prompt that merging shortens.
        """
        mask = self._placeholders(inputs)
        ready = inputs.get("mm_encoder_outputs") or {}
        videos, images = (
            inputs.get(pixels) is not None or ready.get(kind) is not None
            for pixels, kind in (("pixel_values_videos", "video"), ("pixel_values", "image"))
        )
        if not (videos or images or bool(mask.any())):
            return Shortened(inputs, text_prompt(*mask.shape))
        check_visual_mask(mask, "input_ids")
        if images:
            return self._prepare_images(inputs, mask)
        if not videos:
            raise PatchError(
                "prompt",
                expected="the pixels behind its placeholders",
                got="neither pixel_values_videos nor pixel_values",
                fix="Pass all that the processor returned.",
            )
        return self._prepare_videos(inputs, mask, self._videos(inputs, ready, len(mask)))

    def prepare_follow_up(self, inputs: Inputs, earlier: VisualInput) -> Shortened:
        """``prepare`` a conversation whose beginning, with all its pixels, is cached.

        The pixels are left out of the result. Raises: PatchError when the visual tokens are not
        those of ``earlier``.
        """
        mask = self._placeholders(inputs)
        each = (self.merge_tokens[0], self.merge_tokens[-1]) if earlier.newline_tokens else ()
        valid = {earlier.groups * n + earlier.newline_tokens for n in (earlier.group_tokens, *each)}
        given = set(mask.sum(dim=1).tolist())
        if len(given) > 1 or not given <= valid:
            raise PatchError(
                "input_ids",
                expected=f"the whole conversation, with the {max(valid)} visual tokens whose keys "
                "and values are cached",
                got=f"{', '.join(map(str, sorted(given)))} placeholders",
                fix="Start a new cache for new images and videos.",
            )
        inputs = {name: value for name, value in inputs.items() if name not in _PIXELS}
        if earlier.newline_tokens:
            return self._prepare_videos(inputs, mask, earlier)
        return Shortened(inputs, Prompt(mask, earlier))

    def has_visual_tokens(self, inputs: Inputs) -> bool:
        """Whether there is a placeholder in ``input_ids``."""
        return bool(self._placeholders(inputs).any())

    def _placeholders(self, inputs: Inputs) -> Tensor:
        ids = inputs["input_ids"]
        return ((ids == self.video_token_id) | (ids == self.image_token_id)).cpu()

    def _videos(self, inputs: Inputs, ready: Inputs, prompts: int) -> VisualInput:
        """The videos of a prompt, from pixels or from features that are ready."""
        pixels = inputs.get("pixel_values_videos")
        if pixels is not None:
            videos, frames = pixels.shape[:2]
        else:
            videos, length = ready["video"].pooler_output.shape[:2]
            frames = (length - 1) // self.merge_tokens[-1]
        if videos % prompts:
            raise PatchError(
                "pixel_values_videos",
                expected=f"as many videos in each of {prompts} prompts",
                got=f"{videos} videos",
                fix="Run prompts with different numbers of videos one by one.",
            )
        each = videos // prompts
        return VisualInput(each * frames, self.merge_tokens[0], newline_tokens=each)

    def _prepare_images(self, inputs: Inputs, mask: Tensor) -> Shortened:
        if len(self.merge_tokens) > 1:
            raise PatchError(
                "pixel_values",
                expected="videos alone, where tokens are merged",
                got="images",
                fix="Prune without merging: newlines between the rows of an image hold its grid.",
            )
        together = VisualInput(1, group_tokens=int(mask[0].sum()), newline_tokens=0)
        return Shortened(inputs, Prompt(mask, together))

    def _prepare_videos(self, inputs: Inputs, mask: Tensor, visual: VisualInput) -> Shortened:
        videos = visual.newline_tokens
        frames = visual.groups // videos
        full, short = (frames * n + 1 for n in (self.merge_tokens[0], self.merge_tokens[-1]))
        given = int(mask[0].sum())
        if given not in (videos * full, videos * short):
            raise PatchError(
                "input_ids",
                expected=f"{videos * full} video placeholders for {visual.groups} frames"
                + (f" in {videos} videos" if videos > 1 else "")
                + (f" ({videos * short} when already merged)" if short < full else ""),
                got=given,
                fix="Let the model's processor write the prompt.",
            )
        if given == videos * short:
            return Shortened(inputs, Prompt(mask, visual))
        if inputs.get("position_ids") is not None:
            raise PatchError(
                "position_ids",
                expected="none, because merging shortens the prompt",
                got="position_ids of the full prompt",
                fix="Leave them out.",
            )
        index = _without_ends(mask, full, short)
        shortened = {
            name: inputs[name].gather(1, index.to(inputs[name].device))
            for name in ("input_ids", "attention_mask")
            if inputs.get(name) is not None
        }
        return Shortened(inputs | shortened, Prompt(mask.gather(1, index), visual))


def _without_ends(mask: Tensor, full: int, short: int) -> Tensor:
    """Index [B, kept] of a prompt in which each run of ``full`` placeholders has lost its end."""
    place = mask.cumsum(dim=1) - 1  # of the last placeholder so far
    between = (place >= 0) & (place % full < full - 1)
    if bool((between & ~mask).any()):
        raise PatchError(
            "input_ids",
            expected="the placeholders of a video in one run",
            got="text between them",
            fix="Merging shortens the run: keep text before and after the video.",
        )
    keep = ~mask | (place % full < short)
    return keep.nonzero()[:, 1].view(mask.shape[0], -1)
