"""The Triton kernels against the reference: in Triton's interpreter, and on a GPU where one is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from aim_runtime import PatchError
from aim_runtime.errors import InputError
from aim_runtime.reduction import importance_kernel as choice
from aim_runtime.reduction.importance import pagerank_importance
from aim_runtime.reduction.scores import LAYER_IMPORTANCE, Attended, Choice
from aim_runtime.reduction.select import select_tokens
from tests.runtime.support import shared_golden

pytest.importorskip("triton", reason="triton is not installed")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from aim_runtime.reduction import importance_triton
from aim_runtime.reduction.importance_triton import fused_importance

ROOT = Path(__file__).resolve().parents[2]
RELATIVE = 1e-4
SMALLEST_SHARED_BYTES = 99 * 1024  # a block of compute capability 8.6 and 8.9

# dtype, batch, heads, kv_heads, tokens, head_dim, scaling, temperature, iterations; blocks are of
# 64 tokens, or 32 for float32 heads over 64
CASES = {
    "one-token": ("float32", 1, 2, 1, 1, 16, 0.25, 0.1, 5),
    "one-block": ("float32", 1, 2, 2, 64, 16, 0.25, 0.1, 5),
    "grouped": ("float32", 1, 4, 2, 65, 64, 0.125, 0.1, 5),
    "one-key-head": ("float32", 1, 3, 1, 37, 8, 0.3, 0.1, 5),
    "batch-padded-dim": ("float32", 2, 2, 1, 70, 20, 0.2, 0.1, 5),
    "small-blocks": ("float32", 1, 1, 1, 65, 80, 0.1, 0.1, 5),
    "warm": ("float32", 1, 2, 1, 40, 16, 0.25, 1.0, 5),
    "cold": ("float32", 1, 2, 1, 40, 16, 0.25, 0.03, 5),
    "left-padded": ("float32", 3, 2, 1, 70, 16, 0.25, 0.1, 5),
    "one-step": ("float32", 1, 2, 1, 66, 16, 0.25, 0.1, 1),
    "no-step": ("float32", 1, 2, 1, 66, 16, 0.25, 0.1, 0),
    "bfloat16": ("bfloat16", 2, 2, 1, 65, 64, 0.125, 0.1, 5),
    "bfloat16-128": ("bfloat16", 1, 1, 1, 70, 128, 128**-0.5, 0.1, 5),
    "float16": ("float16", 1, 2, 1, 65, 64, 0.125, 0.1, 5),
    "float16-72": ("float16", 1, 2, 1, 40, 72, 72**-0.5, 0.1, 5),
}

PADDING = {"left-padded": (0, 5, 66)}  # of each row
REPEATED = ("batch-padded-dim", "one-step", "no-step", "float16-72")


def heads_of(case, device="cpu"):
    """query[B, heads, n, d] and key[B, kv_heads, n, d], strided as in a model."""
    dtype, batch, heads, kv_heads, tokens, dim = CASES[case][:6]
    generator = torch.Generator().manual_seed(list(CASES).index(case))
    return tuple(
        torch.randn(batch, tokens, count, dim, generator=generator)
        .to(device, getattr(torch, dtype))
        .transpose(1, 2)
        for count in (heads, kv_heads)
    )


def arguments_of(case, device="cpu"):
    scaling, temperature, iterations = CASES[case][6:]
    arguments = {"scaling": scaling, "iterations": iterations, "temperature": temperature}
    if case in PADDING:
        arguments["padding"] = torch.tensor(PADDING[case], device=device)
    return arguments


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """What the interpreter made of every case, and of the recorded vectors where they are."""
    tensors, arguments = {}, {}
    for case in CASES:
        tensors[f"{case}.query"], tensors[f"{case}.key"] = heads_of(case)
        arguments[case] = arguments_of(case) | {"repeat": case in REPEATED}
        if case in PADDING:
            tensors[f"{case}.padding"] = arguments[case].pop("padding")
    for name, (query, key) in recorded_heads().items():
        tensors[f"{name}.query"], tensors[f"{name}.key"] = query, key
        scaling = query.shape[-1] ** -0.5
        arguments[name] = {"scaling": scaling, "iterations": 5, "temperature": 0.1, "repeat": False}
    folder = tmp_path_factory.mktemp("interpreted")
    save_file(
        {
            name: x.transpose(1, 2).contiguous() if x.dim() == 4 else x
            for name, x in tensors.items()
        },
        folder / "in.safetensors",
        {name: json.dumps(values) for name, values in arguments.items()},
    )
    files = [str(folder / name) for name in ("in.safetensors", "out.safetensors")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.interpreted", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        require_interpreter()
    assert done.returncode == 0, done.stderr
    return load_file(files[1])


def require_interpreter():
    """Skip where the interpreter does not run the simplest loop, as triton 3.6 with numpy 2.4."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.interpreter_probe"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1]
        pytest.skip(f"triton {triton.__version__} interprets no loop with this numpy: {why}")


def recorded_heads():
    try:
        recorded = load_file(shared_golden("importance.safetensors"))
    except pytest.skip.Exception:
        return {}
    return {name: (recorded[f"{name}.query"], recorded[f"{name}.key"]) for name in "ab"}


def assert_same_choice(scores, expected):
    """Equal scores up to rounding, and equal kept sets for every count."""
    torch.testing.assert_close(scores, expected, rtol=RELATIVE, atol=0)
    visual = torch.ones(expected.shape, dtype=torch.bool, device=expected.device)
    for count in range(1, expected.shape[1]):
        kept = select_tokens(visual, count, scores), select_tokens(visual, count, expected)
        assert torch.equal(*kept), count


def assert_nearly_same_choice(scores, expected):
    """The same but for a few tokens, for 16-bit heads.

    Sums in another order now and then round a logit to its 16-bit neighbour, which changes the
    scores of the tokens that it speaks of.
    """
    beyond = (scores - expected).abs() > RELATIVE * expected
    assert int(beyond.sum()) <= max(3, 0.01 * expected.numel())
    assert float((scores - expected).norm() / expected.norm()) < 0.02
    half = max(1, expected.shape[1] // 2)
    for row, wanted in zip(scores.topk(half).indices, expected.topk(half).indices, strict=True):
        assert len({*row.tolist()} & {*wanted.tolist()}) >= half - 1


def test_the_criterion_for_16_bits_sees_a_wrong_kernel():
    expected = pagerank_importance(*heads_of("bfloat16"), **arguments_of("bfloat16"))
    assert_nearly_same_choice(expected * (1 + RELATIVE / 2), expected)
    for wrong in (expected * 1.001, expected.flip(1), expected + 0.01 * expected.mean()):
        with pytest.raises(AssertionError):
            assert_nearly_same_choice(wrong, expected)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(interpreted, case):
    expected = pagerank_importance(*heads_of(case), **arguments_of(case))
    assert_same_choice(interpreted[f"{case}.scores"], expected)


@pytest.mark.parametrize("name", ["a", "b"])
def test_equals_the_recorded_scores(interpreted, name):
    expected = load_file(shared_golden("importance.safetensors"))[f"{name}.importance"]
    assert_same_choice(interpreted[f"{name}.scores"], expected)


@pytest.mark.parametrize("case", REPEATED)
def test_launches_memory_and_repetition(interpreted, case):
    _, batch, heads, _, tokens, *_, iterations = CASES[case]
    assert interpreted[f"{case}.launches"] == iterations + 2
    vector = -(-batch * heads * tokens // 4) * 4  # each of the four begins at 16 bytes
    assert interpreted[f"{case}.peak_bytes"] == (4 * vector + batch * tokens) * 4
    assert torch.equal(interpreted[f"{case}.scores"], interpreted[f"{case}.again"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_on_a_gpu(case):
    query, key = heads_of(case, "cuda")
    arguments = arguments_of(case, "cuda")
    expected = pagerank_importance(query, key, **arguments)
    scores = fused_importance(query, key, **arguments)
    if query.dtype == torch.float32:
        assert_same_choice(scores, expected)
    else:
        assert_nearly_same_choice(scores, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_equals_the_reference_at_the_size_of_7b_on_a_gpu(dtype):
    generator = torch.Generator("cuda").manual_seed(0)
    query, key = (
        torch.randn(1, 1669, heads, 128, device="cuda", generator=generator).to(dtype)
        for heads in (28, 4)
    )
    query, key = query.transpose(1, 2), key.transpose(1, 2)
    expected = pagerank_importance(query, key, scaling=128**-0.5)
    scores = fused_importance(query, key, scaling=128**-0.5)
    assert_nearly_same_choice(scores, expected)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kernel", [importance_triton._row_kernel, importance_triton._step_kernel])
def test_compiles_for_gpus_that_are_not_here(kernel, capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes = importance_triton.launch_sizes(128, torch.bfloat16)
    constants = {"BLOCK": sizes["BLOCK"], "DIM": sizes["DIM"], "query_dim": 1, "key_dim": 1}
    constants["PADDED"] = True
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("query", "key"):
            signature[name] = "*bf16"
        elif name == "padding":
            signature[name] = "*i64"
        elif name in ("maximum", "inverse_sum", "rank", "following"):
            signature[name] = "*fp32"
        else:
            signature[name] = "fp32" if name in ("scaling", "inverse_temperature") else "i32"
    aligned = {  # as triton finds them in a model: that lets loads run ahead
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if signature[name] != "constexpr" and name.startswith(("query", "key", "dims"))
    }
    built = triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options={name: sizes[name] for name in ("num_warps", "num_stages")},
    )
    assert built.asm["cubin"]
    assert built.metadata.shared <= SMALLEST_SHARED_BYTES


def test_flops_on_meta_count_what_is_recomputed():
    query, key = (x.to("meta") for x in heads_of("bfloat16"))
    with FlopCounterMode(display=False) as counter:
        scores = fused_importance(query, key, scaling=0.1)
    batch, heads, tokens, dim = query.shape
    assert counter.get_total_flops() == batch * heads * tokens**2 * (6 * 2 * dim + 5 * 2)
    assert (scores.shape, scores.dtype, scores.is_meta) == ((batch, tokens), torch.float32, True)


@pytest.mark.parametrize(
    ("query", "key", "expected"),
    [
        (torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8), "cuda"),
        (
            torch.zeros(1, 2, 3, 8, device="meta"),
            torch.zeros(1, 2, 3, 8, device="meta", dtype=torch.half),
            "one dtype",
        ),
        (torch.zeros(1, 3, 3, 8, device="meta"), torch.zeros(1, 2, 3, 8, device="meta"), "divisor"),
        (torch.zeros(1, 2, 3, 8, device="meta"), torch.zeros(1, 2, 4, 8, device="meta"), "divisor"),
    ],
)
def test_refuses_what_it_cannot_score(query, key, expected):
    with pytest.raises(InputError, match=expected):
        fused_importance(query, key, scaling=0.1)


def test_the_kernel_is_chosen_by_device_and_by_hand(monkeypatch):
    monkeypatch.delenv(choice.IMPORTANCE_VARIABLE, raising=False)
    assert choice.importance_kernel(torch.device("cpu")) == "torch"
    monkeypatch.setattr(choice, "_builds", lambda device: True)
    assert choice.importance_kernel(torch.device("cuda")) == "triton"
    assert choice.importance_kernel(torch.device("meta")) == "torch"
    monkeypatch.setenv(choice.IMPORTANCE_VARIABLE, "torch")
    assert choice.importance_kernel(torch.device("cuda")) == "torch"
    monkeypatch.setenv(choice.IMPORTANCE_VARIABLE, "cuda")
    with pytest.raises(PatchError, match="auto, torch, triton"):
        choice.importance_kernel(torch.device("cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_where_triton_builds_nothing_torch_takes_over_with_a_warning(monkeypatch):
    monkeypatch.delenv(choice.IMPORTANCE_VARIABLE, raising=False)
    choice._builds.cache_clear()
    with pytest.warns(UserWarning, match="AIM_IMPORTANCE_KERNEL=torch"):
        assert choice.importance_kernel(torch.device("cuda")) == "torch"


def test_a_prefill_scores_with_the_chosen_kernel(monkeypatch):
    query, key = (x.to("meta") for x in heads_of("bfloat16"))
    batch, heads, tokens, dim = query.shape
    visual = torch.ones(batch, tokens, dtype=torch.bool, device="meta")
    made = Choice(visual, 0, None, candidates=tokens, stay=3)
    at = Attended(made, query, key, 0.1)
    for name, products in (("torch", 1), ("triton", 6), ("auto", 1)):
        monkeypatch.setenv(choice.IMPORTANCE_VARIABLE, name)
        with FlopCounterMode(display=False) as counter:
            LAYER_IMPORTANCE["pagerank"](at)
        expected = batch * heads * tokens**2 * (products * 2 * dim + 10)
        assert counter.get_total_flops() == expected
