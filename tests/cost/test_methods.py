"""The published methods as Schedules: their counts, and every figure that papers print for them."""

import pytest

from aim_cost import Schedule, Workload, estimate, load_hardware, load_model_spec
from aim_cost.conventions.convention import get_convention
from aim_cost.errors import ScheduleError
from aim_cost.methods import METHODS, Setting, get_method, parse_methods
from aim_cost.methods.method import COUNTS, VERIFIED, WHERE, method
from aim_cost.methods.parameter import Parameter, show_value
from aim_cost.ops.scores import LAYER_SCORES
from aim_cost.ops.visual_scores import VISUAL_SCORES
from aim_cost.papers.figures import find_figure, published_figures
from aim_cost.schedules.merge import MERGE_KINDS
from aim_cost.schedules.select import Select

A100 = load_hardware("a100-sxm4-40gb")
ONEVISION = load_model_spec("llava-onevision-qwen2-7b")
LLAVA = load_model_spec("llava-1.5-7b")
VIDEO = Workload(text_tokens=10, frames=32)
IMAGE = Workload(text_tokens=10, image_tokens=576)
ASKED_FOR = (
    *("fastv", "pyramiddrop", "vtw", "prumerge", "prumerge-plus", "tome", "sparsevlm", "v2drop"),
    *("visionzip", "fastervlm", "divprune", "cdpruner", "dart", "dycoke", "pact", "framefusion"),
    *("prunevid", "holitom", "fastvid", "vidcom2", "fitprune", "flashvid", "evs", "hidrop"),
    *("aim", "random", "uniform", "fewer-frames", "low-resolution", "vispruner"),
)
IMAGE_METHODS = [name for name in ASKED_FOR if not METHODS[name].video]


def entering(name, model=ONEVISION, workload=VIDEO, **parameters):
    """Visual tokens entering each layer, the newline left out where nothing is pruned."""
    schedule = get_method(name).schedule(model, workload, **parameters)
    trace = schedule.resolve(model, workload)
    return [n - trace.text_tokens for n in trace.attention_tokens]


def runs(values):
    return {value: values.count(value) for value in values}


@pytest.mark.parametrize(
    "figure",
    published_figures(),
    ids=lambda f: f"{f.method}, {f.stated}, {f.convention}, {f.printed}",
)
def test_published_figures_to_the_printed_digit(figure):
    model = load_model_spec(figure.model)
    convention = get_convention(figure.convention)
    result = estimate(model, figure.workload, figure.schedule, A100, convention=convention)
    assert figure.computed(result) == figure.gives
    assert (figure.gives == figure.printed) == (not figure.reason)
    assert figure.source
    assert find_figure(figure.method, result).printed == figure.printed


def test_all_methods_are_there():
    assert set(METHODS) == set(ASKED_FOR)


@pytest.mark.parametrize("name", ASKED_FOR)
def test_each_method_is_described_and_fits_a_video(name):
    found = get_method(name)
    assert (found.name, found.where in WHERE) == (name, True)
    assert found.counts in COUNTS
    assert found.verified in VERIFIED
    schedule = found.schedule(ONEVISION, VIDEO)
    assert schedule.resolve(ONEVISION, VIDEO).reduces or schedule.seen(VIDEO) != VIDEO
    assert Schedule.from_dict(schedule.to_dict()) == schedule
    before = schedule.shortens_prompts
    acts = {(True, True): "both", (True, False): "before", (False, True): "inside"}
    assert acts.get((before, schedule.prune is not None), "tower") == found.where
    assert (schedule.vision_merge is not None) == (found.where == "tower")
    assert set(found.scoring) <= {*LAYER_SCORES, *VISUAL_SCORES, *MERGE_KINDS}
    assert found.scale is not None


@pytest.mark.parametrize("name", IMAGE_METHODS)
def test_the_others_fit_an_image(name):
    assert max(entering(name, LLAVA, IMAGE)) <= 576


@pytest.mark.parametrize("name", sorted(set(ASKED_FOR) - set(IMAGE_METHODS)))
def test_those_that_compare_frames_need_a_video(name):
    with pytest.raises(ScheduleError, match=f"a video, {name} compares"):
        entering(name, LLAVA, IMAGE)


# parameters -> visual tokens and how many layers they enter; LLaVA-1.5: 576 in 32 layers
ON_IMAGES = {
    ("fastv", ("k", 3), ("r", 0.75)): {576: 3, 144: 29},
    ("pyramiddrop",): {576: 8, 288: 8, 144: 8, 72: 8},
    ("vtw", ("k", 15)): {576: 15, 0: 17},
    ("sparsevlm",): {576: 3, 300: 4, 200: 9, 110: 16},
    ("sparsevlm", ("tokens", 128)): {576: 3, 303: 4, 110: 9, 36: 16},
    ("sparsevlm", ("tokens", 96)): {576: 3, 238: 4, 48: 9, 26: 16},
    ("sparsevlm", ("tokens", 64)): {576: 3, 66: 4, 30: 9, 17: 16},
    ("sparsevlm", ("tokens", 80)): {576: 3, 152: 4, 39: 9, 21: 16},
    ("dart", ("r", 0.5)): {576: 2, 288: 30},
    ("v2drop",): {576: 3, 288: 14, 144: 5, 0: 10},
    ("pact", ("clustered", 0.5)): {576: 4, 158: 28},
    ("prumerge",): {40: 32},
    ("prumerge-plus",): {144: 32},
    ("visionzip", ("tokens", 64)): {64: 32},
    ("vispruner", ("tokens", 128)): {128: 32},
    ("tome", ("r", 16)): {576 - 24 * 16: 32},
    ("random", ("retention", 0.5)): {288: 32},
}


@pytest.mark.parametrize("asked", ON_IMAGES, ids=str)
def test_tokens_of_an_image(asked):
    name, *parameters = asked
    assert runs(entering(name, LLAVA, IMAGE, **dict(parameters))) == ON_IMAGES[asked]


# LLaVA-OneVision: 6272 and the newline in 28 layers
ON_VIDEO = {
    ("dycoke",): {3098 + 1: 28},
    ("dycoke", ("p", 0.9)): {2201 + 1: 28},
    ("dycoke", ("p", 1)): {1764 + 1: 28},
    ("dycoke", ("p", 0.9), ("loop", 0)): {2038 + 1: 28},
    ("fastvid", ("retention", 0.2)): {32 * 39 + 1: 28},
    ("fastvid", ("retention", 0.1)): {32 * 19 + 1: 28},
    ("evs", ("q", 0.75)): {1568 + 1: 28},
    ("evs", ("q", 1)): {196 + 1: 28},
    ("vidcom2", ("retention", 0.3)): {1881 + 1: 28},
    ("holitom",): {1569: 18, 784: 10},
    ("prunevid",): {628: 10, 251: 18},
    ("flashvid", ("retention", 0.2)): {1569: 20, 470: 8},
    ("pyramiddrop",): {6273: 7, 3136: 7, 1568: 7, 784: 7},
    ("aim",): {1569: 15, 1372: 1, 1176: 1, 980: 1, 784: 1, 588: 1, 392: 1, 196: 1, 0: 6},
}


@pytest.mark.parametrize("asked", ON_VIDEO, ids=str)
def test_tokens_of_a_video(asked):
    name, *parameters = asked
    assert runs(entering(name, **dict(parameters))) == ON_VIDEO[asked]


def test_counts_that_only_a_mean_describes():
    tokens = entering("framefusion", c=0.3)
    assert sum(tokens) / 28 / 6273 == pytest.approx(0.3, abs=1e-4)
    assert tokens[0] == 6273 and len(set(tokens)) == 4
    with pytest.raises(ScheduleError, match=r"at least 0\.0714"):
        entering("framefusion", c=0.05)
    hidden = entering("hidrop", LLAVA, IMAGE)
    assert runs(hidden)[0] == 8 + 8
    assert hidden[8] == 576


@pytest.mark.parametrize(
    ("r", "middle", "left"), [(0.5, 281, 173), (0.6, 220, 127), (0.9, 45, 37), (0.75, 132, 82)]
)
def test_fitprunes_lists(r, middle, left):
    """Tokens left at half the depth and at the end; removed tokens skip the MLP of their layer."""
    trace = get_method("fitprune").schedule(LLAVA, IMAGE, r=r).resolve(LLAVA, IMAGE)
    assert trace.mlp_tokens[:-1] == trace.attention_tokens[1:]
    assert (trace.attention_tokens[16] - 10, trace.mlp_tokens[-1] - 10) == (middle, left)
    deep = get_method("fitprune").schedule(ONEVISION, VIDEO, r=r).resolve(ONEVISION, VIDEO)
    assert (deep.attention_tokens[14] - 10) / 6273 == pytest.approx(middle / 576, abs=1 / 576)


def test_dycokes_loop_drops_an_odd_last_frame_and_needs_five():
    whole = entering("dycoke", workload=Workload(10, frames=8), p=1)[0]
    assert entering("dycoke", workload=Workload(10, frames=9), p=1)[0] < whole
    with pytest.raises(ScheduleError, match="frames: expected at least 5, got 4"):
        entering("dycoke", workload=Workload(10, frames=4))


def test_layers_follow_the_depth_of_the_model():
    values = get_method("aim").values(LLAVA, {})
    assert (values["l1"], values["l2"]) == (13, 21)
    assert get_method("holitom").values(LLAVA, {})["k"] == round(18 * 32 / 28)
    assert get_method("sparsevlm").values(ONEVISION, {})["stages"] == (3, 6, 14)
    assert get_method("fastv").values(ONEVISION, {})["k"] == 2


def test_names_and_parameters_on_the_command_line():
    assert get_method("pdrop") is METHODS["pyramiddrop"]
    assert [r.method.name for r in parse_methods("all")] == list(METHODS)
    *others, last = parse_methods("all, pdrop:ratio=0.25")
    assert {r.method.name for r in others} == METHODS.keys() - {"pyramiddrop"}
    assert (last.method.name, last.given) == ("pyramiddrop", {"ratio": 0.25})
    first, second = parse_methods("fastv:k=3:r=0.75, pdrop:stages=10/20")
    assert first.given == {"k": 3, "r": 0.75}
    assert second.given == {"stages": (10, 20)}
    assert show_value(second.given["stages"]) == "10/20"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fastvv", "Known: aim, cdpruner"),
        (",", "Known: all, aim"),
        ("fastv:q=1", "Known: k, r"),
        ("fastv:k=2.5", "whole numbers"),
        ("fastv:k", "a whole number"),
        ("fastv:r=0.5,0", "known names"),
        ("pdrop:stages=a", "layers such as 7/14/21"),
        ("vtw:k=1/2", "one number"),
        ("absent.yaml", "a readable file"),
    ],
)
def test_wrong_names_list_the_right_ones(text, expected):
    with pytest.raises(ScheduleError, match=expected):
        parse_methods(text)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("fastv", {"k": 29}, "a layer up to 28"),
        ("fastv", {"k": 0}, "at least 1"),
        ("fastv", {"r": 1.5}, "from 0 to 1"),
        ("fastv", {"r": True}, "from 0 to 1"),
        ("flashvid", {"retention": 0.9}, "from 0 to 0.8"),
        ("pyramiddrop", {"stages": (8, 4)}, "rising layers"),
        ("pyramiddrop", {"stages": ()}, "rising layers"),
        ("sparsevlm", {"stages": (3, 7)}, "three layers"),
        ("sparsevlm", {"tokens": 577}, "at most 576"),
        ("visionzip", {"tokens": 64, "retention": 0.5}, "no retention beside it"),
        ("visionzip", {"tokens": 6273}, "1 to 6272"),
        ("fastervlm", {"retention": 0.001}, "at least one of the 196"),
        ("hidrop", {"end": 7}, "above start = 7"),
        ("tome", {"r": -1}, "at least 0"),
        ("tome", {"r": 28}, "at most half of the 29 tokens in layer 25, got 28"),
    ],
)
def test_wrong_parameters(name, given, expected):
    with pytest.raises(ScheduleError, match=expected):
        entering(name, **given)


def test_a_method_is_one_function():
    share = Parameter("share", "share", "kept", 0.5, scales="up")

    @method("half", "half of all", None, "before", share)
    def half(of: Setting, share: float) -> Schedule:
        return Schedule(select=Select(tokens=int(of.tokens * share), by="random"))

    assert half.schedule(LLAVA, IMAGE) == Schedule(select=Select(tokens=288, by="random"))
    assert half.scoring == ("random",)
    assert half.parameter("share").steps(32, 576)[-1] == 1


def test_a_method_is_one_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("merge: {retention: 0.5}\nprune: {tokens: [64], importance: text-attention}\n")
    (request,) = parse_methods(f"{path}:retention=0.25")
    assert (request.method.name, request.method.where) == ("mine", "both")
    assert request.method.schedule(LLAVA, IMAGE) == Schedule.load(path)
    scaled = request.method.schedule(LLAVA, IMAGE, **request.given)
    assert scaled.merge.retention == 0.25
    path.write_text("prune: {linear: [2, 4]}\n")
    (request,) = parse_methods(str(path))
    assert (request.method.where, request.method.parameters) == ("inside", ())


def test_steps_of_a_budget_go_from_fewest_tokens_to_most():
    for found in METHODS.values():
        if found.name == "tome":  # the LLM sees as many tokens as ever
            continue
        steps = found.scale.steps(28, 196)
        spread = [steps[i * (len(steps) - 1) // 12] for i in range(13)]
        tokens = []
        for value in spread:
            try:
                tokens.append(sum(entering(found.name, **{found.scale.name: value})))
            except ScheduleError:
                tokens.append(-1)  # too few tokens
        assert tokens == sorted(tokens), found.name
        assert tokens[0] < tokens[-1], found.name


def test_tome_is_priced_in_the_tower_and_fills_a_pooled_grid():
    tome = get_method("tome").schedule(ONEVISION, VIDEO, r=16)
    assert tome == Schedule.parse("vision-merge 16")
    whole, merged = (estimate(ONEVISION, VIDEO, s, A100) for s in (Schedule(), tome))
    assert merged.phase("llm").flops == whole.phase("llm").flops
    # 26 layers: 32 frames of 1152 wide tokens, 4304 in the MLP, 16 heads of 72
    saved = 0
    for before in range(729, 313, -16):
        after, keys = before - 16, before // 2 * (before - before // 2)
        linear = 4 * 1152**2 * (729 - before) + 2 * 1152 * 4304 * (729 - after)
        saved += 32 * 2 * (linear + 2 * 1152 * (729**2 - before**2) - 72 * keys)
    assert whole.flops - merged.flops == saved
    assert get_method("tome").schedule(ONEVISION, VIDEO, r=0) == Schedule()


def test_tome_sends_what_is_left_where_nothing_is_pooled():
    schedule = get_method("tome").schedule(LLAVA, IMAGE, r=16)
    trace = schedule.resolve(LLAVA, IMAGE)
    # the class token is merged with none
    assert (trace.tower_tokens[0], trace.tower_tokens[-1]) == (577, 193)
    assert trace.attention_tokens == (192 + 10,) * 32


def test_tome_refuses_towers_with_windows():
    qwen = load_model_spec("qwen2.5-vl-7b")
    with pytest.raises(ScheduleError, match="SigLIP's or CLIP's kind, got qwen2_5_vl"):
        get_method("tome").schedule(qwen, VIDEO).resolve(qwen, VIDEO)
