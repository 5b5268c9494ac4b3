"""Fidelity: how far a schedule moves a checkpoint's outputs from those without reduction."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from aim_cost.checks import whole
from aim_cost.files.csv_text import read_csv
from aim_cost.files.json_text import json_tree
from aim_cost.files.text import text_of
from aim_cost.render import Row, console
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import InputError
from aim_runtime.models.inputs import Inputs
from aim_runtime.models.load import Loaded
from aim_runtime.patching.patch import patched
from aim_runtime.seams import cache_of, with_cache


@dataclass(frozen=True)
class Fidelity:
    """How far one schedule moves the next-token distributions from those of no reduction.

    Args:
        prompts, steps: that were compared.
        kl_mean, kl_p95: KL of the reduced from the unreduced distribution over all steps, nats;
            kl_first: of the first token alone.
        top1_agreement: the share of steps with the same most likely token.
        answers_equal: the share of prompts where it is the same at every step.
        tokens_per_layer: of the last prompt.
    """

    model: str
    dtype: str
    schedule: Schedule
    prompts: int
    steps: int
    kl_mean: float
    kl_p95: float
    kl_first: float
    top1_agreement: float
    answers_equal: float
    tokens_per_layer: tuple[int, ...]

    def to_row(self) -> Row:
        """One flat row."""
        return {
            "kind": "fidelity",
            **vars(self),
            "schedule": self.schedule.label(),
            "tokens_per_layer": list(self.tokens_per_layer),
        }


@dataclass(frozen=True)
class VideoPrompt:
    """A question about a video file."""

    video: Path
    question: str


def read_prompts(path: Path) -> list[VideoPrompt]:
    """Prompts of a .csv with columns video and question, or of a .jsonl with these keys.

    Videos are found from the folder of ``path``. Raises: InputError.
    """
    try:
        rows = (
            read_csv(path).rows
            if path.suffix == ".csv"
            else [json_tree(line) for line in text_of(path).split("\n") if line.strip()]
        )
        found = [VideoPrompt(path.parent / row["video"], str(row["question"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_prompts(path, f"{type(error).__name__}: {error}") from error
    if not found:
        raise _not_prompts(path, "no prompts")
    return found


def _not_prompts(path: Path, got: str) -> InputError:
    return InputError(
        str(path),
        expected="a .csv or .jsonl with video and question in each row",
        got=" ".join(got.split()),
        fix='E.g. {"video": "clip.mp4", "question": "What happens?"} a line.',
    )


def fidelity_rows(
    loaded: Loaded,
    prompts: Sequence[Callable[[], Inputs]],
    schedules: Schedule | str | Iterable[Schedule | str],
    *,
    new_tokens: int = 16,
) -> list[Fidelity]:
    """Compare the next-token distributions of each schedule with those of no reduction.

    Each prompt is answered greedily without reduction; then every schedule is led along that
    answer, so all are compared after the same words. No labels are needed.

    Args:
        prompts: each makes the inputs of one prompt, batch 1.
        new_tokens: decoding steps compared, the first of them right after the prefill.
    Returns: one for each schedule.
    """
    whole(new_tokens, "new_tokens", InputError)
    schedules = Schedule.all_of(schedules)
    divergences: list[list[Tensor]] = [[] for _ in schedules]
    agreements: list[list[Tensor]] = [[] for _ in schedules]
    tokens: list[tuple[int, ...]] = [() for _ in schedules]
    for prompt in track(prompts, "fidelity", console=console(error=True), transient=True):
        inputs = prompt()
        reference, answer, _ = _steps(loaded, Schedule(), inputs, new_tokens, None)
        for index, schedule in enumerate(schedules):
            reduced, _, tokens[index] = _steps(loaded, schedule, inputs, new_tokens, answer)
            divergences[index].append(_divergence(reference, reduced))
            agreements[index].append(reference.argmax(-1) == reduced.argmax(-1))
    return [
        _fidelity(loaded, schedule, torch.stack(gaps), torch.stack(same), counts)
        for schedule, gaps, same, counts in zip(
            schedules, divergences, agreements, tokens, strict=True
        )
    ]


@torch.inference_mode()
def _steps(
    loaded: Loaded, schedule: Schedule, inputs: Inputs, steps: int, answer: Tensor | None
) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Log probabilities [steps, vocabulary], the answer [steps] followed, tokens of each layer.

    ``answer``: None follows the most likely tokens.
    """
    model, log_probabilities, followed = loaded.model, [], []
    with patched(model, schedule) as trace:
        output = model(**inputs, use_cache=True, logits_to_keep=1)
        counts = trace.tokens.attention_tokens
        for step in range(steps):
            logits = output.logits[0, -1].float()
            log_probabilities.append(logits.log_softmax(dim=-1))
            token = logits.argmax() if answer is None else answer[step]
            followed.append(token)
            if step + 1 < steps:
                output = model(
                    input_ids=token.view(1, 1),
                    **with_cache(cache_of(output)),
                    use_cache=True,
                )
    return torch.stack(log_probabilities), torch.stack(followed), counts


def _divergence(reference: Tensor, reduced: Tensor) -> Tensor:
    """KL(reference || reduced) of each step, nats: log probabilities [steps, V] -> [steps]."""
    return functional.kl_div(reduced, reference, log_target=True, reduction="none").sum(dim=-1)


def _fidelity(
    loaded: Loaded, schedule: Schedule, gaps: Tensor, same: Tensor, tokens: tuple[int, ...]
) -> Fidelity:
    """Args: gaps and same, [prompts, steps]."""
    prompts, steps = gaps.shape
    return Fidelity(
        model=loaded.spec.name,
        dtype=loaded.dtype,
        schedule=schedule,
        prompts=prompts,
        steps=steps,
        kl_mean=float(gaps.mean()),
        kl_p95=float(gaps.flatten().quantile(0.95)),
        kl_first=float(gaps[:, 0].mean()),
        top1_agreement=float(same.float().mean()),
        answers_equal=float(same.all(dim=1).float().mean()),
        tokens_per_layer=tokens,
    )
