"""Checks that dropping tokens equals its mask-based reference with the installed versions."""

import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from aim_cost.errors import SpecError
from aim_cost.files.json_text import json_tree
from aim_cost.render import Row
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_runtime.patching.patch import patched
from aim_runtime.reference import Reference
from aim_runtime.trace import RunTrace

LOGIT_TOLERANCE = 1e-4
"""Largest accepted difference of fp32 logits at text positions."""

_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "rope_theta",
)
_SMALL = dict(zip(_FIELDS, (256, 64, 128, 8, 4, 2, 512, 1e-6, False, 1e4), strict=True))


@dataclass(frozen=True)
class Equality:
    """A run by the physical drop against another run of the same prompt.

    Args: max_logit_difference, at text positions; None where it is not finite.
    """

    kept_sets_equal: bool
    max_logit_difference: float | None
    greedy_tokens_equal: bool

    @property
    def passed(self) -> bool:
        difference = self.max_logit_difference
        near = difference is not None and difference <= LOGIT_TOLERANCE
        return near and self.kept_sets_equal and self.greedy_tokens_equal


@dataclass(frozen=True)
class SelfCheck:
    """Dropping against masking with the versions installed here.

    Args: checks, ``reference``, and ``vectors`` where some were given; versions, by library.
    """

    checks: Mapping[str, Equality]
    versions: Mapping[str, str]

    @property
    def total(self) -> Equality:
        """All checks as one: equal where all are, with the largest difference."""
        found = self.checks.values()
        differences = [one.max_logit_difference for one in found]
        finite = [difference for difference in differences if difference is not None]
        return Equality(
            kept_sets_equal=all(one.kept_sets_equal for one in found),
            max_logit_difference=max(finite) if len(finite) == len(differences) else None,
            greedy_tokens_equal=all(one.greedy_tokens_equal for one in found),
        )

    @property
    def passed(self) -> bool:
        return self.total.passed

    def to_dict(self) -> Row:
        """Everything as plain data, for JSON."""
        return {
            "passed": self.passed,
            **asdict(self.total),
            "logit_tolerance": LOGIT_TOLERANCE,
            "checks": {name: asdict(check) for name, check in self.checks.items()},
            "versions": dict(self.versions),
        }


@torch.no_grad()
def selfcheck(vectors: Path | None = None, *, device: str = "cpu") -> SelfCheck:
    """Run a small random Qwen2 by dropping and by masking, fp32, and compare; so for ``vectors``.

    Args:
        vectors: a safetensors file with a recorded run: metadata ``config`` and ``boundaries``;
            ``weights.*``, ``inputs_embeds``, ``patched.kept_into_layer.NN``, ``patched.logits``,
            ``fixed.greedy_tokens``, under pruning linear:14:22.
    Raises: SpecError for a file that cannot be read or lacks a part.
    """
    checks = {"reference": _against_reference(device)}
    if vectors is not None:
        checks["vectors"] = _against_vectors(Path(vectors), device)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return SelfCheck(checks, versions)


def qwen2_config(fields: dict[str, Any]) -> Qwen2Config:
    """A Qwen2 config from the names of any transformers version. Raises: SpecError."""
    missing = [name for name in _FIELDS if name not in fields]
    if missing:
        raise SpecError(
            "config",
            expected=f"the fields {', '.join(_FIELDS)}",
            got=f"no {', '.join(missing)}",
            fix="Record the whole config.",
        )
    wanted = {name: fields[name] for name in _FIELDS if name != "rope_theta"}
    # since transformers 5 the base of the rotary embedding lives in rope_parameters
    rope = {"rope_type": "default", "rope_theta": fields["rope_theta"]}
    # no token ends a generation, so that lengths can be compared
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return Qwen2Config(**wanted, **ends, rope_parameters=rope)


def _against_reference(device: str) -> Equality:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = qwen2_config(_SMALL)
        config.initializer_range = 0.15
        model = Qwen2ForCausalLM(config).eval().to(device)
        embeds = torch.randn(1, 48, config.hidden_size, device="cpu").to(device)
    visual = torch.zeros(1, embeds.shape[1], dtype=torch.bool, device="cpu")
    visual[:, 6:38] = True
    run = _Run(model, embeds, visual, Schedule(prune=Prune(linear=(2, 6))), new_tokens=6)
    reference = Reference(model.model, model.lm_head)
    kept = reference.kept(embeds[0], visual[0].to(device), run.trace.tokens)
    return run.compare(
        [mask.nonzero()[:, 0] for mask in kept],
        reference.logits(embeds[0], kept),
        reference.generate(embeds[0], kept, 6),
    )


def _against_vectors(path: Path, device: str) -> Equality:
    def refuse(expected: str, got: object) -> SpecError:
        fix = "Record it like shared/golden/prefill_prune_std0.1.safetensors."
        return SpecError(str(path), expected=expected, got=got, fix=fix)

    try:
        with safe_open(path, "pt", device=device) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = qwen2_config(json_tree(metadata["config"]))
        ((start, end, tokens),) = json_tree(metadata["boundaries"])
        names = [f"patched.kept_into_layer.{i:02d}" for i in range(1, config.num_hidden_layers + 1)]
        kept = [torch.arange(tokens, device=device), *(tensors[name].long() for name in names)]
        embeds, logits = tensors["inputs_embeds"], tensors["patched.logits"][0]
        greedy = [int(token) for token in tensors["fixed.greedy_tokens"][0]]
        model = Qwen2ForCausalLM(config).eval().to(device)
        prefix = "weights."
        weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        model.load_state_dict(weights)
        visual = torch.zeros(embeds.shape[:2], dtype=torch.bool, device="cpu")
        visual[:, start:end] = True
        if embeds.shape != (1, tokens, config.hidden_size):
            raise refuse(f"inputs_embeds of one prompt of {tokens} tokens", list(embeds.shape))
        if logits.shape != (tokens, config.vocab_size):
            raise refuse(f"patched.logits of {tokens} tokens", list(logits.shape))
    except (OSError, SafetensorError) as error:
        raise refuse("a readable safetensors file", str(error)) from error
    except KeyError as error:
        raise refuse("a complete recording", f"no {error.args[0]!r}") from error
    except (ValueError, TypeError, IndexError, ArithmeticError, RuntimeError) as error:
        raise refuse("a consistent recording", " ".join(str(error).split())[:200]) from error
    schedule = Schedule(prune=Prune(linear=(14, 22)))
    return _Run(model, embeds, visual, schedule, new_tokens=len(greedy)).compare(
        kept, logits, greedy
    )


class _Run:
    """One prompt by the physical drop: embeds[1, n, H], visual[1, n]."""

    trace: RunTrace

    def __init__(
        self,
        model: Qwen2ForCausalLM,
        embeds: Tensor,
        visual: Tensor,
        schedule: Schedule,
        new_tokens: int,
    ) -> None:
        with patched(model, schedule, visual_mask=visual) as self.trace:
            new = model.generate(inputs_embeds=embeds, max_new_tokens=new_tokens, do_sample=False)
            self._logits = model(inputs_embeds=embeds).logits[0]
        self._text = ~visual[0].to(embeds.device)
        self._greedy = new[0].tolist()

    def compare(self, kept: list[Tensor], logits: Tensor, greedy: list[int]) -> Equality:
        """With the kept positions of every layer, logits[n, V] and greedy tokens of another run."""
        left = self.trace.kept[-1][0]
        here, there = self._logits[self._text[left]], logits[self._text]
        difference = float((here - there).abs().max())
        same = (torch.equal(a[0], b) for a, b in zip(self.trace.kept, kept, strict=True))
        return Equality(
            kept_sets_equal=all(same),
            max_logit_difference=difference if math.isfinite(difference) else None,
            greedy_tokens_equal=self._greedy == greedy,
        )
