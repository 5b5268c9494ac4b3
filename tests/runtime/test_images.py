"""Images of LLaVA-OneVision merged tile by tile: newlines and the order of the grid stay."""

import pytest
import torch

from aim_cost import ModelSpec, Schedule, Workload
from aim_cost.errors import ScheduleError
from aim_cost.models.images import image_grids
from aim_cost.schedules.merge import MERGE_KINDS, POSITIONS, Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.vision_merge import VisionMerge
from aim_runtime import PatchError, patched
from aim_runtime.models import find_adapter
from aim_runtime.patching.encoding import merge_features
from aim_runtime.reference import Reference
from tests.runtime.reference import pooled_frames, slow_passes
from tests.runtime.support import FRAME_TOKENS, IMAGE_TOKEN, VIDEO_TOKEN

PRUNE = Prune(linear=(1, 4))
GREEDY = {"max_new_tokens": 3, "do_sample": False}
ALONE = [(100, 140)]
SEVERAL = [(70, 80), (150, 150)]


def spec_of(llava):
    return ModelSpec.from_hf_config(llava.config.to_dict(), name="tiny")


def image_inputs(llava, sizes, seed=5):
    """A prompt of images, each followed by a word: one alone is cut into crops."""
    generator = torch.Generator().manual_seed(seed)
    grids = image_grids(spec_of(llava), sizes)
    most = max(grid.crops for grid in grids)
    ids = [3, 4]
    for grid in grids:
        ids += [*[IMAGE_TOKEN] * grid.tokens, 5]
    return {
        "input_ids": torch.tensor([[*ids, 6]]),
        "pixel_values": torch.randn(len(sizes), most, 3, 75, 75, generator=generator),
        "image_sizes": torch.tensor(sizes),
        "batch_num_images": torch.tensor([len(sizes)]),
    }


def slow_image(features, grid, merge):
    """What merging leaves of one image [tokens, H], and its places, in the order of the grid."""
    found = [(place, features[place]) for place in grid.newlines]
    for ranges in grid.groups:
        places = [place for row in ranges for place in row]
        if merge is None:
            found += [(place, features[place]) for place in places]
            continue
        passes = merge.other_counts(len(places))
        left, inside = slow_passes(features[places], passes, merge.by)
        found += [(places[p], x) for p, x in zip(inside, left, strict=True)]
    if grid.tile_rows:
        found.sort(key=lambda pair: pair[0])
    else:  # an image in one piece is merged like a frame: the newline comes last
        found = found[len(grid.newlines) :] + found[: len(grid.newlines)]
    return torch.stack([x for _, x in found]), [place for place, _ in found]


def embedded(llava, inputs, merge):
    """embeds[n, H], visual[n], positions[n] of one prompt, merged slowly."""
    call = {n: inputs[n] for n in ("pixel_values", "image_sizes", "batch_num_images")}
    images = list(llava.model.get_image_features(**call).pooler_output)
    grids = list(image_grids(spec_of(llava), [tuple(s) for s in inputs["image_sizes"].tolist()]))
    videos = list(inputs.get("pixel_values_videos", ()))
    ids, place = inputs["input_ids"][0].tolist(), 0
    embeds, visual, positions = [], [], []
    while place < len(ids):
        if ids[place] == IMAGE_TOKEN:
            grid = grids.pop(0)
            left, inside = slow_image(images.pop(0), grid, merge)
            width = grid.tokens
        elif ids[place] == VIDEO_TOKEN:
            left, inside, width = slow_video(llava, videos.pop(0), merge)
        else:
            left, inside, width = llava.get_input_embeddings()(torch.tensor(ids[place])), [0], 1
            left = left[None]
        embeds += list(left)
        visual += [ids[place] in (IMAGE_TOKEN, VIDEO_TOKEN)] * len(left)
        positions += [place + p for p in inside]
        place += width
    return torch.stack(embeds), torch.tensor(visual), torch.tensor(positions)


def slow_video(llava, video, merge):
    left, inside, start = [], [], 0
    for frame in pooled_frames(llava, video):
        passes = merge.token_counts(len(frame)) if merge else (len(frame),)
        merged, places = slow_passes(frame, passes, merge.by if merge else "similarity")
        left += list(merged)
        inside += [start + p for p in places]
        start += len(frame)
    return torch.stack([*left, llava.model.image_newline]), [*inside, start], start + 1


@pytest.mark.parametrize("sizes", [ALONE, SEVERAL], ids=["alone", "several"])
@pytest.mark.parametrize("by", MERGE_KINDS)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("beside", ["images", "a video"])
def test_equals_slow_merging(llava, sizes, by, positions, beside):
    merge = Merge(retention=0.5, by=by, positions=positions)
    inputs = image_inputs(llava, sizes)
    if beside == "a video":
        run = torch.tensor([[VIDEO_TOKEN] * (2 * FRAME_TOKENS + 1) + [7, 8]])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], run], dim=1)
        generator = torch.Generator().manual_seed(3)
        inputs["pixel_values_videos"] = torch.randn(1, 2, 3, 75, 75, generator=generator)
    schedule = Schedule(merge, PRUNE)
    with patched(llava, schedule) as trace:
        logits = llava(**inputs).logits[0]
        tokens, left = trace.tokens, trace.kept
        new = llava.generate(**inputs, **GREEDY)
    embeds, visual, places = embedded(llava, inputs, merge)
    where = places if positions == "kept" else None
    reference = Reference(llava.model.language_model, llava.lm_head)
    kept = reference.kept(embeds, visual, tokens, positions=where)
    assert reference.smallest_margin > 1e-3
    assert [k[0].tolist() for k in left] == [k.nonzero()[:, 0].tolist() for k in kept]
    expected = reference.logits(embeds, kept, positions=where)[kept[-1]]
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(new[:, :length], inputs["input_ids"])
    assert new[0, length:].tolist() == reference.generate(embeds, kept, 3, positions=where)


@pytest.mark.parametrize("sizes", [ALONE, SEVERAL], ids=["alone", "several"])
@pytest.mark.parametrize("merge", [None, Merge(retention=0.25), Merge(tokens_per_frame=7)])
@pytest.mark.parametrize("vision_merge", [None, VisionMerge(remove=4)])
def test_the_trace_is_the_predicted_one(llava, sizes, merge, vision_merge):
    schedule = Schedule(merge, PRUNE, vision_merge=vision_merge)
    inputs = image_inputs(llava, sizes)
    text = int((inputs["input_ids"] != IMAGE_TOKEN).sum())
    with patched(llava, schedule) as trace:
        llava(**inputs)
    workload = Workload(images=tuple(sizes), text_tokens=text)
    assert trace.tokens == schedule.resolve(spec_of(llava), workload)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("image_sizes", lambda given: given[:1]),
        ("batch_num_images", lambda given: given[:0]),
        ("batch_num_images", lambda given: given + 1),
        ("pixel_values", lambda given: given[:1]),
    ],
)
def test_refuses_what_describes_other_images(llava, name, change):
    inputs = image_inputs(llava, SEVERAL)
    wrong = inputs | {name: change(inputs[name])}
    named = "image_sizes" if name == "pixel_values" else name
    with patched(llava, Schedule(prune=PRUNE)):
        for call in (llava, llava.generate):
            with pytest.raises(PatchError, match=f"{named}: expected those of each of the"):
                call(**wrong)


def test_newlines_stand_between_the_rows_they_end(llava):
    (grid,) = image_grids(spec_of(llava), ALONE)
    inputs = {n: x for n, x in image_inputs(llava, ALONE).items() if n != "input_ids"}
    features = llava.model.get_image_features(**inputs).pooler_output
    left, places = slow_image(features[0], grid, Merge(retention=0.5))
    assert places == sorted(places)
    items = find_adapter(llava).items_of_pixels(inputs, "image")
    (merged,), _ = merge_features(features, items, Merge(retention=0.5))
    torch.testing.assert_close(merged, left, rtol=1e-5, atol=1e-6)
    newline = (merged == llava.model.image_newline).all(dim=1).nonzero()[:, 0].tolist()
    assert newline == [places.index(place) for place in grid.newlines]
    assert len(newline) == grid.rows > 1


def test_passes_of_one_size_refuse_tiles_of_another(llava):
    inputs = image_inputs(llava, ALONE)
    schedule = Schedule(Merge(passes=(13, 7)))
    with patched(llava, schedule), pytest.raises(ScheduleError, match=r"merge\.passes"):
        llava(**inputs)
