"""Where a file ends by its own word: the size in its header, against which a cut shows."""

import os
from pathlib import Path
from typing import BinaryIO

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_BOXES = frozenset(
    b"ftyp moov mdat free skip wide moof mfra sidx styp uuid meta pdin prft ssix emsg udta pnot "
    b"PICT meco".split()
)
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # at most
_SLOPPY_BYTES = 9  # writers that count the RIFF header too, or a byte of padding


def missing_bytes(path: Path) -> int:
    """Bytes that lack at the end of the file by its own header; 0 where none lack or it is silent.

    It reads MP4 and MOV, Matroska and WebM, AVI and WebP, WMV, Ogg, GIF. Transport streams, FLV and
    raw streams say nothing about their end.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(16)
        for magic, at, end_of in _FORMS:
            if head[at : at + len(magic)] == magic:
                file.seek(0)
                return max(0, end_of(file, size) - size)
    return 0


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """MP4: boxes with their size first. ISO/IEC 14496-12, 4.2."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8 or head[4:8] not in _BOXES:
            return size  # a box to the end of the file, or something after the last box
        at += length
    return at


def _end_of_segment(file: BinaryIO, size: int) -> int:
    """Matroska: an EBML header, then the segment. RFC 8794, section 6; RFC 9559."""
    at = 0
    for identity in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):
        file.seek(at)
        head = file.read(12).ljust(12, b"\0")
        if head[:4] != identity or not head[4]:
            return size
        width = 9 - head[4].bit_length()  # the first byte tells how many there are
        length = int.from_bytes(head[4 : 4 + width], "big") - (1 << 7 * width)
        if length == (1 << 7 * width) - 1:
            return size  # a live stream: unknown
        at += 4 + width + length
    return at


def _end_of_riff(file: BinaryIO, size: int) -> int:
    """AVI and WebP: one RIFF chunk, or several. RFC 9649, 2.2; OpenDML 1.02."""
    at = 0
    while at + 12 <= size:
        file.seek(at)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or length in (0, 2**32 - 1):
            return size  # something after the last chunk, or a writer that was interrupted
        at += 8 + length
    return at - _SLOPPY_BYTES


def _end_of_asf(file: BinaryIO, size: int) -> int:
    """WMV: the size in the file properties, unless it was broadcast. ASF 1.2, 3.2."""
    head = file.read(1 << 16)
    at = head.find(_ASF_FILE)
    if at < 0 or len(head) < at + 92 or head[at + 88] & 1:
        return size
    return int.from_bytes(head[at + 40 : at + 48], "little")


def _end_of_ogg(file: BinaryIO, size: int) -> int:
    """Ogg: the last page tells its length. RFC 3533, section 6."""
    start = max(0, size - _OGG_PAGE_BYTES)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"OggS\0")
    segments = tail[at + 27 : at + 27 + tail[at + 26]] if 0 <= at < len(tail) - 27 else b""
    return start + at + 27 + len(segments) + sum(segments) if segments else size


def _end_of_gif(file: BinaryIO, size: int) -> int:
    """GIF: a semicolon closes the file; some writers fill up with zeros. GIF89a, 27."""
    file.seek(max(0, size - 1024))
    return size if file.read().rstrip(b"\0\r\n").endswith(b";") else size + 1


_FORMS = (
    *((kind, 4, _end_of_boxes) for kind in (b"ftyp", b"moov", b"mdat", b"wide", b"skip", b"free")),
    (b"\x1a\x45\xdf\xa3", 0, _end_of_segment),
    (b"RIFF", 0, _end_of_riff),
    (_ASF_HEADER, 0, _end_of_asf),
    (b"OggS", 0, _end_of_ogg),
    (b"GIF8", 0, _end_of_gif),
)
