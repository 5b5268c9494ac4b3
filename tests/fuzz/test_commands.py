"""Command lines: a right answer or one clear error, whatever is typed."""

import csv
import io
import json
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aim_cost import AimError, Case, Schedule, Workload
from aim_cost.cli.main import app
from aim_cost.devices.hardware import hardware_names
from aim_cost.methods.library import METHODS
from aim_cost.models.model import load_model_spec, preset_names
from aim_cost.sweeps.chunk import chunk
from aim_cost.sweeps.grid import Grid
from tests.fuzz.asked import command, fuzzed, no_hang, numbers, odd_numbers, refused, shown, texts
from tests.fuzz.schedules import part, schedules

names = st.one_of(
    st.sampled_from(preset_names()),
    st.sampled_from(["", "llava", "nowhere/config.json", "/", ".", "x" * 5000, "llava-1.5-7B"]),
)
devices = st.one_of(
    st.sampled_from(hardware_names()), st.sampled_from(["", "h100", "nowhere.yaml", "/dev/null"])
)
sizes = st.one_of(
    st.tuples(numbers, numbers).map(lambda pair: f"{pair[0]}x{pair[1]}"),
    st.sampled_from(["224x224", "448x448", "1080x1920", "1x1", "28x28", "x", "224", "1x2x3"]),
    odd_numbers,
)
limits = st.one_of(st.floats(1, 1000).map(repr), odd_numbers, numbers.map(str))
_FORMAT = st.sampled_from(["json", "csv", "table", "xml"])
OPTIONS = {
    "--model": names,
    "--hardware": devices,
    "--frames": shown(numbers),
    "--image-tokens": shown(numbers),
    "--image": sizes,
    "--frame-size": sizes,
    "--text-tokens": shown(numbers),
    "--batch": shown(st.one_of(st.integers(1, 9), numbers)),
    "--merge": part("merge"),
    "--prune": part("prune"),
    "--select": part("select"),
    "--vision-merge": part("vision-merge"),
    "--tokens-per-frame": shown(numbers),
    "--schedule": schedules,
    "--dtype": st.sampled_from(["bfloat16", "float32", "float16", "int4", ""]),
    "--attention": st.sampled_from(["sdpa", "eager", "flash"]),
    "--execution": st.sampled_from(["eager", "cuda-graph", "ideal", "fast"]),
    "--convention": st.sampled_from(["executed", "llm-viewer", "fastv", "none"]),
    "--scoring": st.sampled_from(["torch", "fused", "x"]),
    "--last-layer": st.sampled_from(["all", "needed", "x"]),
    "--calibration": st.sampled_from(["h100-sxm", "nowhere.yaml", ""]),
    "--format": _FORMAT,
}


def chosen(*options):
    """Arguments of some of the options, each once and in any order."""
    pairs = [OPTIONS[name].map(lambda value, name=name: (name, value)) for name in options]
    return st.lists(st.one_of(pairs), max_size=6, unique_by=lambda pair: pair[0]).map(
        lambda found: [word for pair in found for word in pair]
    )


@fuzzed(0.12)
@given(arguments=chosen(*OPTIONS))
def test_predict(arguments):
    answer = command(app, ["predict", *arguments])
    if isinstance(answer, str):
        check_predicted(answer, arguments)


def check_predicted(answer, arguments):
    form = dict(zip(arguments[::2], arguments[1::2], strict=True)).get("--format", "table")
    if form == "table":
        assert answer.strip()
        return
    row = json.loads(answer) if form == "json" else next(csv.DictReader(io.StringIO(answer)))
    assert 0 < float(row["total.flops"]) < 1e40
    assert 0 < float(row["ttft_s"]) < 1e15


@fuzzed(0.06)
@given(
    model=st.sampled_from(["llava-onevision-qwen2-7b", "llava-onevision-qwen2-0.5b"]),
    device=st.sampled_from(["h100-sxm", "l40s", "cpu-generic"]),
    execution=st.sampled_from(["eager", "cuda-graph", "ideal"]),
    frames=st.integers(1, 400),
    text_tokens=st.integers(1, 1000),
    batch=st.integers(1, 4),
    kept=st.sampled_from([1.0, 0.75, 0.5, 0.3, 0.25, 0.1, 0.0625]),
    prune=st.none() | st.tuples(st.integers(0, 23), st.integers(1, 30)),
)
def test_prices_equal_those_of_the_closed_forms(
    model, device, execution, frames, text_tokens, batch, kept, prune
):
    """The second way: formulas over all sizes at once, which share no op with an estimate."""
    merge = [] if kept == 1 else ["--merge", str(kept)]
    pair = None if prune is None else (prune[0], sum(prune))
    cut = [] if pair is None else ["--prune", f"linear:{pair[0]}:{pair[1]}"]
    sized = ["--frames", frames, "--text-tokens", text_tokens, "--batch", batch]
    arguments = ["--model", model, "--hardware", device, "--execution", execution, *merge, *cut]
    answer = command(app, ["predict", *arguments, *map(str, sized), "--format", "json"])
    grid = refused(
        Grid,
        models=(load_model_spec(model),),
        hardware=(Case(model, Workload(1, frames=1), device).device,),
        executions=(
            Case(model, Workload(1, frames=1), device).execution.__class__(mode=execution),
        ),
        frames=(frames,),
        text_tokens=(text_tokens,),
        retentions=(kept,),
        prunes=(pair,),
        batch=batch,
    )
    if grid is None or not isinstance(answer, str):
        assert grid is None and isinstance(answer, AimError), "one way refuses, the other does not"
        return
    with no_hang():
        (row,) = chunk(grid, 0).to_dict("records")
    found = json.loads(answer)
    for name in ("vision", "merge", "llm", "importance", "total"):
        assert found[f"{name}.flops"] == row[f"{name}.flops"]
    assert found["kv_cache_bytes"] == row["kv_cache_bytes"]
    assert found["ttft_s"] == pytest.approx(row["ttft_s"], rel=1e-9)


@fuzzed(0.03)
@given(
    arguments=chosen("--model", "--hardware", "--text-tokens", "--batch", "--dtype", "--execution"),
    frames=st.one_of(shown(numbers.filter(lambda number: number < 500 or number > 10**6)),
                     st.sampled_from(["auto", "8", "32"])),
    bounds=st.dictionaries(
        st.sampled_from(["--ttft-ms", "--flops-tera", "--memory-gb"]), limits, max_size=3
    ),
    benchmark=st.none() | st.sampled_from(["videomme", "mmmu", ""]),
)  # fmt: skip
def test_plan_keeps_its_limits_and_prints_limits_that_hold(arguments, frames, bounds, benchmark):
    typed = ["plan", *arguments, "--frames", frames]
    typed += [] if benchmark is None else ["--benchmark", benchmark]
    limited = [word for pair in bounds.items() for word in pair]
    answer = command(app, [*typed, *limited, "--format", "json"])
    if isinstance(answer, str):
        row = json.loads(answer)
        for name, key in (("ttft_s", "ttft_s"), ("flops", "total.flops")):
            limit = row[f"limits.{name}"]
            assert limit is None or row[key] <= limit
        assert row["peak_memory_bytes"] <= row["limits.memory_bytes"]
    elif isinstance(answer, AimError) and (
        raised := re.search(r"It fits (--[^,]*)\. ?", answer.fix)
    ):
        words = re.findall(r"(--[a-z-]+) (\d+\.\d+)", raised[1])
        assert words
        kept = [word for pair in bounds.items() if pair[0] not in dict(words) for word in pair]
        again = [word for pair in words for word in pair]
        assert isinstance(command(app, [*typed, *kept, *again, "--format", "json"]), str)


@fuzzed(0.03)
@given(
    arguments=chosen("--dtype", "--execution", "--last-layer", "--format", "--attention"),
    axes=st.fixed_dictionaries(
        {},
        optional={
            "--frames": st.one_of(
                st.sampled_from(["8", "1:9", "4:64:20", "0:5", "9:1", "1:10000000000", "8,8,8"]),
                shown(numbers.filter(lambda number: number < 300 or number > 10**6)),
            ),
            "--text-tokens": shown(numbers),
            "--merge": st.lists(st.one_of(st.sampled_from(["1", "0.5", "0"]), odd_numbers),
                                min_size=1, max_size=3).map(",".join),
            "--l1": st.sampled_from(["none", "14", "none,0:28", "28", "-1", "", "none,none", "x"]),
            "--l2": st.sampled_from(["22", "1:29", "0", "99", "1:1", "1e9", "22:"]),
            "--batch": shown(st.integers(1, 4)),
            "--top": shown(st.integers(-1, 20)),
            "--model": st.sampled_from(["llava-onevision-qwen2-0.5b", "qwen2.5-vl-7b", "x", ""]),
            "--hardware": st.sampled_from(["h100-sxm", "h100-sxm,l40s", "a,b", ","]),
        },
    ),
)  # fmt: skip
def test_sweep_prints_what_estimates_say(arguments, axes):
    typed = [word for pair in axes.items() for word in pair]
    answer = command(app, ["sweep", *arguments, *typed])
    form = dict(zip(arguments[::2], arguments[1::2], strict=True)).get("--format", "table")
    if not isinstance(answer, str) or form != "json":
        return
    for row in json.loads(answer)[:2]:
        words = [f"merge {row['merge.retention']}"] if row["merge.retention"] != 1 else []
        if row["prune.l1"] is not None:
            words.append(f"prune linear:{row['prune.l1']}:{row['prune.l2']}")
        execution = Case(
            "llava-1.5-7b", Workload(1, image_tokens=1), "h100-sxm"
        ).execution.__class__(
            row["dtype"], row["attention"], row["execution"], last_layer=row["last_layer"]
        )
        workload = Workload(row["text_tokens"], frames=row["frames"], batch=row["batch"])
        priced = Case(row["model"], workload, row["hardware"], execution).price(
            ", ".join(words) or "none"
        )
        assert priced.flops == row["total.flops"]
        assert priced.ttft_s == pytest.approx(row["ttft_s"], rel=1e-9)


method_words = st.lists(
    st.tuples(
        st.sampled_from([*METHODS, "nobody", "", "all"]),
        st.sampled_from(["", ":k=3", ":r=0.75", ":k=x", ":retention=0", ":", ":=", ":k=3:k=4"]),
    ).map("".join),
    min_size=1,
    max_size=3,
).map(",".join)


@fuzzed(0.03)
@given(
    arguments=chosen("--model", "--hardware", "--text-tokens", "--dtype", "--execution",
                     "--frame-size", "--calibration", "--format"),
    methods=method_words,
    frames=st.none() | shown(numbers.filter(lambda number: number < 100 or number > 10**6)),
    conventions=st.sampled_from(["all", "executed", "fastv,executed", "x", ""]),
    equal=st.none() | st.sampled_from(["tokens", "flops", "time", "x"]),
    budget=st.none() | limits,
)  # fmt: skip
def test_compare(arguments, methods, frames, conventions, equal, budget):
    typed = ["compare", "--methods", methods, "--conventions", conventions, *arguments]
    for name, value in (("--frames", frames), ("--equal", equal), ("--budget", budget)):
        typed += [] if value is None else [name, value]
    command(app, typed)


others = st.one_of(
    st.tuples(st.just("methods"), st.one_of(st.sampled_from([*METHODS, "x", ""]), texts)),
    st.tuples(st.just("symbolic"), st.just("--part"), st.sampled_from(["llm", "kv", "x", ""])),
    st.tuples(st.just("models"), st.just("--format"), _FORMAT),
    st.tuples(st.just("hardware"), st.just("--format"), _FORMAT),
    st.tuples(st.just("table"), st.just("--format"), _FORMAT),
    st.tuples(st.just("evaluate"), st.just("--kernels"), st.sampled_from(["/nowhere", "", "."])),
    st.tuples(st.just("plot"), st.sampled_from(["tokens", "x"]), st.just("--out"), texts),
    st.lists(texts, max_size=4).map(tuple),
)


@fuzzed(0.03)
@given(words=others)
def test_other_commands(words):
    assume("--help" not in words)
    if words and words[0] == "plot":  # never write a picture where a name happens to be right
        words = (*words[:3], "/proc/nowhere/" + words[3].replace("\x00", ""))
    command(app, list(words))


@fuzzed(0.02)
@given(
    text=schedules,
    workload=st.tuples(st.integers(0, 300), st.integers(0, 40), st.integers(0, 3)),
    model=names,
    device=devices,
)
def test_the_functions_refuse_as_the_commands_do(text, workload, model, device):
    sized = refused(Workload, workload[0], frames=workload[1], batch=workload[2])
    case = None if sized is None else refused(Case, model, sized, device)
    priced = None if case is None else refused(case.price, text)
    if priced is not None:
        assert priced.schedule == Schedule.parse(text)
        assert priced.report()
