"""Tiny random Qwen2-VL, 2.5-VL and 3-VL, prompts as their processors write them, slow merging."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from aim_cost.models.workload import VisualInput
from tests.runtime.reference import slow_passes_alike
from tests.runtime.support import IMAGE_TOKEN, VIDEO_TOKEN

KINDS = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl")
STAMP = 2  # tokens of a timestamp, before each temporal patch of Qwen3-VL
START, END = 252, 253  # of an image or a video
LAYERS = 4
PATCH = 4  # pixels a side
PATCH_VALUES = 3 * 2 * PATCH**2
TOKEN = {"image": IMAGE_TOKEN, "video": VIDEO_TOKEN}
TYPE = {"image": 1, "video": 2}
SECONDS = 1.5  # between the temporal patches of a video

Part = int | tuple[int, int, int] | tuple[int, int]
Row = Sequence[Part]
"""Parts of a prompt: text tokens, an image (rows, columns), a video (times, rows, columns), both in
patches, of which two by two are a token."""


def tiny_qwen(
    kind: str, seed: int = 0, layers: int = LAYERS, full: tuple[int, ...] = (1,)
) -> PreTrainedModel:
    """A model with grouped heads and, in Qwen2.5-VL, windows of 2 x 2 tokens in its tower.

    Args: full, the blocks of the tower, of three, that have no windows.
    """
    torch.manual_seed(seed)
    text = {
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.15,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 3, 3],
        },
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    tower = {"depth": 3, "num_heads": 2, "patch_size": PATCH, "initializer_range": 0.15}
    if kind == "qwen2-vl":
        own = {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
        config, model = Qwen2VLConfig, Qwen2VLForConditionalGeneration
    elif kind == "qwen3-vl":
        text["head_dim"] = 16
        text["rope_parameters"] |= {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
        own = {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 48}
        own |= {"num_position_embeddings": 36, "deepstack_visual_indexes": [0, 1]}
        config, model = Qwen3VLConfig, Qwen3VLForConditionalGeneration
    else:
        own = {"hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 48}
        own |= {"window_size": 4 * PATCH, "fullatt_block_indexes": [*full], "tokens_per_second": 2}
        config, model = Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    tokens = {"image_token_id": IMAGE_TOKEN, "video_token_id": VIDEO_TOKEN}
    tokens |= {"vision_start_token_id": START, "vision_end_token_id": END}
    fields = {"text_config": text, "vision_config": tower | own, "tie_word_embeddings": False}
    return model(config(**fields, **tokens)).eval()


def grid(part: Part) -> tuple[str, tuple[int, int, int]]:
    """Of an image or a video, which it is and its patches."""
    return ("image", (1, *part)) if len(part) == 2 else ("video", part)


def group(part: Part) -> tuple[int, int]:
    """Groups of an image or a video, and the tokens of each."""
    times, rows, columns = grid(part)[1]
    return times, rows * columns // 4


def kind_of(model: PreTrainedModel) -> str:
    found = {"qwen2_vl": "qwen2-vl", "qwen2_5_vl": "qwen2.5-vl", "qwen3_vl": "qwen3-vl"}
    return found[model.config.model_type]


def pieces(kind: str, row: Row) -> Iterator[int | tuple[Part, int, int]]:
    """What stands in a prompt, in order: text tokens, or a run of placeholders.

    A run is (its image or video, its first group, its groups).
    """
    for part in row:
        if isinstance(part, int):
            yield part
            continue
        groups = group(part)[0]
        apart = kind == "qwen3-vl" and grid(part)[0] == "video"
        for first in range(groups) if apart else (0,):
            yield 1 + STAMP * apart  # the timestamp, and START
            yield part, first, 1 if apart else groups
            yield 1


def qwen_inputs(kind: str, *rows: Row, seed: int = 1) -> dict[str, Tensor]:
    """A batch of prompts, padded on the left, as a processor returns it."""
    generator = torch.Generator().manual_seed(seed)
    ids, types = [], []
    grids: dict[str, list[tuple[int, int, int]]] = {"image": [], "video": []}
    for row in rows:
        tokens: list[int] = []
        kinds: list[int] = []
        for part in row:
            if isinstance(part, int):
                tokens += torch.randint(0, 200, (part,), generator=generator).tolist()
                kinds += [0] * part
                continue
            modality, size = grid(part)
            grids[modality].append(size)
            for one in pieces(kind, [part]):
                if isinstance(one, int):
                    stamp = torch.randint(0, 200, (one - 1,), generator=generator).tolist()
                    tokens += [*stamp, END if tokens[-1:] == [TOKEN[modality]] else START]
                    kinds += [0] * one
                    continue
                count = one[2] * group(part)[1]
                tokens += [TOKEN[modality]] * count
                kinds += [TYPE[modality]] * count
        ids.append(tokens)
        types.append(kinds)
    longest = max(map(len, ids))
    inputs = {
        "input_ids": torch.tensor([[201] * (longest - len(row)) + row for row in ids]),
        "attention_mask": torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in ids]),
        "mm_token_type_ids": torch.tensor([[0] * (longest - len(row)) + row for row in types]),
    }
    for modality, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if grids[modality]:
            sizes = torch.tensor(grids[modality])
            patches = int(sizes.prod(dim=1).sum())
            inputs[pixels] = torch.randn(patches, PATCH_VALUES, generator=generator)
            inputs[f"{modality}_grid_thw"] = sizes
    if grids["video"] and kind == "qwen2.5-vl":
        inputs["second_per_grid_ts"] = torch.full((len(grids["video"]),), SECONDS)
    return inputs


def visual_input(row: Row) -> VisualInput:
    """What a schedule reduces of one prompt."""
    groups: Counter[int] = Counter()
    for part in row:
        if not isinstance(part, int):
            number, tokens = group(part)
            groups[tokens] += number
    largest, *others = sorted(groups.items(), reverse=True) or [(0, 0)]
    return VisualInput(largest[1], largest[0], 0, tuple((n, t) for t, n in others))


def text_tokens(kind: str, row: Row) -> int:
    return sum(piece for piece in pieces(kind, row) if isinstance(piece, int))


def rope_table(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    """Positions [3, B, n] of an unpatched model."""
    names = ("input_ids", "attention_mask", "mm_token_type_ids", "second_per_grid_ts")
    grids = ("image_grid_thw", "video_grid_thw")
    call = {name: inputs[name] for name in names + grids if name in inputs}
    return model.model.get_rope_index(**call)[0]


class Embedded:
    """One prompt as the language model should get it, slowly merged.

    ``embeds`` [n, H], ``visual`` [n], ``positions`` [3, n], ``places`` [n] in the full row;
    ``added`` [levels, n, H], what DeepStack adds.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        row: Row,
        inputs: dict[str, Tensor],
        counts: Callable[[int], tuple[int, ...]],
        by: str = "similarity",
    ) -> None:
        ids = inputs["input_ids"][0]
        table = rope_table(model, inputs)[:, 0]
        features = {name: iter(features_alone(model, inputs, name)) for name in TOKEN}
        embeds = model.get_input_embeddings()(ids)
        stacks = {name: iter(levels_alone(model, inputs, name)) for name in TOKEN}
        tokens: list[Tensor] = []
        added: list[Tensor] = []
        visual: list[bool] = []
        places: list[int] = []
        place = 0
        for piece in pieces(kind_of(model), row):
            if isinstance(piece, int):
                tokens += list(embeds[place : place + piece])
                added += [torch.zeros(())] * piece
                visual += [False] * piece
                places += range(place, place + piece)
                place += piece
                continue
            part, first, number = piece
            if not first:
                item = next(features[grid(part)[0]]).view(*group(part), -1)
                levels = next(stacks[grid(part)[0]])
                levels = levels.view(len(levels), *group(part), levels.shape[-1])
            for index in range(first, first + number):
                frame, others = item[index], levels[:, index]
                merged, where, others = slow_passes_alike(frame, others, counts(len(frame)), by)
                tokens += list(merged)
                added += others.unbind(1)
                visual += [True] * len(merged)
                places += [place + inside for inside in where]
                place += len(frame)
        assert place == len(ids)
        self.embeds, self.visual = torch.stack(tokens), torch.tensor(visual)
        empty = torch.zeros(0 if not any(x.dim() for x in added) else len(levels), embeds.shape[-1])
        self.added = torch.stack([x + empty for x in added], dim=1)
        self.places = torch.tensor(places)
        self.positions = table[:, self.places]


def features_alone(
    model: PreTrainedModel, inputs: dict[str, Tensor], modality: str
) -> list[Tensor]:
    """Of an unpatched model, encoded one by one."""
    sizes = inputs.get(f"{modality}_grid_thw")
    if sizes is None:
        return []
    pixels = inputs["pixel_values" if modality == "image" else "pixel_values_videos"]
    each = pixels.split(sizes.prod(dim=1).tolist())
    encode = getattr(model.model, f"get_{modality}_features")
    return [encode(one, size[None]).pooler_output[0] for one, size in zip(each, sizes, strict=True)]


def levels_alone(model: PreTrainedModel, inputs: dict[str, Tensor], modality: str) -> list[Tensor]:
    """What DeepStack adds of each image or video, encoded one by one: [levels, tokens, H]."""
    sizes = inputs.get(f"{modality}_grid_thw")
    if sizes is None:
        return []
    pixels = inputs["pixel_values" if modality == "image" else "pixel_values_videos"]
    found = []
    for one, size in zip(pixels.split(sizes.prod(dim=1).tolist()), sizes, strict=True):
        output = getattr(model.model, f"get_{modality}_features")(one, size[None])
        levels = getattr(output, "deepstack_features", None)
        if levels is None:
            found.append(torch.empty(0, int(size.prod()) // 4, 64))
            continue
        # one tensor, or those of each item
        found.append(torch.stack([x if isinstance(x, Tensor) else x[0] for x in levels]))
    return found


def short(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The prompt [3, (3, 6, 8), 4] whose run has been shortened already, to 4 tokens a group."""
    keep = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
    keep[4 + 3 * 4 : 4 + 36] = False
    names = ("input_ids", "attention_mask", "mm_token_type_ids")
    return inputs | {name: inputs[name][:, keep] for name in names}
