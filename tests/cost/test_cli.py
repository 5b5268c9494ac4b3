"""The aim-cost command line, run as a user runs it."""

import csv
import io
import json
import subprocess
import sys

import pytest

AIM = ["--merge", "0.25", "--prune", "linear:14:22"]
PUBLISHED = ["--convention", "llm-viewer", "--hardware", "a100-sxm4-40gb"]


def run(*arguments, status=0):
    result = subprocess.run(
        [sys.executable, "-m", "aim_cost.cli", *arguments], capture_output=True, text=True
    )
    assert result.returncode == status, result.stderr
    return result.stderr if status else result.stdout


def predict(*arguments):
    return json.loads(run("predict", *arguments, "--format", "json"))


def test_predict_json_is_what_scripts_rely_on():
    answer = predict(
        *["--model", "llava-onevision-qwen2-7b", "--frames", "32", "--text-tokens", "100"],
        *[*AIM, *PUBLISHED],
    )
    assert round(answer["llm"]["flops"] / 1e12, 2) == 14.76
    assert round(answer["llm"]["time_s"] * 1e3, 2) == 55.03
    assert isinstance(answer["llm"]["flops"], int)
    assert answer["llm.flops"] == answer["llm"]["flops"]
    assert answer["convention"] == "llm-viewer"
    assert answer["hardware"] == "a100-sxm4-40gb"
    assert len(answer["tokens_per_layer"]) == 28
    for key in ("vision.flops", "merge.flops", "importance.flops"):
        assert key in answer
    for key in ("ttft_s", "kv_cache_bytes", "peak_memory_bytes"):
        assert answer[key] > 0


def test_without_a_schedule_nothing_is_reduced():
    answer = predict("--frames", "8")
    assert set(answer["tokens_per_layer"]) == {8 * 196 + 1 + 100}
    assert answer["merge.flops"] == answer["importance.flops"] == 0


def test_tokens_per_frame_and_image_tokens():
    assert predict("--frames", "4", "--tokens-per-frame", "10")["tokens_per_layer"][0] == 141
    answer = predict("--model", "llava-1.5-7b", "--image-tokens", "576", "--text-tokens", "40")
    assert answer["tokens_per_layer"] == [616] * 32


def test_a_schedule_file_equals_the_flags(tmp_path):
    path = tmp_path / "aim.yaml"
    path.write_text("merge: {retention: 0.25}\nprune: {linear: [14, 22]}\n")
    assert predict("--schedule", str(path)) == predict(*AIM)


def test_csv_has_the_dotted_columns():
    (row,) = csv.DictReader(io.StringIO(run("predict", "--format", "csv")))
    assert int(row["llm.flops"]) == 99_475_654_713_344


def test_listings():
    hardware = json.loads(run("hardware", "--format", "json"))
    names = {row["name"] for row in hardware}
    assert {"v100-sxm2-16gb", "a100-sxm4-40gb", "h200-sxm", "rtx-4090", "mi300x"} <= names
    models = json.loads(run("models", "--format", "json"))
    assert "llava-1.5-13b" in {row["name"] for row in models}
    table = json.loads(run("table", "--format", "json"))
    assert sum(row["agrees"] for row in table) == 13
    assert len(table) == 17


def test_merging_in_the_tower():
    plain = predict(*AIM, "--frames", "4")
    merged = predict(*AIM, "--frames", "4", "--vision-merge", "16:2-9")
    assert merged["schedule"] == "vision-merge 16 layers=2-9, merge 0.25, prune linear:14:22"
    assert merged["tower_tokens_per_layer"] == [729, 729, *range(729, 601, -16), *(601,) * 17]
    assert merged["vision.flops"] < plain["vision.flops"]
    assert merged["llm.flops"] == plain["llm.flops"]


@pytest.mark.parametrize("command", ["predict", "models", "hardware", "table"])
def test_tables_fit_80_columns(command):
    arguments = [*AIM, "--vision-merge", "16"] if command == "predict" else []
    assert all(len(line) <= 80 for line in run(command, *arguments).splitlines())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--merge", "1.5"], "merge.retention"),
        (["--merge", "0"], "merge.retention"),
        (["--prune", "linear:22:14"], "l1 < l2"),
        (["--prune", "linear:30:40"], "28"),
        (["--hardware", "a100"], "a100-sxm4-40gb"),
        (["--hardware", "v100-sxm2-16gb"], "--dtype"),
        (["--model", "nobody"], "llava-1.5-7b"),
        (["--model", "llava-1.5-7b"], "--image-tokens"),
        (["--frames", "0"], "frames"),
        (["--frames", "1", "--image-tokens", "5"], "either"),
        (["--merge", "0.5", "--tokens-per-frame", "3"], "--tokens-per-frame"),
        (["--schedule", "s.yaml", "--merge", "0.5"], "--schedule"),
        (["--schedule", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--convention", "macs"], "llm-viewer"),
        (["--vision-merge", "28"], "at most 27 a layer"),
        (["--vision-merge", "8:4-26"], "layers below 26"),
        (["--vision-merge", "8", "--model", "qwen2-vl-7b"], "qwen2_vl_vision"),
        (["--schedule", "s.yaml", "--vision-merge", "8"], "--vision-merge"),
        (["--frames", "many"], "--frames"),
        (["--unknown"], "--unknown"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, named):
    message = run("predict", *arguments, status=2)
    assert named in message
    assert "Traceback" not in message
