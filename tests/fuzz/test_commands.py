"""Commands of aim-cost: a right answer or one clear error, whatever is typed."""

import csv
import io
import json
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aim_cost import AimError, Case, Execution, Schedule, Workload, load_hardware, load_model_spec
from aim_cost.cli.main import app
from aim_cost.methods.library import METHODS
from aim_cost.models.model import preset_names
from aim_cost.sweeps.chunk import chunk
from aim_cost.sweeps.grid import Grid
from tests.fuzz.asked import (
    command,
    fuzzed,
    no_hang,
    numbers,
    odd_numbers,
    refused,
    shown,
    texts,
    typed,
)
from tests.fuzz.options import OPTIONS, devices, formats, limits, names, some
from tests.fuzz.schedules import schedules

few = numbers.filter(lambda number: number < 300 or number > 10**6)


def asked(name, *words):
    """Rows that a command prints as JSON or CSV; the table's text; or how it refuses."""
    answer = command(app, [name, *words])
    if not isinstance(answer, str) or "--format" not in words:
        return answer
    form = words[words.index("--format") + 1]
    if form == "csv":
        return list(csv.DictReader(io.StringIO(answer)))
    return json.loads(answer) if form == "json" else answer


@fuzzed(0.2)
@given(options=some(*OPTIONS))
def test_predict(options):
    row = asked("predict", *typed(options))
    row = row[0] if isinstance(row, list) else row
    if isinstance(row, dict):
        assert 0 < float(row["ttft_s"]) < 1e15
        flops = [int(row[f"{name}.flops"]) for name in ("vision", "merge", "llm", "importance")]
        assert 0 < sum(flops) == int(row["total.flops"]) < 1e40


@fuzzed(0.02)
@given(
    model=st.sampled_from([name for name in preset_names() if load_model_spec(name).takes_video]),
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
    """The second way: formulas over all sizes at once, in symbols."""
    pair = None if prune is None else (prune[0], sum(prune))
    options = {"--model": model, "--hardware": device, "--execution": execution}
    options |= {"--frames": frames, "--text-tokens": text_tokens, "--batch": batch}
    options |= {"--merge": None if kept == 1 else kept}
    options |= {"--prune": pair and f"linear:{pair[0]}:{pair[1]}", "--format": "json"}
    found = asked("predict", *typed(options))
    grid = refused(
        Grid,
        models=(load_model_spec(model),),
        hardware=(load_hardware(device),),
        executions=(Execution(mode=execution),),
        frames=(frames,),
        text_tokens=(text_tokens,),
        retentions=(kept,),
        prunes=(pair,),
        batch=batch,
    )
    if grid is None or isinstance(found, AimError):
        assert grid is None and isinstance(found, AimError), "one way refuses, the other does not"
        return
    with no_hang():
        (row,) = chunk(grid, 0).to_dict("records")
    for name in ("vision", "merge", "llm", "importance", "total"):
        assert found[f"{name}.flops"] == row[f"{name}.flops"]
    assert found["kv_cache_bytes"] == row["kv_cache_bytes"]
    assert found["ttft_s"] == pytest.approx(row["ttft_s"], rel=1e-9)


@fuzzed(0.01)
@given(
    options=some("--model", "--hardware", "--text-tokens", "--batch", "--dtype", "--execution"),
    frames=st.one_of(shown(few), st.sampled_from(["auto", "8", "32"])),
    bounds=st.dictionaries(
        st.sampled_from(["--ttft-ms", "--flops-tera", "--memory-gb"]), limits, max_size=3
    ),
    benchmark=st.none() | st.sampled_from(["videomme", "mmmu", ""]),
)
def test_plan_keeps_its_limits_and_names_limits_that_hold(options, frames, bounds, benchmark):
    own = options | {"--frames": frames, "--benchmark": benchmark, "--format": "json"}
    row = asked("plan", *typed(own | bounds))
    if isinstance(row, dict):
        for name, key in (("ttft_s", "ttft_s"), ("flops", "total.flops")):
            limit = row[f"limits.{name}"]
            assert limit is None or row[key] <= limit
        assert row["peak_memory_bytes"] <= row["limits.memory_bytes"]
    elif isinstance(row, AimError) and (raised := re.search(r"It fits (--[^,]*)\. ?", row.fix)):
        words = dict(re.findall(r"(--[a-z-]+) (\d+\.\d+)", raised[1]))
        assert words
        assert isinstance(asked("plan", *typed(own | bounds | words)), dict)


axes = {
    "frames": st.one_of(
        st.sampled_from(["8", "1:9", "4:64:20", "0:5", "9:1", "1:10000000000", "8,8,8"]), shown(few)
    ),
    "text_tokens": shown(numbers),
    "merge": st.lists(
        st.one_of(st.sampled_from(["1", "0.5", "0"]), odd_numbers), min_size=1, max_size=3
    ).map(",".join),
    "l1": st.sampled_from(["none", "14", "none,0:28", "28", "-1", "", "none,none", "x"]),
    "l2": st.sampled_from(["22", "1:29", "0", "99", "1:1", "1e9", "22:"]),
    "batch": shown(st.integers(1, 4)),
    "top": shown(st.integers(-1, 20)),
    "model": st.sampled_from(["llava-onevision-qwen2-0.5b", "qwen2.5-vl-7b", "x", ""]),
    "hardware": st.sampled_from(["h100-sxm", "h100-sxm,l40s", "a,b", ","]),
}


@fuzzed(0.03)
@given(
    options=some("--dtype", "--execution", "--last-layer", "--format", "--attention"),
    along=some(**axes),
)
def test_sweep_prints_what_estimates_say(options, along):
    rows = asked("sweep", *typed(options | along))
    if not isinstance(rows, list) or options["--format"] != "json":
        return
    for row in rows[:2]:
        words = [f"merge {row['merge.retention']}"] if row["merge.retention"] != 1 else []
        if row["prune.l1"] is not None:
            words.append(f"prune linear:{row['prune.l1']}:{row['prune.l2']}")
        execution = Execution(
            row["dtype"], row["attention"], row["execution"], last_layer=row["last_layer"]
        )
        workload = Workload(row["text_tokens"], frames=row["frames"], batch=row["batch"])
        case = Case(row["model"], workload, row["hardware"], execution)
        priced = case.price(", ".join(words) or "none")
        assert priced.flops == row["total.flops"]
        assert priced.ttft_s == pytest.approx(row["ttft_s"], rel=1e-9)


methods = st.lists(
    st.tuples(
        st.sampled_from([*METHODS, "nobody", "", "all"]),
        st.sampled_from(["", "", ":k=3", ":r=0.75", ":k=x", ":retention=0", ":", ":=", ":k=3:k=4"]),
    ).map("".join),
    min_size=1,
    max_size=3,
).map(",".join)


@fuzzed(0.04)
@given(
    options=some(
        *("--model", "--hardware", "--text-tokens", "--dtype", "--execution", "--frame-size"),
        *("--calibration", "--format"),
        frames=shown(numbers.filter(lambda number: number < 100 or number > 10**6)),
        conventions=st.sampled_from(["all", "executed", "fastv,executed", "x", ""]),
        equal=st.sampled_from(["tokens", "flops", "time", "x"]),
        budget=limits,
    ),
    methods=methods,
)
def test_compare_keeps_its_budget(options, methods):
    rows = asked("compare", "--methods", methods, *typed(options))
    for row in rows if isinstance(rows, list) else ():
        if row.get("budget"):
            assert 0 < float(row["budget.reached"]) <= float(row["budget"])
        assert bool(row["schedule"]) != bool(row["reason"])


others = st.one_of(
    st.tuples(st.just("methods"), st.one_of(st.sampled_from([*METHODS, "x", ""]), texts)),
    st.tuples(st.just("symbolic"), st.just("--part"), st.sampled_from(["llm", "kv", "x", ""])),
    st.tuples(st.just("symbolic"), st.just("--model"), names),
    st.tuples(st.sampled_from(["models", "hardware", "table"]), st.just("--format"), formats),
    st.tuples(st.just("evaluate"), st.just("--kernels"), st.sampled_from(["/nowhere", "", "."])),
    st.tuples(
        *(st.just(word) for word in ("calibrate", "--out", "/proc/nowhere/c.yaml", "--kernels")),
        st.sampled_from(["/nowhere", "", "tests"]),
        st.just("--hardware"),
        devices,
    ),
    st.tuples(st.just("plot"), st.sampled_from(["tokens", "x"]), st.just("--out"), texts),
    st.lists(texts, max_size=4).map(tuple),
)


@fuzzed(0.01)
@given(words=others)
def test_other_commands(words):
    assume("--help" not in words)
    if words and words[0] == "plot":  # never write a picture where a name happens to be right
        words = (*words[:3], "/proc/nowhere/" + words[3].replace("\x00", ""))
    command(app, list(words))


@fuzzed(0.1)
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
