"""Batches of prompts for tiny models: as a processor writes them, and with something changed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from tests.runtime.models import Inputs, batch_of, prompt_of, tiny_llava_15, tiny_next_video
from tests.runtime.qwen import KINDS, TOKEN, TYPE, qwen_inputs, tiny_qwen
from tests.runtime.support import tiny_llava

LAYERS = 4
_PER_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids")
_PLACEHOLDERS = tuple(TOKEN.values())

_text = st.integers(1, 5)
_frames = st.integers(1, 3)
_views = {"next-video": [(30, 30), (50, 100), (100, 40)], "onevision": [(70, 80), (60, 140)]}
"""Height and width of images: cut into one tile, or two."""


@dataclass(frozen=True, repr=False)
class Batch:
    """Prompts for a model of ``family``.

    Args:
        attention: of the LLM.
        changed: what was changed, in order; () for a batch as the processor writes it.
        embedded: whether the model gets embeddings in place of ids.
    """

    family: str
    attention: str
    inputs: Inputs
    changed: tuple[str, ...] = ()
    embedded: bool = False

    @property
    def call(self) -> Inputs:
        """The arguments of the model."""
        if not self.embedded:
            return self.inputs
        embeds = _model(self.family).get_input_embeddings()(self.inputs["input_ids"])
        rest = {name: value for name, value in self.inputs.items() if name != "input_ids"}
        return {"inputs_embeds": embeds} | rest

    @property
    def model(self) -> PreTrainedModel:
        model = _model(self.family)
        model.set_attn_implementation(self.attention)
        return model

    def __repr__(self) -> str:
        shown = [
            f"{name}={value.tolist() if value.numel() < 300 else list(value.shape)}"
            for name, value in self.inputs.items()
        ]
        head = f"{self.family}, {self.attention}, {self.changed}, {self.embedded}"
        return f"Batch({head}, {', '.join(shown)})"


_BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "llava-1.5": partial(tiny_llava_15, LAYERS),
    "next-video": partial(tiny_next_video, LAYERS),
    "onevision": partial(tiny_llava, LAYERS, vision_layers=3),
    # towers whose last block has no windows, so that its attention can be read
    **{kind: partial(tiny_qwen, kind, layers=LAYERS, full=(0, 2)) for kind in KINDS},
}
_model = lru_cache(lambda family: _BUILDERS[family]())


@st.composite
def _row(draw: st.DrawFn, family: str, frames: int) -> list[object]:
    """Text, images and videos in any order; text at the end."""
    if family == "llava-1.5":
        visual = st.just("image")
    elif family in KINDS:
        visual = st.sampled_from([(4, 4), (4, 6), (2, 2), (frames, 4, 4), (2, 2, 6)])
    else:
        visual = st.sampled_from([*_views[family], f"video {frames}", f"video {frames}"])
    parts = draw(st.lists(st.one_of(visual, _text), max_size=4))
    return [*parts, draw(_text)]


@st.composite
def written(draw: st.DrawFn) -> Batch:
    """A batch as the processor of a family writes it."""
    family = draw(st.sampled_from([*_BUILDERS]))
    frames = draw(_frames)
    rows = draw(st.lists(_row(family, frames), min_size=1, max_size=3))
    seed = draw(st.integers(0, 99))
    if family in KINDS:
        inputs: Inputs = qwen_inputs(family, *rows, seed=seed)
    else:
        model = _model(family)
        inputs = batch_of([prompt_of(model, row, seed + i) for i, row in enumerate(rows)])
    if draw(st.booleans()) and bool(inputs["attention_mask"].all()):
        del inputs["attention_mask"]
    return Batch(family, draw(st.sampled_from(["sdpa", "eager"])), inputs)


def _per_token(inputs: Inputs) -> list[str]:
    """The inputs with an entry for each token."""
    shape = inputs["input_ids"].shape
    return [name for name in _PER_TOKEN if name in inputs and inputs[name].shape == shape]


def _place(draw: st.DrawFn, inputs: Inputs) -> tuple[int, int]:
    """A row and a place in it: any, the first, the last, or beside a placeholder."""
    rows, tokens = inputs["input_ids"].shape
    row = draw(st.integers(0, rows - 1))
    visual = torch.isin(inputs["input_ids"][row], torch.tensor(_PLACEHOLDERS)).nonzero()[:, 0]
    near = sorted({p for v in visual.tolist() for p in (v - 1, v, v + 1) if 0 <= p < tokens})
    edges = [0, tokens - 1, *near]
    return row, draw(st.one_of(st.sampled_from(edges), st.integers(0, tokens - 1)))


def _with_ids(inputs: Inputs, ids: Tensor, told: bool) -> Inputs:
    """Other ids; ``told``: and the types that fit them."""
    changed = inputs | {"input_ids": ids}
    if told and "mm_token_type_ids" in inputs:
        types = [TYPE[name] * (ids == token) for name, token in TOKEN.items()]
        changed["mm_token_type_ids"] = torch.stack(types).sum(dim=0)
    return changed


def _replaced(draw: st.DrawFn, inputs: Inputs) -> Inputs:
    """Other tokens at one to three places."""
    ids = inputs["input_ids"].clone()
    for _ in range(draw(st.integers(1, 3))):
        ids[_place(draw, inputs)] = draw(st.sampled_from([*_PLACEHOLDERS, 7]))
    return _with_ids(inputs, ids, draw(st.booleans()))


def _exchanged(draw: st.DrawFn, inputs: Inputs) -> Inputs:
    """Two tokens, whose numbers in the batch stay."""
    ids = inputs["input_ids"].clone()
    one, other = _place(draw, inputs), _place(draw, inputs)
    ids[one], ids[other] = ids[other].clone(), ids[one].clone()
    return _with_ids(inputs, ids, draw(st.booleans()))


def _turned(draw: st.DrawFn, inputs: Inputs) -> Inputs:
    """A row that begins elsewhere."""
    ids = inputs["input_ids"].clone()
    row, place = _place(draw, inputs)
    ids[row] = ids[row].roll(place)
    return _with_ids(inputs, ids, draw(st.booleans()))


def _moved(draw: st.DrawFn, inputs: Inputs) -> Inputs:
    """Some tokens of a row, or a run of equal ones, stand elsewhere in it: a video in an image."""
    ids = inputs["input_ids"].clone()
    row, start = _place(draw, inputs)
    equal = int((ids[row, start:] == ids[row, start]).cummin(dim=0).values.sum())
    part = ids[row, start : start + draw(st.just(equal) | st.integers(1, 12))]
    rest = torch.cat([ids[row, :start], ids[row, start + len(part) :]])
    into = draw(st.integers(0, len(rest)))
    ids[row] = torch.cat([rest[:into], part, rest[into:]])
    return _with_ids(inputs, ids, draw(st.booleans()))


def _cut(draw: st.DrawFn, inputs: Inputs) -> Inputs:
    """A column of the batch less, or one of its inputs shorter."""
    names = _per_token(inputs)
    if inputs["input_ids"].shape[1] < 2:
        return inputs
    _, place = _place(draw, inputs)
    names = draw(st.sampled_from([names, names, names[-1:]]))
    return inputs | {
        name: torch.cat([inputs[name][:, :place], inputs[name][:, place + 1 :]], dim=1)
        for name in names
    }


def _rows_exchanged(draw: st.DrawFn, inputs: Inputs) -> Inputs:
    """Rows in another order than their pixels."""
    order = draw(st.permutations(range(len(inputs["input_ids"]))))
    return inputs | {name: inputs[name][order] for name in _per_token(inputs)}


def _masked(draw: st.DrawFn, inputs: Inputs) -> Inputs:
    """Zeros in the mask, more padding or less."""
    mask = torch.ones_like(inputs["input_ids"])
    if "attention_mask" in _per_token(inputs):
        mask = inputs["attention_mask"].clone()
    row, place = _place(draw, inputs)
    match draw(st.integers(0, 4)):
        case 0:
            mask[row, place] = 0 if mask[row, place] else 1
        case 1:
            mask[row, :place] = 0
        case 2:
            mask[row, place:] = 0
        case 3:
            mask[row] = draw(st.integers(0, 1))
        case 4:
            mask[:] = 1
    kind = draw(st.sampled_from([torch.int64, torch.int64, torch.bool, torch.float32]))
    return inputs | {"attention_mask": mask.to(kind)}


def _padded(draw: st.DrawFn, inputs: Inputs) -> Inputs:
    """More columns of padding, on either side."""
    inputs = {"attention_mask": torch.ones_like(inputs["input_ids"])} | inputs
    number = draw(st.integers(1, 4))
    sides = draw(st.sampled_from([(number, 0), (0, number)]))
    return inputs | {
        name: functional.pad(inputs[name], sides) for name in _PER_TOKEN if name in inputs
    }


def _less(draw: st.DrawFn, inputs: Inputs) -> Inputs:
    """An input less, or its first or last entry, or that twice."""
    names = [name for name in inputs if name != "input_ids"]
    if not names:
        return inputs
    name = draw(st.sampled_from(names))
    given = inputs[name]
    match draw(st.integers(0, 3)):
        case 0:
            return {other: value for other, value in inputs.items() if other != name}
        case 1:
            return inputs | {name: given[1:]}
        case 2:
            return inputs | {name: given[:-1]}
    return inputs | {name: torch.cat([given, given[-1:]])}


CHANGES = {
    change.__name__[1:]: change
    for change in (
        _replaced, _exchanged, _turned, _moved, _moved, _cut, _rows_exchanged, _masked, _padded,
        _less,
    )
}  # fmt: skip


@st.composite
def changed(draw: st.DrawFn) -> Batch:
    """A batch with one to three changes; now and then as embeddings."""
    batch = draw(written())
    names = draw(st.lists(st.sampled_from([*CHANGES]), min_size=1, max_size=3))
    inputs = dict(batch.inputs)
    for name in names:
        inputs = CHANGES[name](draw, inputs)
    # of embeddings, Qwen takes the positions from the prompt before
    embedded = batch.family not in KINDS and draw(st.integers(0, 12)) == 7
    return Batch(batch.family, batch.attention, inputs, tuple(names), embedded)
