"""The tiny model's data and training, looked at more closely than in test_tiny."""

import json
import sys
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from aim_cost.schedules.prune import Prune
from aim_cost.schedules.vision_merge import VisionMerge

pytest.importorskip("sklearn", reason="the tiny model needs the extra tiny (scikit-learn)")

from aim_cost import Schedule
from aim_cost.imports import MissingLibraryError
from aim_runtime import patched
from aim_runtime.cli.main import main
from aim_runtime.errors import LoadError
from aim_runtime.tiny import checkpoint, digits, train, train_answers, train_vision
from aim_runtime.tiny.checkpoint import load_tiny
from aim_runtime.tiny.digits import SPLITS
from aim_runtime.tiny.exam import Exam, answered, encode, encoded_by, right_answers
from aim_runtime.tiny.heads import Heads
from aim_runtime.tiny.model import (
    frame_features,
    frame_tokens,
    new_model,
    start_with,
)
from aim_runtime.tiny.prompts import prompt_ids
from aim_runtime.tiny.questions import KINDS, VOCABULARY, ask, can_ask
from aim_runtime.tiny.recipe import RECIPES, Recipe
from aim_runtime.tiny.run import CURVE_FILE, STATE_FILE
from aim_runtime.tiny.scenes import COLORS, NOTHING, PLACES, draw_clips, draw_mosaics

SHORT = Recipe(
    vision_steps=4,
    vision_frames=4,
    ramp_steps=2,
    clips=6,
    clip_frames=4,
    stages=((2, 2, 3), (3, 3, 4)),
    batch=2,
    questions=3,
    save_every=2,
    validation_clips=2,
)


def test_splits_share_no_scan(monkeypatch):
    # a scan of one grey, its number; bending and scaling leave the middle as it is
    count = 1797
    images = np.ones((count, 8, 8)) * np.arange(count)[:, None, None] / count * 16
    data = SimpleNamespace(images=images, target=np.zeros(count, int))
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: data)
    drawn = {}
    for split in SPLITS:
        ink = digits.glyphs.__wrapped__(split).ink[:, -1, 8, 8]
        drawn[split] = set(np.rint(ink * count).astype(int).tolist())
    assert [len(drawn[split]) for split in SPLITS] == [1197, 200, 400]
    assert set.union(*drawn.values()) == set(range(count))


def test_splits_share_no_column_of_a_photograph(monkeypatch):
    width = 200
    image = np.broadcast_to(np.arange(width)[None, :, None], (40, width, 3))
    monkeypatch.setattr("sklearn.datasets.load_sample_image", lambda name: image)
    strips = [digits.photographs.__wrapped__(split)[0] for split in SPLITS]
    assert all(before.max() < after.min() for before, after in pairwise(strips))


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for load in (digits.glyphs, digits.photographs):
        with pytest.raises(MissingLibraryError, match=r"pip install 'aim-efficiency\[tiny\]'"):
            load.__wrapped__("test")


SIZES = pytest.mark.parametrize("size", [recipe.frame_size for recipe in RECIPES.values()])


@SIZES
@pytest.mark.parametrize("split", SPLITS)
def test_a_clip_shows_what_it_says(split, size):
    clips = draw_clips(split, 4, 8, np.random.default_rng(3), size=size, difficulty=0.0)
    light = (clips.pixels + 1) / 2  # on black: whatever is light is ink
    quadrants = (
        light.reshape(4, 8, 3, 2, size // 2, 2, size // 2).sum(axis=(4, 6)).reshape(4, 8, 3, 4)
    )
    shown = quadrants.sum(axis=2) > 0
    expected = clips.place[..., None] == np.arange(len(PLACES))
    assert (shown == expected).all()
    assert (clips.place == NOTHING).sum() == (clips.digit == NOTHING).sum() > 0
    ink = quadrants.sum(axis=3)[clips.color != NOTHING]
    palette = np.array(tuple(COLORS.values()))
    hue = ink / ink.max(axis=1, keepdims=True)
    nearest = np.abs(hue[:, None] - palette).sum(axis=2).argmin(axis=1)
    assert (nearest == clips.color[clips.color != NOTHING]).all()


@SIZES
def test_a_mosaic_shows_what_it_says(size):
    frames = draw_mosaics("train", 16, np.random.default_rng(4), size=size, difficulty=0.0)
    light = (frames.pixels + 1) / 2
    light = light.reshape(16, 3, 2, size // 2, 2, size // 2).sum(axis=(1, 3, 5))
    assert ((light.reshape(16, 4) > 0) == (frames.digit != NOTHING)).all()


SHOWN = st.tuples(st.integers(0, 9), st.integers(0, 5), st.integers(0, 3))


@given(st.lists(st.none() | SHOWN, min_size=1, max_size=12), st.sampled_from(list(KINDS)))
def test_a_question_has_one_answer(frames, kind):
    """A second way to every answer: from the words, frame by frame."""
    facts = [np.array([NOTHING if f is None else f[i] for f in frames]) for i in range(3)]
    assume(can_ask(kind, facts[0], facts[1]))
    seed = len([f for f in frames if f])
    words, answer = ask(kind, *facts, np.random.default_rng(seed))
    text, said = [VOCABULARY[word] for word in words], VOCABULARY[answer]
    assert len(text) == 5
    shown = [(str(f[0]), list(COLORS)[f[1]], PLACES[f[2]]) for f in frames if f is not None]
    match text:
        case ["what", "digit", "is", "first", "?"]:
            right = {shown[0][0]}
        case ["what", "digit", "is", "last", "?"]:
            right = {shown[-1][0]}
        case ["what", "digit", "is", color, "?"]:
            right = {d for d, c, _ in shown if c == color}
        case ["what", "color", "is", digit, "?"]:
            right = {c for d, c, _ in shown if d == digit}
        case ["what", "place", "is", digit, "?"]:
            right = {p for d, _, p in shown if d == digit}
        case ["is", "there", "a", digit, "?"]:
            right = {"yes" if any(d == digit for d, _, _ in shown) else "no"}
        case ["how", "many", color, "digits", "?"]:
            right = {str(len([c for _, c, _ in shown if c == color]))}
    assert right == {said}


def test_nothing_is_missing_where_all_digits_are_shown():
    every = np.arange(10)
    assert not can_ask("exists", every, every % len(COLORS))
    assert can_ask("exists", every[1:], every[1:] % len(COLORS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights and the curve of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with torch.enable_grad():
        weights = train.train(1, folder, SHORT).state_dict()
    return weights, _curve(folder)


def _curve(folder):
    return json.loads((folder / CURVE_FILE).read_text())["curve"]


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("steps", [3, 7], ids=["vision", "answers"])
def test_a_killed_training_ends_as_one_that_was_not(monkeypatch, tmp_path, whole, steps):
    """Killed between two saves, in either stage: the same weights and the same curve."""
    taken = 0
    step = train_vision.step_with

    def dies(*args):
        nonlocal taken
        taken += 1
        if taken > steps:
            raise _Killed
        step(*args)

    with torch.enable_grad():
        with monkeypatch.context() as dying:
            for stage in (train_vision, train_answers):
                dying.setattr(stage, "step_with", dies)
            with pytest.raises(_Killed):
                train.train(1, tmp_path, SHORT)
        resumed = train.train(1, tmp_path, SHORT).state_dict()
    weights, curve = whole
    assert all(torch.equal(x, resumed[name]) for name, x in weights.items())
    assert _curve(tmp_path) == curve
    assert [row["step"] for row in curve] == [2, 4, 2, 4, 5]


def test_a_finished_training_is_not_done_again(monkeypatch, tmp_path):
    recipe = replace(SHORT, vision_steps=1, stages=((1, 2, 2),))
    with torch.enable_grad():
        first = train.train(0, tmp_path, recipe)
        for stage in (train_vision, train_answers):
            monkeypatch.setattr(stage, "step_with", lambda *args: pytest.fail("trained again"))
        again = train.train(0, tmp_path, recipe)
    assert all(torch.equal(x, again.state_dict()[n]) for n, x in first.state_dict().items())


def test_the_state_of_another_training_is_refused(tmp_path):
    recipe = replace(SHORT, vision_steps=1, stages=())
    with torch.enable_grad():
        train.train(0, tmp_path, recipe)
    for seed, other, named in ((1, recipe, "seed"), (0, replace(recipe, batch=9), "recipe")):
        with pytest.raises(LoadError, match=f"of another {named}"):
            train.train(seed, tmp_path, other)
    (tmp_path / STATE_FILE).write_bytes(b"no tensors")
    with pytest.raises(LoadError, match="cannot be read"):
        train.train(0, tmp_path, recipe)


def test_a_model_of_larger_frames_starts_with_the_weights_of_the_smaller_one():
    """All of them, its places in a frame between theirs; and its quadrants are told apart."""
    small, large = load_tiny(), new_model(0, 48)
    start_with(large, small)
    places = {}
    for model in (small, large):
        weights = model.state_dict()
        places[model] = weights.pop(next(n for n in weights if "position_embedding" in n))
        places[model] = places[model].unflatten(0, (int(len(places[model]) ** 0.5), -1))
        assert all(torch.equal(x, small.state_dict()[n]) for n, x in weights.items())
    # the middle of every three places lies between the two that they replace
    threes = places[large][1::3, 1::3]
    twos = places[small].unflatten(0, (4, 2)).unflatten(2, (4, 2)).mean(dim=(1, 3))
    torch.testing.assert_close(threes, twos)
    tokens = frame_features(large, torch.randn(2, 3, 48, 48))
    assert tokens.shape == (2, frame_tokens(large), 96) == (2, 36, 96)


@pytest.mark.parametrize("tokens", [16, 36])
def test_heads_look_for_a_digit_where_it_is(tokens):
    """One token lit in each quadrant in turn: the loss is lowest for the label of that place."""
    heads, side = Heads(12, 0), int(tokens**0.5)
    with torch.no_grad():
        heads.digit.weight.copy_(20 * torch.eye(11, 12))
    for place in range(4):
        row, column = divmod(place, 2)
        lit = torch.zeros(1, side, side, 12)
        lit[..., 10] = 1  # no digit
        half = side // 2
        quadrant = lit[:, row * half : (row + 1) * half, column * half : (column + 1) * half]
        quadrant[..., 10], quadrant[..., 3] = 0, 1
        label = torch.full((1, 4), 10)
        label[0, place] = 3
        _, right = heads.losses(lit.flatten(1, 2), label, torch.zeros(1, 4, dtype=torch.long))
        assert right == 1


def test_the_command_trains_and_saves(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(checkpoint, "_VALIDATION_CLIPS", 4)
    recipe = replace(SHORT, vision_steps=1, stages=((1, 2, 2),))
    monkeypatch.setitem(RECIPES, "tiny-36", recipe)
    command = f"aim-runtime tiny train --model tiny-36 --seed 2 --out {tmp_path} --format json"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as end, torch.enable_grad():
        main()
    printed = capfd.readouterr()
    assert not end.value.code, printed.err
    row = json.loads(printed.out)[0]
    assert (row["model"], row["seed"]) == ("tiny-36", 2) and set(KINDS) < set(row)
    assert load_tiny(tmp_path)
    told = json.loads((tmp_path / "card.json").read_text())["command"]
    assert told == "aim-runtime tiny train --model tiny-36 --seed 2"


_MERGED = ("none", "merge 0.5", "merge 0.25 positions=kept")
_SAMPLED = [("sample 2, merge 0.5", VisionMerge(12)), ("sample 1", None)]
_ENCODED = [(before, vision) for before in _MERGED for vision in (None, VisionMerge(12))]


@pytest.mark.parametrize("prune", [None, Prune(linear=(2, 6))])
@pytest.mark.parametrize(
    ("before", "vision_merge"), [*_ENCODED, ("select 0.25 score=vision-attention", None), *_SAMPLED]
)
def test_an_exam_is_answered_as_from_pixels(before, vision_merge, prune):
    """Encoding once changes no answer: the model on pixels marks the exam, patched as well."""
    model, rng, frames = load_tiny(), np.random.default_rng(6), 3
    clips = draw_clips("validation", 8, frames, rng)
    pixels = torch.from_numpy(clips.pixels)
    visual = frames * frame_tokens(model) + 1
    asked = [
        ask("count_color", *(x[clip] for x in (clips.digit, clips.color, clips.place)), rng)[0]
        for clip in range(8)
    ]
    ids = torch.cat([prompt_ids(question, visual) for question in asked])
    schedule = replace(Schedule.parse(before), prune=prune, vision_merge=vision_merge)
    with patched(model, schedule):
        logits = model(input_ids=ids, pixel_values_videos=pixels, logits_to_keep=1).logits
    said = logits[:, -1].argmax(dim=-1)
    assert len(said.unique()) > 1
    patches, attended = encode(model, pixels)
    exam = Exam(pixels, patches, attended, ids, said, ("count_color",) * 8)
    if schedule.vision_merge is not None:
        merged = encoded_by(model, exam, Schedule(vision_merge=schedule.vision_merge))
        assert not torch.allclose(merged.patches, patches, atol=1e-2)
    assert answered(model, exam, schedule)[0].all()
    exam = encoded_by(model, exam, schedule)
    with patched(model, schedule):
        assert right_answers(model, exam, batch=5).all()
        assert not right_answers(model, replace(exam, answers=said + 1)).any()
    # and leaves the model as it was
    again = model(input_ids=ids, pixel_values_videos=pixels, logits_to_keep=1).logits
    assert "forward" not in vars(model.model.vision_tower)
    assert schedule != Schedule() or torch.equal(again, logits)
