"""The frames of a document, whatever a task of lmms-eval calls its visuals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from aim_runtime.errors import InputError
from aim_runtime.lmms_eval.arguments import Arguments
from aim_runtime.prompts.video import sample_frames
from aim_runtime.videos.album import Album
from aim_runtime.videos.limits import Limits
from aim_runtime.videos.picture import picture_of_image, resized


def document_frames(visuals: Sequence[Any] | None, arguments: Arguments, where: str) -> np.ndarray:
    """Return at most ``arguments.max_frames`` frames, spread evenly.

    Args:
        visuals: what a task's ``doc_to_visual`` returns: one path of a video, or images if they
            are frames.
        where: names the document in errors.
    Returns: uint8 [frames, H, W, 3], RGB; images upright, on white, in the size of the first.
    Raises: InputError for everything else.
    """
    given = list(visuals or [])
    if len(given) == 1 and isinstance(given[0], str):
        most, damaged = arguments.max_frames, arguments.damaged
        return sample_frames(given[0], most, fewer=True, damaged=damaged)
    images = bool(given) and all(isinstance(item, Image.Image) for item in given)
    if images and arguments.images_as_frames:
        count = min(arguments.max_frames, len(given))
        chosen = np.linspace(0, len(given) - 1, count).round().astype(int).tolist()
        album = Album(chosen, Limits(), where)
        for number in chosen:
            picture = picture_of_image(given[number], where)
            height, width = picture.shape[:2]
            album.keep(number, resized(picture, album.size(width, height)))
        return album.frames
    fix = "Choose a task with one video a document"
    if images:
        fix += ", or add images_as_frames=true if the images are the frames of one"
    kinds = sorted({type(item).__name__ for item in given})
    raise InputError(
        where,
        expected="one video file",
        got=f"{len(given)} visuals" + (f" ({', '.join(kinds)})" if kinds else ""),
        fix=f"{fix}.",
    )
