"""The environment of a measurement: enough to judge it, nothing that names the host."""

import getpass
import json
import platform
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

from aim_runtime.measurement import environment as module
from aim_runtime.measurement.environment import Environment, GpuState, environment, gpu_state


def test_it_names_versions_device_and_date():
    facts = environment()
    assert facts.torch == torch.__version__
    assert facts.transformers == transformers.__version__
    assert facts.python == platform.python_version()
    assert facts.cpu_count >= 1
    assert facts.date.endswith("UTC")
    row = json.loads(json.dumps(facts.to_row()))
    assert Environment.of(row) == facts


def test_nothing_identifies_the_host():
    values = {str(value) for value in environment().to_row().values()}
    assert not values & {socket.gethostname(), platform.node(), getpass.getuser()}
    text = " ".join(values)
    assert str(Path.cwd()) not in text
    assert platform.release() not in text


def _repository(path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=path, check=True, capture_output=True)

    package = path / "aim_runtime" / "measurement"
    package.mkdir(parents=True)
    (package / "environment.py").touch()
    git("init")
    git("add", ".")
    git("commit", "-m", "one")


def test_the_commit_is_that_of_our_own_checkout(tmp_path, monkeypatch):
    _repository(tmp_path / "ours")
    ours = tmp_path / "ours" / "aim_runtime" / "measurement" / "environment.py"
    monkeypatch.setattr(module, "__file__", str(ours))
    facts = environment()
    assert len(facts.commit) == 40
    assert facts.uncommitted_changes is False
    ours.write_text("changed")
    assert environment().uncommitted_changes is True


def test_the_commit_of_this_very_checkout_is_found():
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode != 0:
        pytest.skip("this is no checkout")
    assert environment().commit == asked.stdout.strip()


def test_a_repository_that_we_are_only_installed_in_is_not_ours(tmp_path, monkeypatch):
    _repository(tmp_path / "theirs")
    installed = tmp_path / "theirs" / "venv" / "aim_runtime" / "measurement" / "environment.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setattr(module, "__file__", str(installed))
    facts = environment()
    assert facts.commit is None
    assert facts.uncommitted_changes is None


def test_the_gpu_that_torch_uses_is_the_one_described(monkeypatch):
    asked = []

    def run(*command):
        if command[0] == "nvidia-smi":
            asked.append(command)
            return "570.1, 1980, 345, 2619, 700.00, 75.12, 31"
        return None

    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100")
    properties = SimpleNamespace(uuid="12ab")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)
    facts = environment()
    assert (facts.gpu, facts.driver) == ("NVIDIA H100", "570.1")
    assert (facts.max_sm_clock_mhz, facts.temperature_c) == (1980, 31)
    assert asked[0][-2:] == ("-i", "GPU-12ab")
    assert "12ab" not in json.dumps(facts.to_row())


def test_without_the_tools_there_is_none(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", missing)
    facts = environment()
    assert facts.commit is None
    assert facts.uncommitted_changes is None


def test_a_checkout_without_git_takes_its_commit_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_git", lambda *_: None)
    monkeypatch.delenv("AIM_COMMIT", raising=False)
    assert environment().commit is None
    monkeypatch.setenv("AIM_COMMIT", "abc123")
    facts = environment()
    assert (facts.commit, facts.uncommitted_changes) == ("abc123", None)
    monkeypatch.setattr(module, "_git", lambda *_: "of git")
    assert environment().commit == "of git"


def _gpu(monkeypatch, answers):
    """A GPU whose nvidia-smi knows the fields of ``answers`` alone."""

    def run(*command):
        names = command[1].removeprefix("--query-gpu=").split(",")
        known = all(name in answers for name in names)
        return ", ".join(answers[name] for name in names) if known else None

    monkeypatch.setattr(module, "_run", run)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    properties = SimpleNamespace(uuid="12ab")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)


def test_clock_temperature_and_reasons_of_the_moment(monkeypatch):
    clocks = {"clocks.sm": "1755", "temperature.gpu": "61"}
    new = clocks | {"clocks_event_reasons.active": "0x0000000000000004"}
    _gpu(monkeypatch, new)
    assert gpu_state() == GpuState(1755, 61, 4)
    _gpu(monkeypatch, clocks | {"clocks_throttle_reasons.active": "0x0000000000000000"})
    assert gpu_state() == GpuState(1755, 61, 0)  # an older driver
    _gpu(monkeypatch, clocks)
    assert gpu_state() == GpuState(1755, 61, None)
    _gpu(monkeypatch, new | {"clocks.sm": "[N/A]", "clocks_event_reasons.active": "[N/A]"})
    assert gpu_state() == GpuState(None, 61, None)


def test_without_a_gpu_there_is_no_state(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_state() == GpuState()
    assert set(gpu_state().to_row().values()) == {None}
