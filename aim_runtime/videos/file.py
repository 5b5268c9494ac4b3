"""The file on disk: is it one that may hold a video, and is all of it there?"""

import os
from pathlib import Path

from aim_runtime.errors import InputError
from aim_runtime.videos.ending import missing_bytes

_HEAD_BYTES = 4096
_BINARY = frozenset(range(32)) - frozenset(b"\t\n\f\r\x1b")
_TEXT_BEFORE_FRAMES = b"YUV4MPEG2"  # a raw video whose header is text


def existing_file(given: str | Path) -> Path:
    """The path of a file that may hold a video. Raises: InputError."""

    def refuse(got: str, fix: str) -> InputError:
        return InputError(
            f"video {given}", expected="a video file that can be decoded", got=got, fix=fix
        )

    if not isinstance(given, str | os.PathLike):
        raise refuse(type(given).__name__, "Give the path of a file.")
    if "://" in str(given):
        raise refuse("an address", "Download it, and give the path of the file.")
    path = Path(given)
    try:
        if path.is_dir():
            raise refuse("a folder", "Give one file in it.")
        size = path.stat().st_size
        if not path.is_file():
            raise refuse("a pipe or a device", "Write it to a file, and give its path.")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except FileNotFoundError as error:
        raise refuse("no such file", "Check the path.") from error
    except (OSError, ValueError) as error:
        raise refuse(getattr(error, "strerror", None) or str(error), "Check the path.") from error
    if not size:
        raise refuse("an empty file", "Copy or download it again.")
    if not _BINARY.intersection(head) and not head.startswith(_TEXT_BEFORE_FRAMES):
        raise refuse("a text file", "Give the video itself, not a list of files or a web page.")
    return path


def require_whole(path: Path, where: str) -> None:
    """Raises: InputError where the file ends before its header says."""
    missing = missing_bytes(path)
    if missing:
        raise damaged(where, f"a file that was cut off: {missing} bytes or more are missing")


def damaged(where: str, got: str) -> InputError:
    """The error for a file that breaks off or does not decode."""
    return InputError(
        where,
        expected="a whole video",
        got=got,
        fix="Copy or download it again, or mend it: ffmpeg -i FILE out.mp4; or take what comes "
        "before the damage (damaged=True, --damaged).",
    )
