"""The aim-runtime command line, run as a user runs it."""

import json
import subprocess
import sys

import pytest

from aim_cost import Schedule
from aim_runtime.cli.main import main
from tests.runtime.models import tiny_llava_15
from tests.runtime.support import shared_golden, tiny_config


@pytest.fixture
def run(monkeypatch, capfd):
    """Call the entry point in this process (torch takes seconds to import in a new one)."""

    def call(*arguments, status=0):
        monkeypatch.setattr(sys, "argv", ["aim-runtime", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capfd.readouterr()
        assert (end.value.code or 0) == status, printed.err
        return printed.err if status == 2 else printed.out

    return call


def test_the_module_runs_as_a_command():
    help_text = subprocess.run(
        [sys.executable, "-m", "aim_runtime.cli", "--help"], capture_output=True, text=True
    )
    assert help_text.returncode == 0
    assert all(name in help_text.stdout for name in ("measure", "validate", "selfcheck"))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "tiny.json"
    path.write_text(json.dumps(tiny_config()))
    return path


def test_validate_json(run, config, tmp_path):
    answer = json.loads(
        run(
            *("validate", "--model", config, "--layers", 3, "--frames", 4, "--repeats", 2),
            *("--device", "cpu", "--dtype", "float32", "--plot", tmp_path / "v.png"),
            *("--hardware", "cpu-generic", "--format", "json"),
        )
    )
    assert answer["passed"]
    assert answer["flops_equal"]
    assert isinstance(answer["mape"], float)
    assert isinstance(answer["kendall_tau"], float)
    assert all(len(row["tokens_per_layer"]) == 3 for row in answer["rows"])
    assert answer["environment"]["torch"]
    assert (tmp_path / "v.png").exists()


def test_measure_writes_rows_and_resumes(run, config, tmp_path):
    out = tmp_path / "rows.json"
    arguments = (
        *("measure", "--model", config, "--frames", 2, "--repeats", 2, "--warmup", 0),
        *("--device", "cpu", "--dtype", "float32", "--out", out, "--resume"),
        *("--merge", "tokens:2", "--format", "json"),
    )
    first = json.loads(run(*arguments))
    assert [row["schedule"] for row in first] == ["none", "merge frame:2"]
    assert all(row["repeats"] == 2 and row["error"] is None for row in first)
    assert json.loads(out.read_text())["rows"] == first
    assert json.loads(run(*arguments)) == first  # nothing was measured again


def test_validate_an_image_of_another_family(run, tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(tiny_llava_15().config.to_dict()))
    answer = json.loads(
        run(
            *("validate", "--model", path, "--layers", 3, "--image-tokens", 18, "--repeats", 1),
            *("--device", "cpu", "--dtype", "float32", "--merge", "0.5", "--text-tokens", 20),
            *("--hardware", "cpu-generic", "--format", "json"),
        )
    )
    assert answer["passed"]
    assert [row["tokens_per_layer"] for row in answer["rows"]] == [[18 + 20] * 3, [8 + 20] * 3]
    assert all((r["frames"], r["image_tokens"]) == (None, 18) for r in answer["rows"])


def test_a_table_in_every_form(run, config, tmp_path):
    arguments = (
        *("table", "--model", config, "--frames", 2, "--methods", "fastv:k=1,visionzip"),
        *("--convention", "fastv", "--new-tokens", 2, "--repeats", 1, "--dtype", "float32"),
        *("--device", "cpu", "--out", tmp_path / "rows.json", "--resume", "--format"),
    )
    answer = json.loads(run(*arguments, "json"))
    assert [row["label"] for row in answer["rows"]] == ["none", "fastv", "visionzip"]
    assert answer["environment"]["torch"] and answer["new_tokens"] == 2
    assert run(*arguments, "csv").count("\n") == 4
    assert "| fastv |" in run(*arguments, "markdown")
    assert run(*arguments, "latex").startswith(r"\begin{table*}")
    assert "Parameters: fastv k 1, r 0.5" in run(*arguments, "table")


def test_selfcheck_on_recorded_vectors(run):
    vectors = shared_golden("prefill_prune_std0.1.safetensors")
    answer = json.loads(
        run("selfcheck", "--vectors", vectors, "--device", "cpu", "--format", "json")
    )
    assert answer["kept_sets_equal"] is True
    assert answer["greedy_tokens_equal"] is True
    assert answer["max_logit_difference"] <= 1e-4


@pytest.mark.parametrize(
    "command", [("validate",), ("measure", "--frames", "2"), ("table", "--methods", "aim")]
)
def test_a_workload_is_refused_before_any_weights_are_made(run, monkeypatch, command):
    monkeypatch.setattr(
        "aim_runtime.models.load._random_model", lambda *_: pytest.fail("made weights")
    )
    message = run(*command, "--model", "llava-1.5-7b", status=2)
    assert "expected a model that takes video" in message
    assert "--image-tokens" in message


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("selfcheck", "--vectors", "/nowhere.safetensors"), "/nowhere.safetensors"),
        (("validate", "--model", "nobody"), "llava-1.5-7b"),
        (("measure", "--image-tokens", "729", "--frames", "2"), "frames, image_tokens"),
        (("validate", "--layers", "99"), "24"),
        (("validate", "--layers", "2", "--prune", "linear:2:3"), "l1 below 2"),
        (("validate", "--layers", "2", "--device", "tpu"), "device"),
        (("measure", "--layers", "2", "--pretrained"), "random"),
        (("measure", "--schedule", "/nowhere.yaml"), "/nowhere.yaml"),
        (("accuracy", "--questions", "0"), "questions"),
        (("table", "--methods", "nobody"), "pyramiddrop"),
        (("table", "--convention", "nobody"), "llm-viewer"),
        (("table", "--methods", "fastv:k=99", "--layers", "2"), "fastv.k"),
        (("table", "--equal", "flops", "--budget", "-1"), "--budget"),
        (("table", "--equal", "time"), "--hardware"),
        (("table", "--budget", "3"), "--equal"),
        (("accuracy", "--questions", "6", "--methods", "aim", "--merge", "0.5"), "--methods"),
        (("accuracy", "--questions", "6", "--methods", "aim", "--budgets", "half"), "--budgets"),
        (
            ("accuracy", "--questions", "6", "--methods", "aim", "--equal", "sum"),
            "flops, time, tokens",
        ),
        (("campaign", "--minutes", "9", "--dry-run", "--device", "cpu"), "a CUDA GPU"),
        (
            ("generate", "--model", "qwen2-vl-7b", "--video", "x.mp4", "--prompt", "what"),
            "a LLaVA-OneVision",
        ),
        (("fidelity", "--model", "llava-1.5-7b", "--prompts", "{prompts}"), "a LLaVA-OneVision"),
    ],
)
def test_bad_input_is_one_clear_error(run, arguments, named, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"video": "x.mp4", "question": "what"}\n')
    arguments = [part.replace("{prompts}", str(prompts)) for part in arguments]
    message = run(*arguments, status=2)
    assert named in message
    assert "Traceback" not in message


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder as the hub has it: config, safetensors, tokenizer, preprocessor."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from aim_runtime.models.load import load

    folder = tmp_path_factory.mktemp("checkpoint")
    loaded = load(tiny_config(), "cpu", "float32", random_weights=True)
    loaded.model.save_pretrained(folder)
    words = ["<unk>", "what", "moves", "?", "user", "assistant", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: i for i, word in enumerate([*words, *(f"w{i}" for i in range(200))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    normalisation = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "SiglipImageProcessor", **normalisation})
    )
    return folder


def test_generate_answers_a_question_about_a_video(run, checkpoint, tmp_path):
    pytest.importorskip("av")
    from benchmarks.make_clip import make_clip

    clip = tmp_path / "clip.mp4"
    make_clip(clip, frames=12)
    arguments = (
        *("generate", "--model", checkpoint, "--video", clip, "--prompt", "what moves ?"),
        *("--frames", 4, "--max-new-tokens", 5, "--device", "cpu", "--dtype", "float32"),
        *("--format", "json"),
    )
    (plain,) = json.loads(run(*arguments))
    (reduced,) = json.loads(run(*arguments, "--merge", "tokens:3", "--prune", "linear:1:3"))
    assert plain["new_tokens"] == reduced["new_tokens"] == 5
    assert plain["text"]
    text = plain["tokens_per_layer"][0] - (4 * 9 + 1)
    assert plain["tokens_per_layer"] == [4 * 9 + 1 + text] * 4
    visual = 4 * 3 + 1
    assert reduced["tokens_per_layer"] == [visual + text] * 2 + [int(visual * 0.5 + text), text]


def test_generate_names_what_a_checkpoint_lacks(run, checkpoint, tmp_path):
    import shutil

    pytest.importorskip("av")
    from benchmarks.make_clip import make_clip

    make_clip(tmp_path / "clip.mp4", frames=4)
    bare = shutil.copytree(
        checkpoint, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*", "preproc*")
    )
    message = run(
        *("generate", "--model", bare, "--video", tmp_path / "clip.mp4", "--prompt", "what ?"),
        *("--frames", 2, "--device", "cpu", "--dtype", "float32"),
        status=2,
    )
    assert "tokenizer" in message


def test_validate_methods_beside_what_each_was_predicted_to_cost(run, config):
    command = ["validate", "--model", config, "--layers", 3, "--frames", 4, "--repeats", 1]
    command += ["--device", "cpu", "--dtype", "float32", "--hardware", "cpu-generic"]
    methods = ("--methods", "visionzip,fastv:k=1,pact,fastervlm")
    answer = json.loads(run(*command, *methods, "--format", "json"))
    assert answer["passed"]
    assert [row["method"] for row in answer["rows"]] == [
        *("none", "visionzip", "fastv", "fastervlm")
    ]
    tokens = [row["tokens_per_layer"] for row in answer["rows"]]
    assert tokens[1][0] < tokens[0][0] == tokens[2][0] > tokens[2][1]
    assert "up to 3, the depth" in answer["left_out"]["pact"]
    equal = ("--equal", "tokens", "--budget", 20)
    text = " ".join(run(*command, "--methods", "fastv:k=1,tome", *equal).split())
    assert "method TFLOPs = pred. meas. error gain" in text
    assert "No row of tome: cannot meet 20.0" in text
    for wrong in (("--merge", 0.5, *methods), ("--equal", "flops"), ("--methods", "fastvv")):
        assert "--methods" in run(*command, *wrong, status=2) or "fastvv" in wrong


ACCURACY = ("accuracy", "--questions", 6, "--draws", 1, "--format", "json")


def test_accuracy_of_a_schedule_beside_no_reduction(run):
    rows = json.loads(run(*ACCURACY, "--schedule", "merge 0.5"))
    assert list(dict.fromkeys(row["schedule"] for row in rows)) == ["none", "merge 0.5"]


def test_accuracy_takes_the_schedules_of_the_exam_where_none_is_named(run, monkeypatch):
    monkeypatch.setattr(
        "aim_runtime.answers.accuracy.exam_schedules",
        lambda: [Schedule(), Schedule.parse("prune linear:2:6")],
    )
    rows = json.loads(run(*ACCURACY))
    assert list(dict.fromkeys(row["schedule"] for row in rows)) == ["none", "prune linear:2:6"]


def test_accuracy_of_methods_at_equal_budgets(run, tmp_path, monkeypatch):
    """Those that run; those that cannot meet the budget or do not run say why.

    Rows that are there are printed again, and no clip is drawn for them.
    """
    out = tmp_path / "rows.json"
    command = [*ACCURACY[:-2], "--methods", "vtw,fastv:k=3,tome,pact", "--budgets", "0.5,0.3"]
    shown = run(*command, "--out", out)
    rows = json.loads(out.read_text())["rows"]
    found = [(row.get("method"), row.get("budget")) for row in rows if row["kind"] == "all"]
    assert found == [(None, None), ("vtw", 0.5), ("vtw", 0.3), ("fastv:k=3", 0.5)]
    assert all(row["to_uniform"] is not None for row in rows if row.get("method"))
    assert max(map(len, shown.splitlines())) <= 80
    text = " ".join(shown.split())
    assert "fastv:k=3 at 30 %: cannot meet" in text
    assert "pact does not run: it merges tokens into clusters" in text
    monkeypatch.setattr("aim_runtime.tiny.exam.draw_exam", None)
    again = run(*command, "--out", out, "--resume")
    assert again == shown
    tree = json.loads(out.read_text())
    out.write_text(json.dumps(tree | {"environment": {"torch": "1.0"}}))
    assert run(*command, "--out", out, "--resume") == shown
    message = run(*command, "--draws", 2, "--out", out, "--resume", status=2)
    assert "environment.torch" in message
