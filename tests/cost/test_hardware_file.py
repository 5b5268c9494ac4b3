"""The loader of profiles reads a user's file, and refuses whatever is wrong in one."""

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from aim_cost import HardwareProfile, load_hardware
from aim_cost.devices.hardware import Quantity, to_row
from aim_cost.errors import ProfileError

ROOT = Path(__file__).resolve().parents[2]

GOOD = """
name: my-gpu
title: My GPU
architecture: Mine
release_year: {value: 2024, unit: year, source: sheet}
sources:
  sheet: a datasheet
  bench: a printout
peak:
  flops_per_s:
    bfloat16: {value: 9.89e+14, unit: FLOP/s, source: sheet}
    float32: {value: 67000000000000, unit: FLOP/s, source: [sheet, bench], unsure: true}
  memory_bytes: {value: 80000000000, unit: B, source: sheet}
  memory_bandwidth_bytes_per_s: {value: 3.35e+12, unit: B/s, source: sheet}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gpu.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_users_file(tmp_path: Path):
    profile = load_hardware(write(tmp_path, GOOD))
    assert profile.name == "my-gpu" and profile.notes == ""
    assert profile.peak_flops_per_s("bfloat16") == 989e12
    quantity = profile.peak.flops_per_s["float32"]
    assert quantity == Quantity(67 * 10**12, "FLOP/s", "a datasheet; a printout", unsure=True)
    assert profile.peak.l2_bytes is None
    row = to_row(profile)
    assert row["l2_bytes"] is None and row["float8_flops_per_s"] is None
    assert row["memory_bandwidth_bytes_per_s"] == 3.35e12
    assert row["unsure"] == ["flops_per_s.float32"]
    assert set(row) == set(to_row(load_hardware("t4")))


VALUE = "9.89e+14"
BREAKS = {  # what is replaced, by what, and what the message must say
    "text for a number": (VALUE, "989 T", r"bfloat16\.value: .*'989 T'.*9\.89e\+14"),
    "boolean": (VALUE, "true", r"bfloat16\.value: .*got True"),
    "negative": (VALUE, "-9.89e+14", r"bfloat16\.value: .*got -989"),
    "zero": (VALUE, "0", r"bfloat16\.value: .*got 0"),
    "not a number": (
        VALUE,
        ".nan",
        r"expected YAML, got \.nan in line \d+, which is no finite number",
    ),
    "infinity": (VALUE, ".inf", r"expected YAML, got \.inf in line \d+, which is no finite number"),
    "too long for a float": (
        VALUE,
        "9" * 400,
        r"expected YAML, got 9{40}\.\.\., which is above 1e\+30",
    ),
    "nothing": (VALUE, "", r"bfloat16\.value: .*got None"),
    "list": (VALUE, "[1]", r"bfloat16\.value: .*got \[1\]"),
    "part of a byte": ("80000000000", "80000000000.5", r"memory_bytes\.value: .*whole number of B"),
    "wrong unit": ("unit: B/s", "unit: GB/s", r"memory_bandwidth_bytes_per_s\.unit: .*B/s.*GB/s"),
    "unknown dtype": ("bfloat16:", "bf16:", r"flops_per_s\.bf16: .*valid keys: bfloat16"),
    "unknown peak": ("memory_bytes:", "hbm:", r"peak\.hbm: .*valid keys: .*memory_bytes"),
    "unknown key": ("title:", "titel:", r"yaml\.titel: .*valid keys: .*title"),
    "unknown part of a number": ("unsure: true", "sure: 1", r"float32\.sure: "),
    "unsure is no boolean": (
        "unsure: true",
        "unsure: yes please",
        r"float32\.unsure: .*yes please",
    ),
    "measured block": ("peak:", "calibration: {}\npeak:", r"yaml\.calibration: "),
    "missing name": ("name: my-gpu", "", r": name: expected a text, got nothing"),
    "empty name": ("name: my-gpu", "name: ''", r": name: expected a text"),
    "name is a number": ("name: my-gpu", "name: 4090", r": name: .*got 4090"),
    "source not listed": ("source: sheet}", "source: web}", r"source: .*got web.*sheet, bench"),
    "one of two sources": ("[sheet, bench]", "[sheet, web]", r"float32\.source: .*got web"),
    "no source at all": ("[sheet, bench]", "[]", r"float32\.source: .*at least one"),
    "source left out": (", source: sheet}\n    float32", "}\n    float32", r"bfloat16\.source: "),
    "key written twice": ("title: My GPU", "title: A\ntitle: B", r"'title' twice.*line 4"),
    "nested key twice": ("unit: B/s", "unit: B/s, unit: B/s", r"'unit' twice"),
    "a bare number": (
        "{value: 80000000000, unit: B, source: sheet}",
        "80",
        r"memory_bytes: .*got 80",
    ),
    "missing bandwidth": (
        "  memory_bandwidth",
        "#",
        r"memory_bandwidth_bytes_per_s: .*got nothing",
    ),
    "not YAML": ("peak:", "peak: [", r"gpu\.yaml: expected YAML"),
    "impossible date": ("title: My GPU", "title: 2024-13-45", r"gpu\.yaml: expected YAML"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_file_is_refused_with_file_key_expected_and_got(what: str, tmp_path: Path):
    old, new, message = BREAKS[what]
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ProfileError, match=message) as caught:
        load_hardware(path)
    assert str(caught.value).startswith(str(path))
    assert caught.value.expected and caught.value.fix


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "- a", "!!python/object:os.system {}", "!!map [a]"]
)
def test_a_file_that_is_no_profile(text: str, tmp_path: Path):
    with pytest.raises(ProfileError, match=r"gpu\.yaml"):
        load_hardware(write(tmp_path, text))


def test_no_dtype_is_no_profile(tmp_path: Path):
    head, _, tail = GOOD.partition("  flops_per_s:\n")
    tail = "\n".join(line for line in tail.splitlines() if not line.startswith("    "))
    with pytest.raises(ProfileError, match="flops_per_s: expected at least one dtype"):
        load_hardware(write(tmp_path, f"{head}  flops_per_s: {{}}\n{tail}"))


def test_a_file_that_cannot_be_read(tmp_path: Path):
    for path in (tmp_path / "absent.yml", tmp_path):
        with pytest.raises(ProfileError, match="expected a readable file"):
            HardwareProfile.from_yaml(path)
    path = tmp_path / "bytes.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ProfileError, match=r"bytes\.yaml"):
        load_hardware(path)


@given(st.text(alphabet="{}[]:,-&*!'\" \nab01.e", max_size=60))
def test_no_text_raises_anything_but_a_profile_error(text: str):
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"aim-fuzz-{os.getpid()}.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        with pytest.raises(ProfileError):
            load_hardware(path)
    finally:
        path.unlink()


@pytest.mark.parametrize("wrong", ["L40S", ["["], [""], [3]])
def test_patterns_are_checked(wrong, tmp_path):
    tree = yaml.safe_load((ROOT / "hardware_profiles" / "l40s.yaml").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree | {"device_names": wrong}))
    with pytest.raises(ProfileError, match="device_names"):
        load_hardware(path)
