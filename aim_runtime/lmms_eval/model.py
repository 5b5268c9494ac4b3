"""AimLlavaOnevision: the class that lmms-eval makes and asks."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from rich.progress import track
from transformers import StoppingCriteriaList

from aim_cost.render import console
from aim_runtime.errors import InputError
from aim_runtime.lmms_eval.arguments import Arguments
from aim_runtime.lmms_eval.generation import FirstToken, cut, generation_options
from aim_runtime.lmms_eval.log import SampleLog, sample_row
from aim_runtime.lmms_eval.visuals import document_frames
from aim_runtime.measurement.clock import recorder_for
from aim_runtime.models import require_onevision
from aim_runtime.models.load import load
from aim_runtime.patching.patch import patched
from aim_runtime.prompts.inputs import question_inputs


class AimLlavaOnevision(lmms):
    """LLaVA-OneVision from transformers, answering questions about videos under a schedule.

    Args: those of ``Arguments.from_model_args``.
    Raises: AimError, before any request for everything that can be known by then.
    """

    is_simple = True

    def __init__(self, **model_args: Any) -> None:
        super().__init__()
        self._arguments = _of_this_process(Arguments.from_model_args(model_args))
        self._schedule = self._arguments.schedule
        self._log = SampleLog(self._arguments.log) if self._arguments.log else None
        self._loaded = load(
            self._arguments.pretrained, self._arguments.device, self._arguments.dtype
        )
        require_onevision(self._loaded.model, "pretrained")
        with patched(self._loaded.model, self._schedule):
            pass  # refuses a schedule that does not fit the model before any request

    @property
    def device(self) -> torch.device:
        return self._loaded.device

    @property
    def batch_size(self) -> int:
        return 1

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer one request after the other. Raises: AimError that names document or video."""
        shown = console(error=True)
        progress = track(requests, "answering", console=shown, disable=self.rank != 0)
        return [self._answer(request) for request in progress]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise _unsupported("loglikelihood")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise _unsupported("generate_until_multi_round")

    def clean(self) -> None:
        """Free the model, as lmms-eval wants it after the last request."""
        del self._loaded
        super().clean()

    def _answer(self, request: Instance) -> GenerationResult:
        question, generation_kwargs, doc_to_visual, doc_id, task, split = request.args
        options, stops = generation_options(generation_kwargs)
        frames = document_frames(
            doc_to_visual(self.task_dict[task][split][doc_id]),
            self._arguments,
            where=f"{task}, document {doc_id}",
        )
        inputs, tokenizer = question_inputs(self._loaded, frames, question)
        model = require_onevision(self._loaded.model, "pretrained")
        recorder = recorder_for(self._loaded.device)
        with patched(model, self._schedule) as trace, FirstToken(recorder) as first:
            criteria = StoppingCriteriaList([first])
            output = model.generate(**inputs, **options, stopping_criteria=criteria)
        new = output[0, inputs["input_ids"].shape[1] :]
        if self._log and not request.metadata.get("__padding_only__"):
            row = sample_row(self._loaded, self._schedule, trace, recorder.seconds())
            where = {"task": task, "split": split, "doc_id": doc_id}
            self._log.append(where | row | {"new_tokens": len(new)})
        counts = TokenCounts(trace.tokens.prompt_tokens, len(new))
        return GenerationResult(cut(tokenizer.decode(new, skip_special_tokens=True), stops), counts)


def _of_this_process(arguments: Arguments) -> Arguments:
    """Each of several processes that share the requests has its own device and log."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return arguments
    device, log = arguments.device, arguments.log
    if device in (None, "cuda") and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    if log is not None:
        log = Path(log).with_suffix(f".{os.environ['RANK']}{log.suffix}")
    return replace(arguments, device=device, log=log)


def _unsupported(kind: str) -> InputError:
    return InputError(
        "task",
        expected="requests of the kind generate_until",
        got=kind,
        fix="Choose the task's variant that generates its answers.",
    )
