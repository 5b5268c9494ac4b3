"""Images of any size: crops, packed grids, groups of several sizes, and what they cost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from aim_cost.case import estimate
from aim_cost.cli.main import app
from aim_cost.conventions.convention import LLM_VIEWER
from aim_cost.devices.hardware import load_hardware
from aim_cost.errors import ScheduleError, SpecError
from aim_cost.methods import get_method
from aim_cost.models.images import group_sizes, image_grid, image_grids
from aim_cost.models.model import ModelSpec, load_model_spec, preset_config
from aim_cost.models.workload import VisualInput, Workload
from aim_cost.ops.formulas import match_flops
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.schedule import Schedule

H100 = load_hardware("h100-sxm")
ONEVISION = load_model_spec("llava-onevision-qwen2-7b")
NEXT_VIDEO = load_model_spec("llava-next-video-7b")
LLAVA = load_model_spec("llava-1.5-7b")
QWEN = load_model_spec("qwen2.5-vl-7b")
# counted by hand: 1080 x 1920 in 1152 x 1920 keeps 75.9 of 81 rows, so 75; 135 columns; shrunk by
# sqrt(75 * 135 / 6561) = 1.2423
PHOTO = image_grid(ONEVISION, (1080, 1920))

sides = st.integers(1, 5000)
models = st.sampled_from((ONEVISION, NEXT_VIDEO, LLAVA))


def price(model, schedule=None, text_tokens=50, **visual):
    return estimate(model, Workload(text_tokens, **visual), schedule or Schedule(), H100)


def test_a_photo_is_cut_unpadded_and_shrunk():
    assert (PHOTO.tile_rows, PHOTO.tile_columns, PHOTO.crops) == (3, 5, 16)
    assert PHOTO.unpadded == (75, 135)
    assert PHOTO.shrinks
    assert (PHOTO.rows, PHOTO.columns) == (60, 108)
    assert PHOTO.tokens == 729 + 60 * 108 + 60
    # rows 0, 24, 51, 75 of 75 and columns 0, 27, ... of 135, times 0.8
    assert PHOTO.row_edges == (0, 19, 41, 60)
    assert PHOTO.column_edges == (0, 22, 43, 65, 86, 108)


def test_groups_are_places_of_the_packed_image():
    base, first, second, *_ = PHOTO.groups
    assert base == (range(729),)
    assert len(first) == 19
    assert first[:2] == (range(729, 729 + 22), range(729 + 109, 729 + 109 + 22))
    assert second[0] == range(729 + 22, 729 + 43)
    assert PHOTO.newlines[:2] == (729 + 108, 729 + 108 + 109)


@pytest.mark.parametrize(
    ("model", "crops", "tokens", "newlines"),
    [(NEXT_VIDEO, 5, 576 + 28 * 48 + 28, 28), (LLAVA, 1, 576, 0), (QWEN, 1, 26 * 47, 0)],
)
def test_the_photo_for_other_models(model, crops, tokens, newlines):
    grid = image_grid(model, (1080, 1920))
    assert (grid.crops, grid.tokens, grid.newline_tokens) == (crops, tokens, newlines)


@given(models, sides, sides, st.booleans())
def test_every_place_has_one_owner(model, height, width, alone):
    grid = image_grid(model, (height, width), alone=alone)
    places = [i for group in grid.groups for part in group for i in part]
    assert sorted((*places, *grid.newlines)) == list(range(grid.tokens))
    assert list(grid.group_tokens) == [sum(map(len, group)) for group in grid.groups]
    assert len(grid.newlines) == grid.newline_tokens
    assert max(grid.group_tokens) == grid.base_tokens


def test_only_a_single_image_is_cut_by_onevision():
    first, second = image_grids(ONEVISION, [(1080, 1920), (300, 200)])
    assert (first.crops, first.tokens, first.newlines) == (1, 730, (729,))
    assert second.tokens == 730
    visual = Workload(9, images=((1080, 1920), (300, 200))).visual_input(ONEVISION)
    assert visual == VisualInput(2, 729, 2, several=(((1, 729),), ((1, 729),)))
    assert sum(grid.crops for grid in image_grids(NEXT_VIDEO, [(1080, 1920)] * 2)) == 10


def test_groups_are_counted_by_size():
    visual = Workload(9, images=((1080, 1920),)).visual_input(ONEVISION)
    # rows of tiles 19, 22, 19; columns 22, 21, 22, 21, 22
    others = ((3, 484), (2, 462), (6, 418), (4, 399))
    assert visual == VisualInput(1, 729, 60, others)
    assert group_sizes([PHOTO]) == ((1, 729), *others)
    # whole crops are groups like the base view
    whole = Workload(9, images=((384, 768),)).visual_input(ONEVISION)
    assert whole == VisualInput(3, 729, 27)


def test_each_size_is_merged_by_its_own_passes():
    trace = Schedule.parse("merge 0.25").resolve(ONEVISION, Workload(9, images=((1080, 1920),)))
    assert trace.merge_tokens == (729, 365, 183, 182)
    assert trace.others[0] == (3, (484, 242, 121))
    kept = [182, *[121] * 3, *[115] * 2, *[104] * 6, *[99] * 4]
    assert trace.merged_tokens == sum(kept)
    assert trace.prompt_tokens == sum(kept) + 60 + 9
    assert trace.reduces


@given(st.floats(0.002, 1), sides, sides)
def test_a_tile_keeps_at_least_one_token(retention, height, width):
    workload = Workload(9, images=((height, width),))
    trace = Schedule(Merge(retention)).resolve(ONEVISION, workload)
    for _, counts in trace.others:
        assert counts[-1] == max(1, int(counts[0] * retention))


def test_a_count_keeps_all_of_a_smaller_tile():
    workload = Workload(9, images=((1080, 1920),))
    trace = Schedule.parse("merge frame:450").resolve(ONEVISION, workload)
    assert [counts[-1] for _, counts in trace.others] == [450, 450, 418, 399]


def test_merging_costs_what_each_size_costs():
    result = price(ONEVISION, Schedule.parse("merge 0.5"), images=((1080, 1920),))
    sizes = group_sizes([PHOTO])
    expected = sum(match_flops(groups, tokens, 3584) for groups, tokens in sizes)
    # 729 and 399 are odd: a second pass takes the last token
    expected += match_flops(1, 365, 3584) + match_flops(4, 200, 3584)
    assert result.phase("merge").flops == expected


def test_the_tower_encodes_every_crop():
    (tower, crops), *others = Workload(9, images=((1080, 1920),)).views(ONEVISION)
    assert (tower, crops, others) == (ONEVISION.vision, 16, [])
    one = price(LLAVA, image_tokens=576).phase("vision").flops
    assert price(LLAVA, images=((9, 9), (1000, 20))).phase("vision").flops == 2 * one
    qwen = Workload(9, images=((280, 280), (280, 280), (140, 280))).views(QWEN)
    assert [(view.frame_size, number) for view, number in qwen] == [
        ((280, 280), 2),
        ((140, 280), 1),
    ]


def test_one_square_view_costs_as_its_tokens():
    image, tokens = price(LLAVA, images=((1080, 1920),)), price(LLAVA, image_tokens=576)
    assert image.graph == tokens.graph
    assert image.memory == tokens.memory


def test_a_qwen_image_costs_as_its_tokens():
    image = price(QWEN, images=((1080, 1920),))
    tokens = price(QWEN, image_tokens=26 * 47, frame_size=(26 * 28, 47 * 28))
    assert image.graph == tokens.graph
    assert image.memory == tokens.memory


def test_packing_is_done_where_transformers_does():
    names = [op.name for op in price(ONEVISION, images=((1080, 1920),)).graph.phase("vision")]
    packing = ["lay_crops", "bilinear", "append_newlines", "join_base", "join_images"]
    assert names[-5:] == packing
    small = [op.name for op in price(ONEVISION, images=((300, 200),)).graph.phase("vision")]
    assert "bilinear" not in small
    many = price(ONEVISION, images=((300, 200),) * 3, batch=2).graph.phase("vision")
    assert [op.name for op in many].count("append_newline") == 6


def test_conventions_that_count_no_newline_count_none_of_an_image():
    workload = Workload(9, images=((1080, 1920),))
    trace = Schedule().resolve(ONEVISION, workload, LLM_VIEWER.rule)
    assert trace.prompt_tokens == PHOTO.tokens - 60 + 9


def test_checkpoints_may_say_other_limits():
    fields = preset_config("qwen2-vl-7b")
    fields["aim_cost"] = {**fields.get("aim_cost", {}), "image_pixels": [3136, 12845056]}
    grid = image_grid(ModelSpec.from_hf_config(fields), (1080, 1920))
    assert (grid.crop_size, grid.tokens) == ((1092, 1932), 39 * 69)


def with_fields(**fields):
    return ModelSpec.from_hf_config(preset_config("llava-onevision-qwen2-7b") | fields)


def test_the_config_says_grids_and_limit():
    model = with_fields(image_grid_pinpoints=[[384, 768]], vision_aspect_ratio="anyres_max_1")
    grid = image_grid(model, (384, 768))
    assert (grid.crops, grid.rows, grid.columns) == (3, 19, 38)  # 27 x 54 over sqrt(2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: image_grid(ONEVISION, (0, 5)), "at least 1"),
        (lambda: image_grid(ONEVISION, (5,)), "height and width"),
        (lambda: image_grid(ONEVISION, 5), "a list"),
        (lambda: image_grid(QWEN, (10, 2010)), "200 times"),
        (lambda: image_grid(with_fields(image_grid_pinpoints=[[300, 384]]), (9, 9)), "multiples"),
        (lambda: with_fields(image_grid_pinpoints=[[300]]), "two whole numbers"),
        (lambda: with_fields(vision_aspect_ratio="pad"), "anyres_max_N"),
        (lambda: image_grid(ModelSpec.from_hf_config(full_clip()), (9, 9)), "got full"),
        (lambda: Workload(9, images=()), "height and width of each"),
        (lambda: Workload(9, images=((9, 9),), frame_size=(28, 28)), "no frame_size"),
        (lambda: Workload(9, images=((9, 9),), frames=2), "either"),
    ],
)
def test_impossible_sizes_are_refused(make, said):
    with pytest.raises(SpecError, match=said):
        make()


def full_clip():
    return preset_config("llava-next-video-7b") | {"vision_feature_select_strategy": "full"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda of: Schedule.parse("merge passes:365,183").resolve(ONEVISION, of), "one size"),
        (
            lambda of: Schedule.parse("select 0.5 score=frame-density").resolve(ONEVISION, of),
            "determinantal, pairwise-cosine, random, uniform",
        ),
        (lambda of: get_method("visionzip").schedule(ONEVISION, of), "crops of one size"),
    ],
)
def test_what_needs_one_size_says_so(make, said):
    with pytest.raises(ScheduleError, match=said):
        make(Workload(9, images=((1080, 1920),)))


def test_selection_takes_from_all_tiles():
    of = Workload(9, images=((1080, 1920),))
    everything = 729 + 60 * 108
    half = Schedule.parse("select 0.5 score=random").resolve(ONEVISION, of)
    assert half.selected_tokens == everything // 2
    each = Schedule.parse("select frame:450").resolve(ONEVISION, of)
    assert each.selected_tokens == 450 * (1 + 3 + 2) + 418 * 6 + 399 * 4


def predict(*arguments):
    return CliRunner().invoke(app, ["predict", *arguments])


def test_predict_takes_images():
    found = json.loads(predict("--image", "1080x1920", "--format", "json").stdout)
    own = price(ONEVISION, images=((1080, 1920),), text_tokens=100)
    assert found["total.flops"] == own.flops
    assert found["images"] == [[1080, 1920]]
    assert found["frames"] is None


def test_the_table_says_how_the_tokens_come_about():
    shown = predict("--image", "300x200", "--image", "300x200", "--model", "llava-next-video-7b")
    said = " ".join(shown.stdout.split())
    assert "images 300 x 200, 300 x 200 + 100 text tokens" in said
    assert (
        "2 images 300 x 200: 3 crops of 336 x 336, "
        "984 tokens = base 576 + grid 24 x 16 + newlines 24" in said
    )
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_a_size_that_is_none_is_refused():
    result = predict("--image", "1080")
    assert isinstance(result.exception, SpecError)
    assert "--image: expected HEIGHTxWIDTH" in str(result.exception)
