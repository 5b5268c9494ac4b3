"""Write a short video for the demo: shapes and a counter move over a gradient.

Usage: python benchmarks/make_clip.py [FILE] [--frames N] [--seed N]
"""

import argparse
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, FRAMES_PER_S = 384, 288, 12
SHAPES = 6


def make_clip(path: Path, frames: int = 48, seed: int = 0) -> None:
    """Write ``frames`` frames as MPEG-4; the same arguments draw the same pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FRAMES_PER_S)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 400_000
        stream.codec_context.time_base = Fraction(1, FRAMES_PER_S)
        for picture in _pictures(frames, seed):
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())


def _pictures(frames: int, seed: int):
    rng = np.random.default_rng(seed)
    area = np.array([WIDTH, HEIGHT])
    position = rng.uniform(0, area, (SHAPES, 2))
    velocity = rng.uniform(-9, 9, (SHAPES, 2))
    radius = rng.integers(16, 40, SHAPES)
    colour = [tuple(int(c) for c in rgb) for rgb in rng.integers(64, 256, (SHAPES, 3))]
    font = ImageFont.load_default(size=44)
    ramp = np.linspace(0, 90, WIDTH, dtype=np.uint8)
    background = Image.fromarray(np.repeat(np.tile(ramp, (HEIGHT, 1))[..., None], 3, axis=2))
    for index in range(frames):
        picture = background.copy()
        draw = ImageDraw.Draw(picture)
        for shape, (x, y) in enumerate(position):
            box = (x - radius[shape], y - radius[shape], x + radius[shape], y + radius[shape])
            (draw.ellipse if shape % 2 else draw.rectangle)(box, fill=colour[shape])
        draw.text((16, 12), f"{index:02d}", font=font, fill="white")
        yield picture
        position += velocity
        velocity = np.where((position < 0) | (position > area), -velocity, velocity)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=Path("demo/clip.mp4"))
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    make_clip(chosen.file, chosen.frames, chosen.seed)
    print(f"{chosen.file}: {chosen.frames} frames, {chosen.file.stat().st_size} bytes")
