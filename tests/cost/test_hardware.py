"""The shipped profiles equal the collected facts, and devices find theirs."""

import csv
import os
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from aim_cost import Case, HardwareProfile, Schedule, Workload, load_hardware
from aim_cost.devices.hardware import Quantity, find_hardware, hardware_names
from aim_cost.errors import ProfileError
from aim_cost.timing.calibration import calibration_names

ROOT = Path(__file__).resolve().parents[2]
FACTS = Path(os.environ.get("AIM_SHARED", ROOT.parent / "shared")) / "facts" / "gpus.csv"

# CSV column -> (its word in the unsure columns, key of the profile, base SI units in one CSV unit)
COLUMNS = {
    "fp32_tflops": ("fp32", "flops_per_s.float32", 10**12),
    "tf32_tflops": ("tf32", "flops_per_s.tfloat32", 10**12),
    "fp16_tensor_tflops_fp32acc": ("fp16", "flops_per_s.float16", 10**12),
    "bf16_tensor_tflops_fp32acc": ("bf16", "flops_per_s.bfloat16", 10**12),
    "fp8_tflops_fp32acc": ("fp8", "flops_per_s.float8", 10**12),
    "int8_tops": ("int8", "flops_per_s.int8", 10**12),
    "mem_gb": ("mem", "memory_bytes", 10**9),
    "mem_bw_gbs": ("mem_bw", "memory_bandwidth_bytes_per_s", 10**9),
    "sm_or_cu": ("sm", "multiprocessors", 1),
    "boost_mhz": ("boost", "boost_clock_hz", 10**6),
    "bf16_or_fp16_flop_per_clk_per_sm": ("flop_clk", "flops_per_clock_per_multiprocessor", 1),
    "l2_mb": ("l2", "l2_bytes", 2**20),
    "smem_max_per_sm_kb": ("smem", "shared_memory_bytes_per_multiprocessor", 2**10),
    "regfile_per_sm_kb": ("regfile", "register_file_bytes_per_multiprocessor", 2**10),
    "link_gbs_per_dir": ("link", "link_bytes_per_s", 10**9),
    "pcie_gbs_per_dir": ("pcie", "pcie_bytes_per_s", 10**9),
    "tdp_w": ("tdp", "tdp_w", 1),
    "release_year": ("release_year", "release_year", 1),
    "runtime_mem_mib": ("runtime_mem", "runtime_memory_bytes", 2**20),
}
WORDS = {word: {key} for word, key, _ in COLUMNS.values()}
EVERY = {key for _, key, _ in COLUMNS.values()}
FLOPS = {key for key in EVERY if key.startswith("flops_per_s.")}
BUT = {"boost_clock_hz", "multiprocessors", "memory_bytes", "memory_bandwidth_bytes_per_s"}
PHRASES = {
    "": set(),
    "all": EVERY,
    "mem_gb": {"memory_bytes"},
    "sm_or_cu": {"multiprocessors"},
    "sm (TPCs)": {"multiprocessors"},
    "tf32 absence": set(),
    "tf32/bf16 absence": set(),
    "fp32..int8 = H100": FLOPS,
    "tf32..int8 scaled by fp32 ratio": FLOPS - {"flops_per_s.float32"},
    "everything but clocks/SM/mem": EVERY - BUT,
    "as V100 16GB": {
        "flops_per_s.int8",
        "shared_memory_bytes_per_multiprocessor",
        "register_file_bytes_per_multiprocessor",
        "link_bytes_per_s",
        "pcie_bytes_per_s",
        "tdp_w",
    },
    "as above": FLOPS | {"boost_clock_hz", "l2_bytes", "link_bytes_per_s", "tdp_w"},
}
NOT_READ = ("recalled, no page opened", "memory only (no page opened)", "scaled from")


def facts() -> list[dict[str, str]]:
    if not FACTS.exists():
        pytest.skip(f"no {FACTS}: set AIM_SHARED to the directory that holds facts/")
    with FACTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def named(words: str) -> set[str]:
    return set().union(*({**WORDS, **PHRASES}[w.strip()] for w in words.split(";")))


def by_title() -> dict[str, HardwareProfile]:
    return {profile.title: profile for profile in map(load_hardware, hardware_names())}


def profile_of(row: dict[str, str], profiles: dict[str, HardwareProfile]) -> HardwareProfile:
    titles = [t for t in profiles if t == row["gpu"] or t.partition(" ")[2] == row["gpu"]]
    assert len(titles) == 1, f"{row['gpu']}: {titles}"
    return profiles[titles[0]]


def one_line(text: str) -> str:
    return " ".join(text.replace(" | ", ", ").split())


def test_every_row_of_the_facts_is_a_profile_value_by_value():
    rows, profiles = facts(), by_title()
    assert len(profiles) == len(rows) + 1  # cpu-generic
    for row in rows:
        profile = profile_of(row, profiles)
        expected = {
            key: Decimal(row[column]) * factor
            for column, (_, key, factor) in COLUMNS.items()
            if row[column]
        }
        got = {key: Decimal(q.value) for key, q in profile.quantities().items()}
        assert got == expected, profile.name
        assert profile.architecture == row["arch"]
        assert bool(profile.notes) == bool(row["notes"])


def test_unsure_and_recalled_numbers_are_marked_as_such():
    profiles = by_title()
    for row in facts():
        profile = profile_of(row, profiles)
        recalled = named(row["from_memory"])
        unsure = recalled | named(row["unsure"])
        if "runtime_mem" in row["notes"] and "unsure" in row["notes"]:
            unsure |= {"runtime_memory_bytes"}
        for key, quantity in profile.quantities().items():
            assert quantity.unsure == (key in unsure), f"{profile.name}: {key}"
            assert quantity.source.startswith(NOT_READ) == (key in recalled), (
                f"{profile.name}: {key}"
            )


def test_every_source_of_a_row_is_listed_and_used():
    profiles = by_title()
    for row in facts():
        profile = profile_of(row, profiles)
        listed = {one_line(text) for text in row["source"].split("||")}
        used = " ".join(one_line(q.source) for q in profile.quantities().values())
        for text in listed:
            assert text in used, f"{profile.name}: {text}"


@pytest.mark.parametrize("name", hardware_names())
def test_a_shipped_profile_is_named_after_its_file_and_lists_no_idle_source(name: str):
    profile = load_hardware(name)
    assert profile.name == name
    assert name == name.lower() and " " not in name and "_" not in name
    tree = yaml.safe_load((ROOT / "hardware_profiles" / f"{name}.yaml").read_text())
    used = " ".join(q.source for q in profile.quantities().values())
    for key, text in tree["sources"].items():
        assert text.strip() in used, f"{name}: {key}"


def test_cpu_generic_is_an_assumption_throughout():
    profile = load_hardware("cpu-generic")
    assert all(q.unsure and "assumption" in q.source for q in profile.quantities().values())
    assert profile.peak_flops_per_s("bfloat16") == 2.6e12


def test_names_that_scripts_rely_on():
    fixed = "v100-sxm2-16gb t4 a10 a10g a100-sxm4-40gb a100-sxm4-80gb h100-pcie h100-sxm h200-sxm"
    fixed += " b200-sxm l4 l40s rtx-4090 rtx-5090 mi300x mi250x-gcd cpu-generic"
    assert set(fixed.split()) <= set(hardware_names())
    assert hardware_names() == sorted(hardware_names())


def test_the_a100_in_base_si():
    a100 = load_hardware("a100-sxm4-40gb")
    assert a100.peak_flops_per_s("float16") == 312_000_000_000_000
    assert a100.memory_bandwidth_bytes_per_s == 1_555_000_000_000
    assert a100.memory_bytes == 40_000_000_000
    assert a100.peak.l2_bytes == Quantity(
        41_943_040, "B", a100.peak.l2_bytes.source, unsure=False
    )  # deviceQuery prints the same bytes
    assert "deviceQuery" in a100.peak.l2_bytes.source
    assert hash(a100) == hash(load_hardware("a100-sxm4-40gb"))


def test_a_dtype_the_device_lacks_names_those_it_has():
    with pytest.raises(ProfileError, match=r"v100-sxm2-16gb.*bfloat16.*--dtype.*float32, float16"):
        load_hardware("v100-sxm2-16gb").peak_flops_per_s("bfloat16")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("a100", "a100-sxm4-40gb"), ("A100_SXM4_40GB", "a100-sxm4-40gb"), ("h10-sxm", "h100-sxm")],
)
def test_an_unknown_name_suggests_close_ones(name: str, hint: str):
    with pytest.raises(ProfileError, match=f"Did you mean .*{hint}.*aim-cost hardware lists"):
        load_hardware(name)


def test_an_unknown_name_with_nothing_close_says_how_to_list():
    with pytest.raises(ProfileError, match=r"got 'quantum'\. aim-cost hardware lists"):
        load_hardware("quantum")


def test_names_are_listed_without_reading_a_profile():
    code = (
        "import yaml; yaml.load = None\n"
        "from aim_cost.devices.hardware import hardware_names; print(len(hardware_names()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == len(hardware_names())


@pytest.mark.parametrize(
    ("device", "profile"),
    [
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA GH200 480GB", "gh200-96gb"),
        ("NVIDIA GH200 144G HBM3e", "gh200-144gb"),
        ("NVIDIA B200", "b200-sxm"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000-blackwell-server"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx-pro-6000-blackwell-ws"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm4-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA A10G", "a10g"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100-sxm2-16gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("AMD Instinct MI300X", "mi300x"),
        ("Some new device", None),
    ],
)
def test_devices_find_their_profile(device, profile):
    found = find_hardware(device)
    assert (found and found.name) == profile


def test_a_new_gpu_is_one_file(tmp_path, monkeypatch):
    from aim_cost.devices import hardware as module

    folder = tmp_path / "profiles"
    shutil.copytree(Path(module.files("hardware_profiles")), folder)
    new = (folder / "l40s.yaml").read_text().replace("name: l40s", "name: new-gpu", 1)
    new = new.replace("'L40S'", "'Brand New 9000'")
    (folder / "new-gpu.yaml").write_text(new)
    monkeypatch.setattr(module, "files", lambda package: folder)
    found = find_hardware("NVIDIA Brand New 9000")
    assert found.name == "new-gpu"
    case = Case("llava-onevision-qwen2-0.5b", Workload(20, frames=2), "new-gpu")
    assert case.price(Schedule()).ttft.source == "inherited"
    # two files that claim one name are an error, not a matter of order
    (folder / "newer-gpu.yaml").write_text(new.replace("name: new-gpu", "name: newer-gpu"))
    with pytest.raises(ProfileError, match="new-gpu and newer-gpu"):
        find_hardware("NVIDIA Brand New 9000")


def test_the_nearest_is_a_calibrated_device_and_the_calibrated_name_none():
    for name in hardware_names():
        nearest = load_hardware(name).nearest
        assert nearest is None or nearest in calibration_names()
        assert (nearest is None) or name not in calibration_names()
