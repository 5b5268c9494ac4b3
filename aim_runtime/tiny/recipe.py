"""Recipe: all that a training depends on, except the seed and the versions."""

from dataclasses import dataclass, field

from aim_runtime.tiny.scenes import FRAME_SIZE


@dataclass(frozen=True)
class Recipe:
    """Args:
    frame_size: pixels of the sides of a frame.
    start: the shipped model whose weights it begins with; None begins at random.
    vision_steps, vision_frames: of the first stage; the ramp ends after ``ramp_steps``.
    clips, clip_frames: of the pool whose features the second stage draws from.
    stages: (steps, fewest and most frames of a clip) of the second stage.
    questions: after each clip; kind_weights, how often each kind is asked.
    save_every: steps between states on disk.
    """

    frame_size: int = FRAME_SIZE
    start: str | None = None
    vision_steps: int = 2400
    vision_frames: int = 64
    ramp_steps: int = 600
    vision_lr: float = 3e-3
    clips: int = 4000
    clip_frames: int = 12
    stages: tuple[tuple[int, int, int], ...] = ((150, 2, 3), (250, 2, 6), (500, 6, 8))
    batch: int = 32
    questions: int = 14
    kind_weights: dict[str, float] = field(
        default_factory=lambda: {
            "digit_of_color": 2.0,
            "color_of_digit": 1.0,
            "place_of_digit": 3.0,
            "exists": 1.0,
            "first_last": 2.0,
            "count_color": 2.0,
        }
    )
    muon_lr: float = 4e-3
    adam_lr: float = 1.5e-3
    save_every: int = 100
    validation_clips: int = 250

    @property
    def answer_steps(self) -> int:
        return sum(steps for steps, _, _ in self.stages)


RECIPES = {
    "tiny": Recipe(),
    "tiny-36": Recipe(
        frame_size=48,
        start="tiny",
        vision_steps=400,
        ramp_steps=1,
        vision_lr=1e-3,
        clips=3000,
        stages=((300, 6, 8),),
        muon_lr=2e-3,
        adam_lr=7e-4,
        save_every=50,
        validation_clips=100,
    ),
}
"""By the name of the shipped model: 16 and 36 visual tokens a frame."""
