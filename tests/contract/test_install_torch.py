"""The set-up never pulls CUDA packages onto a machine without a GPU."""

import pytest

from scripts import install_torch

CUDA = ["torch", "nvidia-cublas", "cuda-bindings", "sympy"]


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Pretend that no torch works and no GPU is there; record what pip is asked to do."""
    asked: list[list[str]] = []

    class Done:
        returncode = 0

    def run(command: list[str], **_: object) -> Done:
        asked.append(command[len(install_torch.PIP) :])
        return Done()

    monkeypatch.delenv("TORCH_INDEX_URL", raising=False)
    monkeypatch.setattr(install_torch, "torch_works", lambda: False)
    monkeypatch.setattr(install_torch, "has_gpu", lambda: False)
    monkeypatch.setattr(install_torch, "would_install", lambda: CUDA)
    monkeypatch.setattr(install_torch, "has_triton", lambda: True)
    monkeypatch.setattr(install_torch.subprocess, "run", run)
    return asked


def test_cuda_packages_without_a_gpu_are_refused_with_the_way_out(installs, capsys):
    assert install_torch.main() == 1
    assert installs == []
    message = capsys.readouterr().err
    assert "2 CUDA packages" in message
    assert "Set TORCH_INDEX_URL" in message


def test_a_cpu_build_is_installed(installs, monkeypatch):
    monkeypatch.setattr(install_torch, "would_install", lambda: ["torch", "sympy"])
    assert install_torch.main() == 0
    assert installs == [[install_torch.TORCH]]


def test_the_named_index_serves_torch(installs, monkeypatch):
    monkeypatch.setenv("TORCH_INDEX_URL", "https://example.org/cpu")
    assert install_torch.main() == 0
    assert installs == [["--index-url", "https://example.org/cpu", install_torch.TORCH]]


def test_a_gpu_takes_the_cuda_build(installs, monkeypatch):
    monkeypatch.setattr(install_torch, "has_gpu", lambda: True)
    assert install_torch.main() == 0
    assert installs == [[install_torch.TORCH]]


def test_a_torch_that_works_is_kept(installs, monkeypatch):
    monkeypatch.setattr(install_torch, "torch_works", lambda: True)
    assert install_torch.main() == 0
    assert installs == []


def test_triton_comes_where_torch_brought_none(installs, monkeypatch):
    monkeypatch.setattr(install_torch, "torch_works", lambda: True)
    monkeypatch.setattr(install_torch, "has_triton", lambda: False)
    monkeypatch.setattr(install_torch.sys, "platform", "linux")
    assert install_torch.main() == 0
    assert installs == [[install_torch.TRITON]]
    monkeypatch.setattr(install_torch.sys, "platform", "darwin")  # there are no builds
    assert install_torch.main() == 0
    assert len(installs) == 1
