"""Pictures and animations, from files and from lmms-eval: every kind becomes upright RGB."""

import io

import numpy as np
import pytest
from PIL import Image, features

from aim_runtime.errors import InputError
from aim_runtime.lmms_eval.arguments import Arguments
from aim_runtime.prompts.video import sample_frames, sample_video
from aim_runtime.videos.picture import picture_of_image
from tests.runtime.clips import SIZE, corners, grey, levels, save_gif, textured

WIDTH, HEIGHT = SIZE


def save(path, image, **options):
    image.save(path, **options)
    return path


def half_transparent(colour=(200, 0, 0)):
    """The lower half has an alpha of 64, the upper one of 255."""
    picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    picture[..., :3] = colour
    picture[: HEIGHT // 2, :, 3], picture[HEIGHT // 2 :, :, 3] = 255, 64
    return Image.fromarray(picture)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.jpg", "a.webp"])
def test_a_picture_is_a_video_of_one_frame(tmp_path, name):
    options = {"quality": 100} if name == "a.jpg" else {"lossless": True} if "webp" in name else {}
    path = save(tmp_path / name, Image.fromarray(corners()), **options)
    video = sample_video(path, 1)
    assert np.abs(video.frames[0].astype(int) - corners()).max() <= (8 if name == "a.jpg" else 0)
    assert video.times_s == (0,)
    assert np.array_equal(sample_frames(path, 8, fewer=True), video.frames)
    with pytest.raises(InputError, match="at least 2 frames, got 1 frames"):
        sample_frames(path, 2)


def test_the_name_does_not_tell_what_a_file_is(tmp_path):
    path = save(tmp_path / "a.mp4", Image.fromarray(corners()), format="PNG")
    assert np.array_equal(sample_frames(path, 1)[0], corners())


LEVELS = [40, 100, 160, 220]
MODES = {
    "1": ([0, 0, 255, 255], lambda grey: grey.point(lambda v: 255 * (v > 130)).convert("1")),
    "L": (LEVELS, lambda grey: grey),
    "P": (LEVELS, lambda grey: grey.convert("P")),
    "I;16": (LEVELS, lambda grey: Image.fromarray(np.uint16(257) * np.asarray(grey))),
    "RGB": (LEVELS, lambda grey: grey.convert("RGB")),
    "CMYK": (LEVELS, lambda grey: grey.convert("RGB").convert("CMYK")),
    "YCbCr": (LEVELS, lambda grey: grey.convert("YCbCr")),
    "HSV": (LEVELS, lambda grey: grey.convert("RGB").convert("HSV")),
    "RGBA": (LEVELS, lambda grey: grey.convert("RGBA")),
    "LA": (LEVELS, lambda grey: grey.convert("LA")),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pixels(mode):
    expected, convert = MODES[mode]
    image = convert(Image.fromarray(corners()[..., 0]))
    assert image.mode == mode
    picture = picture_of_image(image, "a picture")
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == np.uint8
    found = [picture[y, x] for y in (5, -5) for x in (5, -5)]
    assert np.abs(np.array(found, int) - np.array(expected)[:, None]).max() <= 1


def test_sixteen_bits_of_grey(tmp_path):
    """Pillow's own conversion would cut them off at 255."""
    ramp = np.linspace(0, 65535, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)
    for name in ("a.png", "a.tif"):
        path = save(tmp_path / name, Image.fromarray(ramp))
        (frame,) = sample_frames(path, 1)
        assert np.abs(frame.astype(float) - ramp[..., None] / 257).max() <= 0.51
    for kind, mode in ((np.int32, "I"), (np.float32, "F")):
        with pytest.raises(InputError, match=f"8 or 16 bits a channel, got mode {mode}"):
            sample_frames(save(tmp_path / "a.tif", Image.fromarray(ramp.astype(kind))), 1)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "colour key"])
def test_transparency_lies_on_white(tmp_path, kind):
    image, colour, share = half_transparent(), (200, 0, 0), 64 / 255
    options = {}
    if kind == "LA":
        image, colour = half_transparent((90, 90, 90)).convert("LA"), (90, 90, 90)
    elif kind == "palette":
        image = image.quantize(colors=8, method=Image.Quantize.FASTOCTREE)
    elif kind == "colour key":
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        picture[..., 0] = 200
        picture[HEIGHT // 2 :] = 7, 8, 9
        image, options, share = Image.fromarray(picture), {"transparency": (7, 8, 9)}, 0
    path = save(tmp_path / "a.png", image, **options)
    (frame,) = sample_frames(path, 1)
    mixed = [share * part + 255 * (1 - share) for part in colour]
    assert np.abs(frame[5, 5].astype(int) - colour).max() <= 1
    assert np.abs(frame[-5, 5] - mixed).max() <= 1


def test_a_cmyk_photo(tmp_path):
    """Adobe's JPEGs hold CMYK inverted."""
    image = Image.fromarray(corners()).convert("CMYK")
    (frame,) = sample_frames(save(tmp_path / "a.jpg", image, quality=95), 1)
    assert np.abs(frame.astype(int) - corners())[::7, ::7].mean() < 3


def test_several_pictures_in_a_jpeg(tmp_path):
    """Phones add a depth map or a gain map; the first picture is meant."""
    first, second = Image.fromarray(corners()), Image.fromarray(grey(9, (32, 24)))
    path = save(tmp_path / "a.mpo", first, append_images=[second], save_all=True, format="MPO")
    with Image.open(path) as image:
        assert image.n_frames == 2
    frames = sample_frames(path, 5, fewer=True)
    assert frames.shape == (1, HEIGHT, WIDTH, 3)


def test_pages_are_no_frames(tmp_path):
    pages = [Image.fromarray(grey(index)) for index in range(3)]
    path = save(tmp_path / "a.tif", pages[0], save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="got a TIFF of 3 pages"):
        sample_frames(path, 1)


def test_the_preview_of_a_raw_photo_is_not_the_photo(tmp_path):
    path = save(tmp_path / "a.nef", Image.fromarray(corners()), format="TIFF", tiffinfo={254: 1})
    with pytest.raises(InputError, match="got a raw photo with a preview"):
        sample_frames(path, 1)


def test_a_picture_in_a_document_is_no_video(tmp_path):
    for name in ("a.pdf", "a.doc"):
        path = save(tmp_path / name, Image.fromarray(textured(1, (256, 256))), format="PDF")
        with pytest.raises(InputError, match=name):
            sample_frames(path, 1)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.avif"])
def test_an_animation_is_a_video(tmp_path, name):
    if name == "a.avif" and not features.check("avif"):
        pytest.skip("this Pillow does not read AVIF")
    pictures = [grey(index) for index in range(0, 40, 4)]
    options = {"a.webp": {"lossless": True}, "a.avif": {"quality": 95}}.get(name, {})
    path = save_gif(tmp_path / name, pictures, [50] * 8 + [450, 50], **options)
    video = sample_video(path, 3)
    assert levels(video.frames) == [0, 16, 36] or levels(video.frames) == [0, 32, 36]
    every = sample_video(path, 10)
    assert levels(every.frames) == list(range(0, 40, 4))
    assert every.times_s == pytest.approx([0.05 * k for k in range(9)] + [0.85])


def test_a_transparent_animation_lies_on_white(tmp_path):
    """Each frame replaces the one before it, which shows through nowhere."""
    frames = []
    for index in range(3):
        picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        picture[:, 20 * index : 20 * index + 20] = 200, 0, 0, 255
        frames.append(Image.fromarray(picture))
    for name in ("a.gif", "a.png", "a.webp"):
        options = {"lossless": True, "kmin": 0, "kmax": 1} if "webp" in name else {}
        path = tmp_path / name
        frames[0].save(
            path, save_all=True, append_images=frames[1:], duration=100, disposal=2, **options
        )
        for index, frame in enumerate(sample_frames(path, 3)):
            bar = frame[10, 20 * index + 10].astype(int)
            assert np.abs(bar - (200, 0, 0)).max() <= 1
            beside = frame[10, (20 * index + 30) % 60]
            assert beside.min() == 255


def test_an_animation_with_a_picture_for_others(tmp_path):
    """The first picture of a PNG may be one for programs that do not know animations."""
    frames = [Image.fromarray(grey(index)) for index in (50, 1, 2, 3)]
    path = tmp_path / "a.png"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, default_image=True)
    assert levels(sample_frames(path, 9, fewer=True)) == [1, 2, 3]


def test_delays_of_nothing(tmp_path):
    path = save_gif(tmp_path / "a.gif", [grey(index) for index in range(5)], 0)
    assert levels(sample_frames(path, 3)) == [0, 2, 4]


def test_a_broken_picture(tmp_path):
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.tif"):
        path = save(tmp_path / name, Image.fromarray(corners()))
        content = path.read_bytes()
        for share in (0.2, 0.6):
            path.write_bytes(content[: int(share * len(content))])
            with pytest.raises(InputError, match=name):
                sample_frames(path, 1)


def test_a_picture_that_pillow_does_not_read(tmp_path):
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6\n8 8\n255\n" + bytes(192))
    with pytest.raises(InputError, match=r"a picture that Pillow cannot read|PNG"):
        sample_frames(path, 1)


def test_images_of_a_document_are_read_as_files_are():
    document_frames = pytest.importorskip("aim_runtime.lmms_eval.visuals").document_frames
    arguments = Arguments("x", max_frames=3, images_as_frames=True)
    jpeg, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(corners()).save(jpeg, "JPEG", exif=exif, quality=95)
    ramp = Image.fromarray(np.full((WIDTH, HEIGHT), 25700, np.uint16))
    visuals = [Image.open(jpeg), ramp, half_transparent()]
    frames = document_frames(visuals, arguments, "moves, document 0")
    assert frames.shape == (3, WIDTH, HEIGHT, 3)  # the first is held upright
    assert np.abs(frames[0, 5, 5].astype(int) - 160).max() < 5
    assert (frames[1] == 100).all()
    assert np.abs(frames[2, -5, 5].astype(int) - (241, 191, 191)).max() <= 1
    with pytest.raises(InputError, match=r"moves, document 0: .*mode F"):
        document_frames([Image.new("F", (4, 4))], arguments, "moves, document 0")
