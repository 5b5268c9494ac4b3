"""Commands of aim-runtime that need no long run: an answer or one clear error."""

import json
import shutil

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from aim_runtime.campaigns import stand_in
from aim_runtime.campaigns.file import CAMPAIGN
from aim_runtime.campaigns.predictions_file import PREDICTIONS
from aim_runtime.cli.main import app
from tests.fuzz import asked
from tests.fuzz.asked import fuzzed, odd_numbers, shown, texts, typed
from tests.fuzz.changed import text_changed, tree_changed
from tests.fuzz.options import devices, limits, some
from tests.runtime.rehearsed import campaign
from tests.runtime.support import tiny_config


def command(words):
    """A command may price a whole campaign, or run a model."""
    return asked.command(app, words, times=4)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """The files of a campaign of a few steps, as text."""
    folder = campaign(tmp_path_factory.mktemp("rehearsed"))
    return {name: (folder / name).read_text() for name in (CAMPAIGN, PREDICTIONS)}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny") / "config.json"
    path.write_text(json.dumps(tiny_config(layers=2)))
    return path


@pytest.fixture
def facts(monkeypatch):
    """What this machine is, asked once."""
    found = stand_in.environment()
    monkeypatch.setattr(stand_in, "environment", lambda: found)


@fuzzed(0.02)
@given(data=st.data(), name=st.sampled_from([CAMPAIGN, PREDICTIONS]), flags=st.booleans())
def test_a_report_of_changed_files(data, name, flags, rehearsed, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    text = data.draw(
        st.one_of(
            text_changed(rehearsed[name]),
            tree_changed(json.loads(rehearsed[name])).map(json.dumps),
        )
    )
    for other, content in (rehearsed | {name: text}).items():
        (folder / other).write_text(content, encoding="utf-8", errors="surrogatepass")
    words = ["--afterwards"] if flags else []
    command(["report", str(folder), *words])


@fuzzed(0.01)
@given(
    minutes=limits,
    options=some(
        attention=st.sampled_from(["flash", "math", "x", ""]),
        dtype=st.sampled_from(["bfloat16", "float32", "int4"]),
        device=st.sampled_from(["cpu", "cuda", "meta", "x", ""]),
        hardware=devices,
        format=st.sampled_from(["json", "csv", "table"]),
    ),
    before=st.none() | texts,
)
@pytest.mark.usefixtures("facts")
def test_a_plan_of_a_campaign(minutes, options, before, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "planned"
    shutil.rmtree(folder, ignore_errors=True)
    if before is not None:
        folder.mkdir()
        (folder / CAMPAIGN).write_text(before)
    command(["campaign", "--dry-run", "--minutes", minutes, "--out", str(folder), *typed(options)])


_RUN = some(
    "--frames", "--image", "--text-tokens", "--merge", "--prune", "--vision-merge",
    "--tokens-per-frame", "--schedule", "--last-layer",
    layers=st.sampled_from(["1", "2", "0", "-1", "x"]),
    dtype=st.sampled_from(["float32", "bfloat16", "int4", ""]),
    device=st.sampled_from(["cpu", "cuda", "meta", "x", ""]),
    repeats=st.sampled_from(["1", "0", "-1", "x"]),
)  # fmt: skip
_SMALL = st.sampled_from(["1", "2", "5"])


@fuzzed(0.03)
@given(
    name=st.sampled_from(["validate", "measure"]),
    options=_RUN,
    frames=_SMALL,
    text=_SMALL,
    batch=shown(st.integers(-1, 2)),
)
def test_runs_of_a_tiny_model(name, options, frames, text, batch, config):
    """What is right runs, for a moment; what is not is refused."""
    given = {"--model": config, "--dtype": "float32", "--repeats": 1} | options
    for option, right in (("--frames", frames), ("--text-tokens", text)):
        number = given.get(option, "")
        # takes long, and is right
        if number.isdigit() and len(number) < 99 and int(number) > 5:
            given[option] = right
    own = {"--hardware": "cpu-generic"} if name == "validate" else {"--warmup": 0, "--batch": batch}
    command([name, *typed(given | own)])


def _words(*words):
    """A command whose words are texts, or strategies of them."""
    return st.tuples(*(st.just(word) if isinstance(word, str) else word for word in words))


_nowhere = st.sampled_from(["", "/nowhere", "tests"])
_wrong = st.sampled_from(["0", "-1", "nan", "x", "1.5", ""])
others = st.one_of(
    _words("selfcheck", "--vectors", _nowhere),
    _words("selfcheck", "--device", st.sampled_from(["x", "", "cuda", "meta"])),
    _words("selfcheck", "--out", "/proc/x/y.json"),
    _words("accuracy", st.sampled_from(["--questions", "--frames"]), _wrong),
    _words("accuracy", "--seed", st.sampled_from(["-1", "x"])),
    _words("accuracy", "--model", _nowhere),
    _words("accuracy", "--split", st.sampled_from(["", "train"])),
    _words("accuracy", "--out", "/proc/x/y.json"),
    _words("fidelity", "--prompts", _nowhere),
    _words("microbench", "--out", "/proc/x"),
    _words("microbench", "--out", "/tmp", "--device", st.sampled_from(["x", "", "meta"])),
    _words("microbench", "--out", "/tmp", "--seconds", st.sampled_from(["0", "-1", "nan", "x"])),
    _words("report", texts),
    _words("campaign", "--minutes", odd_numbers),
    _words("tiny", "train", "--out", "/proc/x"),
    st.lists(texts, max_size=4).map(tuple),
)


@fuzzed(0.02)
@given(words=others)
def test_other_commands(words):
    assume("--help" not in words)
    assert not isinstance(command(list(words)), str)
