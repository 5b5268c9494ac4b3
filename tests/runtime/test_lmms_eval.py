"""The model that lmms-eval finds: asked as lmms-eval asks it, with requests of its own class."""

import json
import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from aim_cost.errors import AimError, ScheduleError
from aim_cost.schedules.schedule import Schedule
from aim_cost.studies.lmms_results import OUR_MODEL
from aim_runtime import patched
from aim_runtime.errors import InputError
from aim_runtime.models.load import load
from aim_runtime.prompts.inputs import question_inputs
from aim_runtime.prompts.video import sample_frames
from tests.runtime.checkpoint import save_checkpoint
from tests.runtime.support import FRAME_TOKENS

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed; docs/lmms_eval.md says how")

from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model

from aim_runtime.lmms_eval.arguments import Arguments
from aim_runtime.lmms_eval.generation import FirstToken, cut, generation_options
from aim_runtime.lmms_eval.visuals import document_frames

FRAMES = 4
QUESTIONS = ("what moves", "what moves here?")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    pytest.importorskip("av")
    from benchmarks.make_clip import make_clip

    make_clip(path, frames=10)
    return path


@pytest.fixture
def make(checkpoint):
    """Make the model as lmms-eval's command line does."""

    def call(**model_args):
        given = {"pretrained": checkpoint, "max_frames": FRAMES, "dtype": "float32"} | model_args
        text = ",".join(f"{name}={value}" for name, value in given.items())
        ours = {"batch_size": "1", "max_batch_size": None, "device": "cpu"}
        return get_model(OUR_MODEL).create_from_arg_string(text, ours)

    return call


@pytest.fixture
def ask(clip):
    """Ask a model for documents of the task ``moves``."""

    def call(model, visuals=None, metadata=None, **generation_kwargs):
        model.task_dict["moves"] = {"test": [{"question": question} for question in QUESTIONS]}
        options = {"max_new_tokens": 3, "until": ["\n\n"]} | generation_kwargs
        requests = [
            Instance(
                "generate_until",
                (question, options, lambda _: visuals or [str(clip)], doc_id, "moves", "test"),
                idx=0,
                metadata={"task": "moves", "doc_id": doc_id, "repeats": 1} | (metadata or {}),
            )
            for doc_id, question in enumerate(QUESTIONS)
        ]
        return model.generate_until(requests)

    return call


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lmms_eval_finds_the_model_by_its_entry_point():
    model = get_model(OUR_MODEL)
    assert model.__module__ == "aim_runtime.lmms_eval.model"
    assert model.is_simple


def test_a_schedule_reduces_the_tokens_in_the_log(make, ask, tmp_path):
    schedules = {"none": {}, "aim": {"merge": 0.25, "prune": "linear:1:4"}}
    log = {}
    for name, parts in schedules.items():
        path = tmp_path / "results" / f"{name}.jsonl"
        answers = ask(make(log=path, **parts))
        log[name] = rows(path)
        assert [row["doc_id"] for row in log[name]] == [row["request"] for row in log[name]]
        for answer, row in zip(answers, log[name], strict=True):
            assert row["ttft_s"] > 0 and row["decode_s"] > 0
            assert row["new_tokens"] == answer.token_counts.output_tokens == 3
            entering = row["visual_tokens_entering_llm"] + row["text_tokens"]
            assert row["tokens_per_layer"][0] == answer.token_counts.input_tokens == entering
    full = FRAMES * FRAME_TOKENS + 1
    kept = FRAMES * int(FRAME_TOKENS * 0.25) + 1
    for row, reduced in zip(log["none"], log["aim"], strict=True):
        assert row["schedule"] == "none"
        assert reduced["schedule"] == "merge 0.25, prune linear:1:4"
        assert row["frames"] == reduced["frames"] == FRAMES
        assert row["text_tokens"] == reduced["text_tokens"]
        assert row["visual_tokens"] == reduced["visual_tokens"] == full
        assert row["visual_tokens_entering_llm"] == full
        assert row["visual_tokens_after_last_layer"] == full
        assert reduced["visual_tokens_entering_llm"] == kept
        assert reduced["visual_tokens_after_last_layer"] == 0
    assert log["none"][0]["text_tokens"] + 1 == log["none"][1]["text_tokens"]


def test_tokens_that_the_last_layer_drops_are_gone_after_it(make, ask, tmp_path):
    schedule = {"prune": {"ratios": [1, 1, 1, 1, 1, 0], "drop_point": "after_attention"}}
    Schedule.from_dict(schedule).save(tmp_path / "last.yaml")
    ask(make(schedule=tmp_path / "last.yaml", log=tmp_path / "samples.jsonl"))
    for row in rows(tmp_path / "samples.jsonl"):
        assert len(set(row["tokens_per_layer"])) == 1
        assert row["visual_tokens_after_last_layer"] == 0


def test_the_answers_are_those_of_the_runtime(make, ask, checkpoint, clip):
    loaded = load(checkpoint, "cpu", "float32")
    schedule = Schedule.parse("merge frame:5, prune ratios:1,0.5")
    answers = ask(make(merge="tokens:5", prune="'ratios:1,0.5'"), max_new_tokens=5)
    for question, answer in zip(QUESTIONS, answers, strict=True):
        inputs, tokenizer = question_inputs(loaded, sample_frames(clip, FRAMES), question)
        with patched(loaded.model, schedule):
            output = loaded.model.generate(**inputs, max_new_tokens=5, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        assert answer.text == tokenizer.decode(new, skip_special_tokens=True).strip()


def test_the_schedule_may_be_a_file(make, tmp_path):
    schedule = Schedule.parse("merge 0.5, prune linear:1:3")
    schedule.save(tmp_path / "aim.yaml")
    given = {"pretrained": "x", "schedule": str(tmp_path / "aim.yaml")}
    assert Arguments.from_model_args(given).schedule == schedule
    with pytest.raises(ScheduleError, match=r"schedule: expected no part .* got model_args.merge"):
        Arguments.from_model_args(given | {"merge": 0.5})


def test_the_schedule_may_be_text():
    label = "vision-merge 4, merge 0.25, prune ratios:1,0.5 score=text-attention"
    for key, text in {"schedule": f"'{label}'", "vision-merge": 4, "vision_merge": "4"}.items():
        schedule = Arguments.from_model_args({"pretrained": "x", key: text}).schedule
        assert schedule == Schedule.parse(label if key == "schedule" else "vision-merge 4")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"retention": 0.25}, r"retention.*Known: damaged, device, dtype, images_as_frames, log, "
         r"max_frames, merge, pretrained, prune, sample, schedule, select, vision_merge\."),
        ({"batch_size": "4"}, "batch_size.*1, since"),
        ({"batch_size": "auto"}, "batch_size.*1, since"),
        ({"pretrained": ""}, "Add pretrained=NAME"),
        ({"max_frames": 0}, "max_frames.*at least 1"),
        ({"images_as_frames": "maybe"}, "true or false"),
        ({"damaged": "maybe"}, "damaged.*true or false"),
        ({"merge": 2}, "merge"),
        ({"prune": "line:1:2"}, "prune"),
        ({"schedule": "no.yaml"}, "no.yaml"),
    ],
)  # fmt: skip
def test_arguments_that_are_wrong_say_what_is_right(given, message):
    with pytest.raises(AimError, match=message):
        Arguments.from_model_args({"pretrained": "x"} | given)


def test_a_schedule_that_does_not_fit_is_refused_before_any_request(make):
    with pytest.raises(AimError, match="at most 6 ratios"):
        make(prune="'ratios:1,1,1,1,1,1,1,1,0.5'")


def test_an_old_log_is_not_touched(make, tmp_path):
    old = tmp_path / "old.jsonl"
    old.write_text("{}\n")
    with pytest.raises(InputError, match=r"old\.jsonl: File exists.*another path"):
        make(log=old)
    assert old.read_text() == "{}\n"


def test_each_process_has_a_log_of_its_own(make, ask, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    ask(make(log=tmp_path / "samples.jsonl"))
    assert [path.name for path in tmp_path.iterdir()] == ["samples.1.jsonl"]


def test_requests_that_only_fill_a_batch_are_not_logged(make, ask, tmp_path):
    log = tmp_path / "samples.jsonl"
    assert len(ask(make(log=log), metadata={"__padding_only__": True})) == len(QUESTIONS)
    assert rows(log) == []


def test_a_document_without_a_video_is_refused(make, ask, clip):
    images = [Image.new("RGB", (40, 30))]
    for visuals in (images, [str(clip), str(clip)], [{"type": "video"}]):
        with pytest.raises(InputError, match=r"moves, document 0: expected one video file, got"):
            ask(make(), visuals=visuals)
    with pytest.raises(InputError, match=r"got 0 visuals"):
        document_frames(None, Arguments("x"), "moves")


def test_images_may_be_the_frames_of_a_video(make, ask, tmp_path):
    images = [Image.new("RGB", (40, 30 + i), (i, i, i)) for i in range(9)]
    with pytest.raises(InputError, match="images_as_frames=true"):
        ask(make(), visuals=images)
    log = tmp_path / "samples.jsonl"
    ask(make(images_as_frames="true", log=log), visuals=images)
    assert [row["frames"] for row in rows(log)] == [FRAMES, FRAMES]
    frames = document_frames(images, Arguments("x", max_frames=5, images_as_frames=True), "moves")
    assert frames.shape == (5, 30, 40, 3) and frames.dtype == np.uint8
    assert frames[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8]


def test_a_short_video_gives_all_its_frames(clip):
    assert len(document_frames([str(clip)], Arguments("x"), "moves")) == 10
    assert np.array_equal(sample_frames(clip, 32, fewer=True), sample_frames(clip, 10))


def test_a_damaged_video_gives_what_comes_before_the_damage_if_asked(make, ask, clip, tmp_path):
    av, cut, log = pytest.importorskip("av"), tmp_path / "cut.mkv", tmp_path / "samples.jsonl"
    with av.open(str(clip)) as source, av.open(str(cut), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match="damaged=True"):
        ask(make(), visuals=[str(cut)])
    ask(make(damaged="true", max_frames=32, log=log), visuals=[str(cut)])
    assert 0 < rows(log)[0]["frames"] < 10


def test_other_kinds_of_requests_are_refused(make):
    model = make()
    for ask_so in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(InputError, match="generate_until"):
            ask_so([])


def test_the_model_is_freed_in_the_end(make):
    model = make()
    assert model.device == torch.device("cpu")
    model.clean()
    assert not [value for value in vars(model).values() if hasattr(value, "model")]


def test_generation_options():
    greedy = {"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1}
    told = generation_options(greedy | {"do_sample": False, "image_aspect_ratio": "pad"})
    assert told == ({"max_new_tokens": 16, "num_beams": 1, "do_sample": False}, ())
    assert generation_options({"temperature": 0.7, "top_p": None, "until": "\n"}) == (
        {"max_new_tokens": 1024, "temperature": 0.7, "do_sample": True},
        ("\n",),
    )
    assert not generation_options({"do_sample": True, "temperature": 0})[0]["do_sample"]
    with pytest.raises(InputError, match=re.escape("generation_kwargs.max_gen_toks")):
        generation_options({"max_gen_toks": 5})


def test_text_ends_before_the_first_stop():
    assert cut(" B. because\n\nof ", ("\n\n", "\n")) == "B. because"
    assert cut("\n\nB", ("\n\n", "")) == "B"


def test_the_first_token_ends_after_one_forward(checkpoint, clip):
    """The spans, and how often the decoder had run when each began and ended."""
    loaded, seen, forwards = load(checkpoint, "cpu", "float32"), [], []

    class Recorder:
        @contextmanager
        def span(self, name):
            seen.append((f"{name} starts", len(forwards)))
            yield
            seen.append((f"{name} ends", len(forwards)))

    inputs, _ = question_inputs(loaded, sample_frames(clip, FRAMES), QUESTIONS[0])
    decoder = loaded.model.model.language_model
    hook = decoder.register_forward_hook(lambda *_: forwards.append(1))
    with FirstToken(Recorder()) as first:
        loaded.model.generate(**inputs, max_new_tokens=3, stopping_criteria=[first])
    hook.remove()
    assert seen == [("ttft starts", 0), ("ttft ends", 1), ("decode starts", 1), ("decode ends", 3)]


def test_the_tokenizer_is_read_once(make, ask, monkeypatch):
    model, read = make(), []
    original = AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *a, **k: read.append(1) or original(*a, **k)
    )
    ask(model)
    ask(model)
    assert len(read) <= 1
