"""Scores as their files have them: each on its own scale, of its own model, over its questions."""

import json

import pytest

from aim_cost import AimError, Case, Workload, plan
from aim_cost.errors import SpecError
from aim_cost.studies.own_accuracy import read_scores

CASE = Case("llava-onevision-qwen2-7b", Workload(100, frames=32), "h100-sxm")
CHECKPOINT = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
AIM = "merge 0.25, prune linear:14:22"
CUT = ",merge=0.25,prune=linear:14:22"


@pytest.fixture
def lmms(tmp_path):
    """Writes results of lmms-eval: (name, arguments after the checkpoint, results, more keys)."""

    def write(name, arguments, tasks, *, checkpoint=CHECKPOINT, **more):
        config = {
            "model": "aim_llava_onevision",
            "model_args": f"pretrained={checkpoint},max_frames=32{arguments}",
        }
        counts = {task: {"original": 2700, "effective": 2700} for task in tasks}
        tree = {"results": tasks, "config": config, "n-samples": counts} | more
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(tree))
        return path

    return write


def videomme(score):
    return {"videomme": {"videomme_perception_score,none": score}}


def difference(files, benchmark=None):
    return plan(CASE, ttft_s=0.15, accuracy=files, benchmark=benchmark).difference


def test_a_scale_is_that_of_a_score_over_all_files_not_of_a_file(lmms):
    """Shares and percent in one file, the baselines in two others."""
    bench = {"longvideobench_val_v": {"lvb_acc,none": 0.553}}
    files = [
        lmms("none", "", {"longvideobench_val_v": {"lvb_acc,none": 0.563}}),
        lmms("none2", "", videomme(58.2)),
        lmms("aim", CUT, bench | videomme(57.9)),
    ]
    assert difference(files, "longvideobench_val_v") == pytest.approx(-1.0)
    assert difference(files, "videomme") == pytest.approx(-0.3)


@pytest.mark.parametrize(("one", "other"), [(0.563, 55.3), (56.3, 0.553), (56.3, 1)])
def test_a_share_and_percent_of_one_benchmark_are_refused(lmms, one, other):
    files = [lmms("none", "", videomme(one)), lmms("aim", CUT, videomme(other))]
    with pytest.raises(SpecError, match=r"one scale for videomme, .*column scale"):
        difference(files)


@pytest.mark.parametrize(
    ("scores", "right"),
    [((0.5, 0.4), -10), ((0.5, 0), -50), ((50, 0), -50), ((1, 0.9), -10), ((100, 99), -1)],
)
def test_scores_that_have_one_scale(lmms, scores, right):
    one, other = scores
    files = [lmms("none", "", videomme(one)), lmms("aim", CUT, videomme(other))]
    assert difference(files) == pytest.approx(right)


def test_points_stay_points_and_do_not_disturb_the_others(lmms):
    def both(videos, points):
        mme = {"mme_cognition_score,none": points, "mme_perception_score,none": 3 * points}
        return videomme(videos) | {"mme": mme}

    files = [lmms("none", "", both(58.2, 512.3)), lmms("aim", CUT, both(57.9, 88))]
    assert difference(files, "videomme") == pytest.approx(-0.3)
    answer = plan(CASE, ttft_s=0.15, accuracy=files, benchmark="mme/mme_cognition_score")
    assert answer.difference == pytest.approx(-424.3)
    assert "-424.3 of the benchmark's own points" in " ".join(str(answer).split())
    (row,) = answer.to_row()["accuracy.rows"]
    assert (row["accuracy"], row["baseline"], row["scale"]) == (88, 512.3, "points")


@pytest.mark.parametrize(
    "checkpoint",
    [
        "lmms-lab/llava-onevision-qwen2-7b-si",
        "llava-hf/llava-onevision-qwen2-7b-ov-chat-hf",
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "llava-hf/llava-1.5-7b-hf",
        "/data/llava-onevision-qwen2-7b-ov-hf",
        "my/finetune",
        f"{CHECKPOINT},peft=my/lora",
    ],
)
def test_scores_of_another_checkpoint_are_refused_by_its_name(lmms, checkpoint):
    files = [
        lmms("none", "", videomme(58.2), checkpoint=checkpoint),
        lmms("aim", CUT, videomme(57.9), checkpoint=checkpoint),
    ]
    named = checkpoint.replace(",", " with ")
    with pytest.raises(
        SpecError, match=f"scores of llava-onevision-qwen2-7b, got those of {named}"
    ):
        difference(files)


@pytest.mark.parametrize("checkpoint", [CHECKPOINT, "lmms-lab/llava-onevision-qwen2-7b-ov"])
def test_scores_of_the_same_weights_count_under_both_hub_names(lmms, checkpoint):
    files = [
        lmms("none", "", videomme(58.2), checkpoint=checkpoint),
        lmms("aim", CUT, videomme(57.9), checkpoint=checkpoint),
    ]
    assert difference(files) == pytest.approx(-0.3)
    small = Case("llava-onevision-qwen2-0.5b", Workload(100, frames=32), "h100-sxm")
    with pytest.raises(SpecError, match=f"got those of {checkpoint}"):
        plan(small, ttft_s=0.15, accuracy=files)


def test_a_file_that_names_no_checkpoint_is_refused(lmms):
    path = lmms("none", "", videomme(58.2))
    tree = json.loads(path.read_text())
    tree["config"]["model_args"] = "max_frames=32"
    path.write_text(json.dumps(tree))
    with pytest.raises(SpecError, match="pretrained=, the checkpoint that was asked"):
        read_scores([path])


def test_the_baseline_is_asked_in_the_same_way(lmms):
    """Prompts of lmms-eval's own class differ, so its score is no baseline."""
    other = lmms("none", "", videomme(58.2))
    tree = json.loads(other.read_text())
    tree["config"]["model"] = "llava_onevision"
    other.write_text(json.dumps(tree))
    with pytest.raises(SpecError, match="asked by aim_llava_onevision"):
        difference([other, lmms("aim", CUT, videomme(57.9))])


def test_two_filters_of_one_metric_are_two_scores(lmms):
    def two(strict, flexible):
        return {
            "ai2d": {
                "exact_match,strict-match": strict,
                "exact_match,flexible-extract": flexible,
                "exact_match_stderr,strict-match": 0.001,
                "exact_match_stderr_clt,flexible-extract": 0.002,
            }
        }

    files = [lmms("none", "", two(0.10, 0.81)), lmms("aim", CUT, two(0.40, 0.71))]
    with pytest.raises(SpecError, match="ai2d/exact_match,strict-match, ai2d/exact_match,flex"):
        difference(files)
    assert difference(files, "ai2d/exact_match,strict-match") == pytest.approx(30)
    assert difference(files, "ai2d/exact_match,flexible-extract") == pytest.approx(-10)


def test_names_of_scores_are_those_of_all_files_together(lmms):
    """One file has a metric that the other lacks: the one they share has one name."""
    two = {"videomme": {"videomme_perception_score,none": 57.9, "brevity,none": 0.5}}
    files = [lmms("none", "", videomme(58.2)), lmms("aim", CUT, two)]
    assert list(read_scores(files).by_benchmark) == [
        "videomme/videomme_perception_score",
        "videomme/brevity",
    ]
    assert difference(files, "videomme/videomme_perception_score") == pytest.approx(-0.3)


def test_another_task_without_a_baseline_does_not_disturb(lmms):
    files = [
        lmms("none", "", videomme(58.2)),
        lmms("aim", CUT, videomme(57.9) | {"ai2d": {"exact_match,none": 0.7}}),
    ]
    assert difference(files) == pytest.approx(-0.3)
    with pytest.raises(SpecError, match="unreduced score of ai2d"):
        difference(files, "ai2d")


def test_lower_is_better(lmms):
    scores = {"asr": {"wer,none": 12.0}}, {"asr": {"wer,none": 10.5}}
    for more in ({}, {"higher_is_better": {"asr": {"wer": False}}}):
        files = [
            lmms("none", "", scores[0], **more),
            lmms("aim", CUT, scores[1], **more),
        ]
        answer = plan(CASE, ttft_s=0.15, accuracy=files)
        assert answer.result.schedule.label() == AIM
        assert answer.difference == pytest.approx(1.5)
        assert "+1.5 points (lower is better: a plus is a gain)" in " ".join(str(answer).split())
    worse = lmms("aim", CUT, {"asr": {"wer,none": 14}})
    assert plan(CASE, accuracy=[files[0], worse]).result.schedule.label() == "none"


@pytest.mark.parametrize(("metric", "said"), [("wer", True), ("accuracy", False)])
def test_a_direction_that_contradicts_its_metric_is_refused(lmms, metric, said):
    more = {"higher_is_better": {"asr": {metric: said}, "videomme": {}}}
    results = {"asr": {f"{metric},none": 12.0}} | videomme(58.2)
    files = [lmms("none", "", results, **more), lmms("aim", CUT, results, **more)]
    with pytest.raises(SpecError, match="the direction of asr"):
        difference(files, "asr")
    assert difference(files, "videomme") == 0


def test_figures_that_are_no_metric_are_no_scores(lmms):
    """lmms-eval lists its metrics by their direction; the rest describes a run."""
    figures = {
        "alias": "videomme",
        "videomme_perception_score,none": 58.2,
        "videomme_perception_score_stderr,none": "N/A",
        "videomme_perception_score_stderr_clustered,none": 0.9,
        "internal_variance,none": 3.0,
        "submission,none": None,
        "paired_baseline_score": 50.0,
        "samples": 2700,
    }
    more = {"higher_is_better": {"videomme": {"videomme_perception_score": True}}}
    assert list(read_scores([lmms("none", "", {"videomme": figures}, **more)]).by_benchmark) == [
        "videomme"
    ]


def test_a_group_is_over_the_questions_of_its_tasks(lmms):
    results = {"mmmu": {"acc,none": 0.5}, "mmmu_a": {"acc,none": 0.4}, "mmmu_b": {"acc,none": 0.6}}
    counts = {name: {"original": 900, "effective": 450} for name in ("mmmu_a", "mmmu_b")}
    more = {"n-samples": counts, "group_subtasks": {"mmmu": ["mmmu_a", "mmmu_b"], "mmmu_a": []}}
    table = read_scores([lmms("none", "", results, **more)])
    assert table.table("mmmu")["n"].tolist() == [900]
    assert table.table("mmmu_a")["note"].tolist() == ["over 450 of 900 questions"]


def without_frames(path, harness="aim_llava_onevision"):
    tree = json.loads(path.read_text())
    arguments = tree["config"]["model_args"].replace(",max_frames=32", "")
    tree["config"] = {"model": harness, "model_args": arguments}
    path.write_text(json.dumps(tree))
    return path


def test_a_file_of_our_model_that_names_no_frames_is_of_its_default(lmms):
    files = [lmms("none", "", videomme(58.2)), lmms("aim", CUT, videomme(57.9))]
    files = [without_frames(path) for path in files]
    assert difference(files) == pytest.approx(-0.3)
    other = Case("llava-onevision-qwen2-7b", Workload(100, frames=16), "h100-sxm")
    assert plan(other, ttft_s=0.15, accuracy=files).difference is None


def test_frames_that_a_file_does_not_name_are_said_beside_the_number(lmms):
    files = [lmms("none", "", videomme(58.2)), lmms("aim", CUT, videomme(57.9))]
    files = [without_frames(path, "llava_onevision") for path in files]
    case = Case("llava-onevision-qwen2-7b", Workload(100, frames=16), "h100-sxm")
    answer = plan(case, ttft_s=0.08, accuracy=files)
    assert answer.difference == pytest.approx(-0.3)
    said = "over 2,700 questions, taken as of 16 frames, which its file does not say"
    assert answer.to_row()["accuracy.rows"][0]["note"] == said
    assert said in " ".join(str(answer).split())


def test_a_limit_is_said(lmms):
    few = {"n-samples": {"videomme": {"original": 2700, "effective": 100}}}
    files = [lmms("none", "", videomme(58.2)), lmms("aim", CUT, videomme(57.9), **few)]
    answer = plan(CASE, ttft_s=0.15, accuracy=files)
    text = " ".join(str(answer).split())
    assert "over 100 of 2,700 questions, the baseline over 2,700" in text
    assert "A score over 100 questions carries ±9.8 points" in text
    assert answer.to_row()["accuracy.rows"][0]["n"] == 100


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"results": [1]}, "results: expected a mapping"),
        ({"results": {"a": 1}}, r"results\.a: expected a mapping"),
        ({"results": {"a": {"acc,none": "0.5"}}}, "a score per task"),
        ({"config": []}, "config: expected a mapping"),
        ({"config": {"model_args": 3}}, r"config\.model_args: expected the arguments"),
        ({"config": {"model_args": "pretrained=a,pretrained=b"}}, "pretrained once"),
        ({"config": {"model_args": "pretrained=a,max_frames=x"}}, "a number of frames, got x"),
        ({"config": {"model_args": "pretrained=a,merge=2"}}, r"model_args\.merge"),
        ({"n-samples": 3}, "n-samples: expected a mapping"),
        ({"n-samples": {"videomme": 3}}, "videomme: expected a mapping"),
        ({"higher_is_better": {"videomme": True}}, "higher_is_better: videomme"),
        ({"group_subtasks": []}, "group_subtasks"),
    ],
)
def test_a_file_of_another_shape_is_one_clear_error(lmms, change, named):
    path = lmms("none", "", videomme(58.2), **change)
    with pytest.raises(AimError, match=named) as caught:
        read_scores([path])
    assert "\n" not in str(caught.value)
