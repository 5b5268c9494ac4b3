"""The text of a file."""

from importlib.resources.abc import Traversable
from pathlib import Path

from aim_cost.files.limits import MOST_BYTES


def text_of(file: Path | Traversable) -> str:
    """The text of a file: UTF-8, or UTF-16 with a byte order mark, as spreadsheets write it.

    Raises: OSError; ValueError for a file that is no text or is above MOST_BYTES.
    """
    with file.open("rb") as opened:
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES // 2**20} MiB")
    if content.startswith(b"PK\x03\x04"):
        raise ValueError("a zip archive, as workbooks are (.xlsx, .ods): save it as CSV")
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        byte = content[error.start : error.start + 1].hex()
        raise ValueError(
            f"the byte 0x{byte} at {error.start}, which is no text in UTF-8: save it as UTF-8"
        ) from error
