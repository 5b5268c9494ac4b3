"""YAML, JSON and CSV: a right value or an error that says what was read, never another value."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aim_cost.devices.hardware import load_hardware
from aim_cost.errors import AimError, ProfileError, ScheduleError, SpecError
from aim_cost.files.csv_text import read_csv
from aim_cost.files.json_text import json_tree
from aim_cost.files.text import text_of
from aim_cost.files.tree import read_tree
from aim_cost.files.yaml_text import yaml_text, yaml_tree
from aim_cost.models.model import load_model_spec
from aim_cost.schedules.schedule import Schedule
from aim_cost.timing import load_calibration

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted([*ROOT.glob("hardware_profiles/**/*.yaml"), *ROOT.glob("aim_cost/**/*.yaml")])
DEEP = 60


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_ships_reads_as_the_yaml_library_reads_it(path):
    assert yaml_tree(text_of(path)) == yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("text", "yaml_1_1", "yaml_1_2"),
    [
        ("014", 12, 14),
        ("0100", 64, 100),
        ("-014", -12, -14),
        ("14:22", 862, "'14:22'"),
        ("1:30.5", 90.5, "'1:30.5'"),
        ("yes", True, "'yes'"),
        ("No", False, "'No'"),
        ("on", True, "'on'"),
        ("OFF", False, "'OFF'"),
        ("1_000", 1000, "'1_000'"),
        ("0b11", 3, "'0b11'"),
        ("0o14", "'0o14'", 12),
        ("08", "'08'", 8),
        ("2026-01-02", "datetime.date(2026, 1, 2)", "'2026-01-02'"),
        ("2026-99-99", "'timestamp'", "'2026-99-99'"),
        ("=", "'value'", "'='"),
        ("<<", "'merge'", "'<<'"),
    ],
)
def test_what_two_readers_of_yaml_read_differently_is_refused(text, yaml_1_1, yaml_1_2):
    told = f"{text} in line 2, which YAML 1.1 reads as {yaml_1_1} and YAML 1.2 as {yaml_1_2}: write"
    for tree in (f"a: 1\nb: {text}", f"\n{text}: 1", f"\n- {text}"):
        with pytest.raises(ValueError, match=re.escape(told)) as caught:
            yaml_tree(tree)
        assert str(caught.value).startswith(told)
    assert yaml_tree(f"a: '{text}'") == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("14", 14),
        ("-0", 0),
        ("+12", 12),
        ("0x1F", 31),
        ("989e12", 989e12),  # text to YAML 1.1
        ("1e-3", 1e-3),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("007.5", 7.5),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("1.5.2", "1.5.2"),
        ("merge 0.25, prune linear:14:22", "merge 0.25, prune linear:14:22"),
    ],
)
def test_a_plain_scalar_is_what_it_says(text, value):
    assert yaml_tree(f"a: {text}") == {"a": value}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: 1\nb: 2\na: 3", "the key 'a' twice, again in line 3"),
        ("a: {b: 1, 'b': 2}", "the key 'b' twice, again in line 1"),
        ("1: 2", "1 as a key in line 1: put quotes"),
        ("{[1]: 2}", r"\[1\] as a key"),
        ("a: .inf", r"\.inf in line 1, which is no finite number"),
        ("a: .NaN", "no finite number"),
        ("a: 1e999", r"1e999, which is no number up to 1e\+30, in line 1"),
        ("a: " + "9" * 5000, r"9{40}\.\.\., which is above 1e\+30, in line 1"),
        ("a: 0x" + "f" * 5000, r"no number up to 1e\+30"),
        ("a: &x [1]\nb: *x", r"the alias \*x in line 2: write it out"),
        ("a: !!python/object:os.system x", "the tag .* in line 1: leave it out"),
        ("a: !!int '3'", "the tag"),
        ("a: !!binary aGk=", "the tag"),
        ("--- 1\n--- 2", "several documents"),
        ("[" * DEEP + "]" * DEEP, "more than 50 levels"),
        ("[" * 100_000, "nesting depth|levels"),
        ("a: [1", "while parsing a flow"),
        ("\tx: 1", "cannot start any token"),
        ("a: \x00", "control characters"),
    ],
)
def test_bad_yaml_says_what_is_wrong(text, named):
    with pytest.raises(ValueError, match=named) as caught:
        yaml_tree(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' twice"),
        ('[{"a": {"b": 1, "b": 1}}]', "the key 'b' twice"),
        ("NaN", r"NaN, which is no number up to 1e\+30"),
        ("[-Infinity]", "-Infinity, which is no number"),
        ("[1e999]", "1e999"),
        ("1" * 5000, r"above 1e\+30"),
        ("[" * DEEP + "]" * DEEP, "more than 50 levels"),
        ("[" * 100_000, "more than 50 levels"),
        ('{"\\ud800": 1}', "half a character"),
        ("{", "Expecting property name"),
    ],
)
def test_bad_json_says_what_is_wrong(text, named):
    with pytest.raises(ValueError, match=named):
        json_tree(text)


def test_numbers_that_python_writes_for_missing_values_may_be_taken_for_none():
    assert json_tree("[NaN, Infinity, 1.5]", nan_is_none=True) == [None, None, 1.5]


plain = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text()
plain |= st.floats(-1e30, 1e30, allow_subnormal=False)
trees = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(trees)
def test_what_is_written_is_read_back(tree):
    assert json_tree(json.dumps(tree)) == tree
    written = yaml_text(tree)
    assert yaml.safe_load(written) == tree
    assert yaml_tree(written) == tree


@pytest.mark.parametrize("text", ["1e5", "12e34567", "014", "yes", "0o7", "14:22", ".5", "-1e-1"])
def test_text_that_looks_like_a_number_is_written_with_quotes(text):
    assert yaml_tree(yaml_text({"a": text, text: 1})) == {"a": text, text: 1}


def test_one_list_that_stands_twice_is_written_twice():
    shared = [1, 2]
    assert yaml_tree(yaml_text([shared, shared])) == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("a: ä".encode(), {"a": "ä"}),
        ("\ufeffa: ä".encode(), {"a": "ä"}),
        ("a: ä".encode("utf-16"), {"a": "ä"}),
        (b"a: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
        (b"", None),
        (b" \n", None),
        (b"\xef\xbb\xbf", None),
    ],
)
def test_encodings(tmp_path, content, value):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    assert read_tree(path, "a.yaml", SpecError, fix="Correct it.") == value


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("a: ä".encode("latin-1"), "a.yaml: expected YAML, got the byte 0xe4 at 3, .* save it as"),
        (b"PK\x03\x04workbook", "a zip archive, as workbooks are"),
        (b"\xff\xfea", "no text"),
    ],
)
def test_files_that_are_no_text(tmp_path, content, named):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(SpecError, match=named):
        read_tree(path, "a.yaml", SpecError, fix="Correct it.")


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "a.yaml"
    path.write_text("a: 12345678")
    monkeypatch.setattr("aim_cost.files.text.MOST_BYTES", 8)
    with pytest.raises(SpecError, match="more than 0 MiB"):
        read_tree(path, "a.yaml", SpecError, fix="Correct it.")


READERS = [
    (Schedule.load, ScheduleError, "yaml"),
    (load_hardware, ProfileError, "yaml"),
    (load_calibration, ProfileError, "yaml"),
    (load_model_spec, SpecError, "json"),
]


@pytest.mark.parametrize(("read", "error", "suffix"), READERS)
def test_every_reader_refuses_what_none_can_read(tmp_path, read, error, suffix):
    """Deep, large, empty and twisted files end in one line that names the file."""
    twice = '{"model_type": "a", "model_type": "b"}'
    for content in ("", "[" * 100_000, "[" * DEEP + "]" * DEEP, twice, "a", "[1]", "\x00", "{"):
        path = tmp_path / f"a.{suffix}"
        path.write_text(content)
        with pytest.raises(error) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)
    with pytest.raises(AimError, match=r"Is a directory|Permission|readable"):
        read(folder(tmp_path / f"folder.{suffix}"))


def folder(path):
    path.mkdir()
    return path


def test_the_surprises_of_yaml_reach_the_user(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("prune: {linear: 14:22}\n")
    with pytest.raises(ScheduleError, match=r"got 14:22 in line 1, which YAML 1\.1 reads as 862"):
        Schedule.load(path)
    path.write_text("merge: {tokens_per_frame: 0100}\n")
    with pytest.raises(ScheduleError, match=r"got 0100 in line 1, which YAML 1\.1 reads as 64"):
        Schedule.load(path)
    path.write_text("merge: {retention: 25e-2}\n")
    assert Schedule.load(path) == Schedule.parse("merge 0.25")
    path.write_text("")
    with pytest.raises(ScheduleError, match="expected a schedule, got nothing"):
        Schedule.load(path)


def csv(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_csv(path)


ROWS = [{"a": "1", "b": "x, y"}, {"a": "2", "b": ""}]


@pytest.mark.parametrize(
    "content",
    [
        'a,b\n1,"x, y"\n2,\n',
        'a;b\n1;"x, y"\n2;\n',
        "a;b\r\n1;x, y\r\n2;\r\n",
        "a\tb\n1\tx, y\n2\n",
        "a|b\n1|x, y\n2|\n",
        "sep=;\na;b\n1;x, y\n2;\n",
        "\ufeffa;b\n1;x, y\n2;\n",
        "a;b\n1;x, y\n2;\n".encode("utf-16"),
        " a ; b \n 1 ; x, y \n\n 2 ; \n;\n",
        "a;b;;\n1;x, y;;\n2;;;\n",
        "a;b\r1;x, y\r2;",
    ],
)
def test_one_table_in_the_forms_of_spreadsheets(tmp_path, content):
    assert csv(tmp_path, content).rows == ROWS


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "an empty file"),
        ("a,a\n1,2\n", "the column 'a' twice"),
        ("a,b\n1,2,3\n", "3 cells under 2 columns in line 2: put quotes"),
        ('a,b\n"1,2\n', "unexpected end of data"),
        ('a,b\n"1"x,2\n', "expected"),
        (b"a,b\n\xe4,2\n", "0xe4"),
        ("a" * 200_000 + ",b\n1,2", "field larger"),
    ],
)
def test_what_is_no_table(tmp_path, content, named):
    with pytest.raises(ValueError, match=named):
        csv(tmp_path, content)
