"""Colours: matrices, ranges, ten bits, HDR and transparency, by their formulas."""

from fractions import Fraction

import numpy as np
import pytest

from aim_runtime.prompts.video import sample_frames
from aim_runtime.videos.hdr import Transfer, standard_range
from tests.runtime.clips import SIZE, av, grey, levels, textured, write_video

WIDTH, HEIGHT = SIZE
LUMINANCE = {1: (0.2126, 0.0722), 2: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Shares of red and blue by the code of the matrix, ITU-T H.273; 2 is unspecified."""
PQ, HLG = 16, 18


def coded(colour, matrix, full):
    """Y, Cb, Cr of an RGB colour of [0, 255], ITU-T H.273, 8.3."""
    red, green, blue = (part / 255 for part in colour)
    share_r, share_b = LUMINANCE[matrix]
    light = share_r * red + (1 - share_r - share_b) * green + share_b * blue
    chroma = (blue - light) / (2 - 2 * share_b), (red - light) / (2 - 2 * share_r)
    if full:
        return [255 * light] + [128 + 255 * part for part in chroma]
    return [16 + 219 * light] + [128 + 224 * part for part in chroma]


def flat_frame(values, form="yuv420p"):
    frame = av.VideoFrame(*SIZE, form)
    for plane, value in zip(frame.planes, values, strict=True):
        kind = np.uint16 if "10" in form else np.uint8
        plane.update(np.full(plane.buffer_size // kind().itemsize, round(value), kind).tobytes())
    return frame


@pytest.mark.parametrize("matrix", LUMINANCE)
@pytest.mark.parametrize("full", [False, True])
def test_the_matrix_and_the_range_of_the_tags(tmp_path, matrix, full):
    frames = []
    for _ in range(3):
        frame = flat_frame(coded((40, 200, 90), matrix, full))
        frame.colorspace, frame.color_range = matrix, 2 if full else 1
        frames.append(frame)

    def set_up(stream):
        context = stream.codec_context
        context.colorspace, context.color_range = matrix, 2 if full else 1

    path = write_video(tmp_path / "a.mkv", frames, options={"qp": "0"}, set_up=set_up)
    found = sample_frames(path, 2)
    assert np.abs(found.astype(int) - (40, 200, 90)).max() <= 3


@pytest.mark.parametrize("codec", ["libx265", "ffv1", "prores_ks"])
def test_ten_bits_become_eight(tmp_path, codec):
    form = "yuv422p10le" if codec == "prores_ks" else "yuv420p10le"
    pictures = [grey(index) for index in (10, 20, 40)]
    name = "a.mkv" if codec == "ffv1" else "a.mov"
    path = write_video(tmp_path / name, pictures, codec, form=form)
    assert levels(sample_frames(path, 3)) == [10, 20, 40]


def light_of(code, transfer):
    """Light in cd/m2 of a grey of [0, 1], ITU-R BT.2100, tables 4 and 5, written once more."""
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
        root = code ** (1 / m2)
        return 10000 * (max(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = code * code / 3 if code <= 0.5 else (np.exp((code - c) / a) + b) / 12
    return 1000 * scene**1.2


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("code", [0.05, 0.2, 0.38, 0.5, 0.58, 0.75, 1.0])
def test_greys_of_hdr(tmp_path, transfer, code):
    frames = []
    for _ in range(2):
        frame = flat_frame((64 + 876 * code, 512, 512), "yuv420p10le")
        frame.colorspace, frame.color_range = 9, 1
        frame.color_trc, frame.color_primaries = transfer, 9
        frames.append(frame)

    def set_up(stream):
        context = stream.codec_context
        context.colorspace, context.color_range = 9, 1
        context.color_trc, context.color_primaries = transfer, 9

    path = write_video(tmp_path / "a.mkv", frames, "ffv1", form="yuv420p10le", set_up=set_up)
    found = sample_frames(path, 1)
    white = min(light_of(code, transfer) / 203, 1)
    assert np.abs(found.astype(int) - round(255 * white ** (1 / 2.4))).max() <= 4


def test_colours_of_hdr():
    """Red of BT.709, seen from BT.2020, comes back as red; white is reached at 203 cd/m2."""
    bt2020_red = np.array([0.6274, 0.0691, 0.0164])  # ITU-R BT.2087, table 4
    codes = np.linspace(0, 1, 100_001)
    light = np.array([light_of(code, PQ) for code in codes[::100]])
    code_of = np.interp(203 * bt2020_red, light, codes[::100])
    pixel = np.round(65535 * code_of).astype(np.uint16).reshape(1, 1, 3)
    red = standard_range(np.repeat(pixel, 300, axis=0), Transfer.PQ)
    assert red.shape == (300, 1, 3)
    assert (red[:, 0, 0] >= 253).all() and red[..., 1:].max() <= 24
    white = np.full((1, 1, 3), round(65535 * 0.5807), np.uint16)
    assert standard_range(white, Transfer.PQ).min() >= 254


@pytest.mark.parametrize(
    ("name", "codec", "form"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.webm", "libvpx", "yuva420p"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mov", "qtrle", "argb"),
        ("a.mov", "png", "rgba"),
        ("a.mkv", "ffv1", "yuva420p"),
        ("a.mkv", "ffv1", "bgra"),
    ],
)
def test_transparency_lies_on_white(tmp_path, name, codec, form):
    picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    picture[..., 0] = 200
    picture[: HEIGHT // 2, :, 3], picture[HEIGHT // 2 :, :, 3] = 255, 64
    options = {"auto-alt-ref": "0"} if codec.startswith("libvpx") else {}
    path = write_video(tmp_path / name, [picture] * 3, codec, form=form, options=options)
    for frame in sample_frames(path, 3).astype(int):
        assert np.abs(frame[5, 5] - (200, 0, 0)).max() <= 4
        share = Fraction(64, 255)
        mixed = [float(part * share + 255 * (1 - share)) for part in (200, 0, 0)]
        assert np.abs(frame[-5, 5] - mixed).max() <= 4


def test_transparent_videos_are_sought_too(tmp_path):
    pictures = [
        np.dstack([textured(index), np.full((HEIGHT, WIDTH), 4 * index, np.uint8)])
        for index in range(60)
    ]
    path = write_video(
        tmp_path / "a.webm",
        pictures,
        "libvpx-vp9",
        form="yuva420p",
        gop=5,
        options={"auto-alt-ref": "0"},
    )
    every = sample_frames(path, 60)
    assert np.array_equal(sample_frames(path, 3), every[[0, 30, 59]])


def test_an_interlaced_frame_holds_both_its_fields(tmp_path):
    picture = grey(10)
    picture[1::2] = 200
    path = write_video(
        tmp_path / "a.mpg",
        [picture] * 3,
        "mpeg2video",
        rate=25,
        options={"flags": "+ildct+ilme", "qmax": "2"},
    )
    with av.open(str(path)) as file:
        assert next(file.decode(video=0)).interlaced_frame
    (frame,) = sample_frames(path, 1)
    assert np.abs(frame.astype(int) - picture).max() <= 4
