"""A call of ``generate`` for each of its arguments and each field of a generation config."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CompileConfig,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
    WatermarkingConfig,
)

Given = dict[str, Any]
PROMPT = 49  # tokens of the prompt, which video_inputs() makes

# of generation configs, but nothing that a caller sets
KEPT_BY_TRANSFORMERS = {"_from_model_config", "_commit_hash", "transformers_version"}


@dataclass(frozen=True)
class Case:
    """A call with an argument, and what it must do under a schedule that reduces.

    Args:
        given: to ``generate``, made afresh for each call.
        refused: whether such a schedule refuses it, with an error that names the argument.
        answer: the call with the same answer, where ``given`` only says how to find it.
        seen: what the caller's objects saw, read from ``given`` after the call.
    """

    given: Callable[[PreTrainedModel], Given]
    refused: bool = False
    answer: Given | None = None
    seen: Callable[[Given], Any] | None = None


class Words:
    """A tokenizer of one letter a token, as far as ``generate`` asks."""

    eos_token_id = bos_token_id = pad_token_id = None

    def __init__(self) -> None:
        self.vocabulary = {chr(0x4E00 + token): token for token in range(256)}

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary

    def __len__(self) -> int:
        return 256

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


class Streamer:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def put(self, value: Tensor) -> None:
        self.got.append(value.tolist())

    def end(self) -> None:
        self.got.append("end")


def _loop(
    model: PreTrainedModel, input_ids: Tensor, generation_config: GenerationConfig, **kwargs: Any
) -> Tensor:
    """A caller's own decoding, three greedy steps that start from the whole prompt."""
    kwargs = {k: v for k, v in kwargs.items() if k not in ("logits_processor", "stopping_criteria")}
    kwargs["logits_to_keep"] = 1
    outputs = model._prefill(input_ids, generation_config, kwargs)
    for _ in range(3):
        kwargs = model._update_model_kwargs_for_generation(outputs, kwargs)
        new = outputs.logits[:, -1:].argmax(-1)
        input_ids = torch.cat([input_ids, new], dim=1)
        step = {"next_sequence_length": 1 if kwargs.get("use_cache") else None}
        inputs = model.prepare_inputs_for_generation(input_ids, **step, **kwargs)
        outputs = model(**inputs, return_dict=True)
    return input_ids


def _prefix(row: int, ids: Tensor) -> list[int]:
    """One token for each place behind the caller's own prompt, and nothing behind another."""
    place = len(ids) - PROMPT
    return [11 + place] if 0 <= place < 9 else [199]


def _processor(ids: Tensor, scores: Tensor) -> Tensor:
    """Forbids all tokens but the one that the caller's prompt and its length name."""
    forced = torch.full_like(scores, -torch.inf)
    forced[:, int(ids[:, :PROMPT].sum() + 7 * ids.shape[1]) % 200] = 0.0
    return forced


def _enough(ids: Tensor, scores: Any) -> Tensor:
    return torch.full((len(ids),), ids.shape[1] >= PROMPT + 2)


def _assistant(model: PreTrainedModel) -> PreTrainedModel:
    from tests.runtime.support import tiny_llava

    assistant = tiny_llava(layers=2, seed=3)
    assistant.generation_config.num_assistant_tokens = 3
    return assistant


def _always(**given: Any) -> Case:
    return Case(lambda _: dict(given))


def _same_answer(given: Given, **answer: Any) -> Case:
    return Case(lambda _: dict(given), answer=answer)


EVEN = {"eos_token_id": list(range(0, 250, 2)), "pad_token_id": 0}
SAMPLES = {"do_sample": True}
BEAMS = {"num_beams": 3}
LOOKUP = {"prompt_lookup_num_tokens": 3}

CASES: dict[str, Case] = {
    # arguments of generate
    "inputs": Case(lambda _: {"inputs": ...}),  # the caller's input_ids
    "generation_config": Case(
        lambda _: {"generation_config": GenerationConfig(max_new_tokens=5, repetition_penalty=1.4)}
    ),
    "logits_processor": Case(lambda _: {"logits_processor": LogitsProcessorList([_processor])}),
    "stopping_criteria": Case(lambda _: {"stopping_criteria": StoppingCriteriaList([_enough])}),
    "prefix_allowed_tokens_fn": _always(prefix_allowed_tokens_fn=_prefix),
    "synced_gpus": _always(synced_gpus=False),
    "assistant_model": Case(lambda model: {"assistant_model": _assistant(model)}, answer={}),
    "streamer": Case(lambda _: {"streamer": Streamer()}, seen=lambda given: given["streamer"].got),
    "negative_prompt_ids": _always(
        guidance_scale=1.5, negative_prompt_ids=torch.tensor([[1, 2, 3]])
    ),
    "negative_prompt_attention_mask": _always(
        guidance_scale=1.5,
        negative_prompt_ids=torch.tensor([[1, 2, 3]]),
        negative_prompt_attention_mask=torch.tensor([[0, 1, 1]]),
    ),
    "custom_generate": _always(custom_generate=_loop),
    # how long
    "max_length": _always(max_length=PROMPT + 3, max_new_tokens=None),
    "max_new_tokens": _always(max_new_tokens=2),
    "min_length": _always(min_length=PROMPT + 3, **EVEN),
    "min_new_tokens": _always(min_new_tokens=3, **EVEN),
    "early_stopping": _always(early_stopping=True, **BEAMS, **EVEN),
    "max_time": _always(max_time=1000.0),
    "stop_strings": Case(
        lambda _: (
            {"stop_strings": [chr(0x4E00 + token) for token in range(0, 250, 2)]}
            | {"tokenizer": Words()}
        )
    ),
    "eos_token_id": _always(**EVEN),
    "pad_token_id": _always(pad_token_id=3),
    "bos_token_id": _always(bos_token_id=3),
    "decoder_start_token_id": _always(decoder_start_token_id=3),
    "forced_bos_token_id": _always(forced_bos_token_id=7),
    "forced_eos_token_id": _always(forced_eos_token_id=7, eos_token_id=7, pad_token_id=0),
    # how to search
    "do_sample": _always(**SAMPLES),
    "num_beams": _always(**BEAMS),
    "num_beam_groups": _always(num_beams=4, num_beam_groups=2, diversity_penalty=1.0),
    "diversity_penalty": _always(num_beams=4, num_beam_groups=2, diversity_penalty=1.0),
    "length_penalty": _always(length_penalty=3.0, **BEAMS),
    "num_return_sequences": _always(num_return_sequences=3, **SAMPLES),
    "constraints": _always(constraints=[], **BEAMS),
    "force_words_ids": _always(force_words_ids=[[3]], **BEAMS),
    "penalty_alpha": _always(penalty_alpha=0.6, top_k=4),
    "dola_layers": _always(dola_layers="low"),
    "low_memory": _always(low_memory=True),
    # scores
    "temperature": _always(temperature=0.6, **SAMPLES),
    "top_k": _always(top_k=5, **SAMPLES),
    "top_p": _always(top_p=0.5, **SAMPLES),
    "top_h": _always(top_h=0.5, **SAMPLES),
    "min_p": _always(min_p=0.1, **SAMPLES),
    "typical_p": _always(typical_p=0.5, **SAMPLES),
    "epsilon_cutoff": _always(epsilon_cutoff=0.01, **SAMPLES),
    "eta_cutoff": _always(eta_cutoff=0.01, **SAMPLES),
    "repetition_penalty": _always(repetition_penalty=1.6),
    "encoder_repetition_penalty": _always(encoder_repetition_penalty=1.6),
    "no_repeat_ngram_size": _always(no_repeat_ngram_size=1),
    "encoder_no_repeat_ngram_size": _always(encoder_no_repeat_ngram_size=1),
    "bad_words_ids": _always(bad_words_ids=[[token] for token in range(0, 200, 2)]),
    "renormalize_logits": _always(renormalize_logits=True, **BEAMS),
    "remove_invalid_values": _always(remove_invalid_values=True),
    "exponential_decay_length_penalty": _always(
        exponential_decay_length_penalty=(1, 1.8), eos_token_id=7, pad_token_id=0
    ),
    "suppress_tokens": _always(suppress_tokens=list(range(0, 200, 2))),
    "begin_suppress_tokens": _always(begin_suppress_tokens=list(range(0, 200, 2))),
    "sequence_bias": _always(sequence_bias=[[[token], 9.0] for token in range(20)]),
    "token_healing": Case(lambda _: {"token_healing": True, "tokenizer": Words()}),
    "guidance_scale": _always(guidance_scale=1.5),
    "watermarking_config": Case(lambda _: {"watermarking_config": WatermarkingConfig()}),
    # what comes back
    "output_scores": _always(return_dict_in_generate=True, output_scores=True),
    "output_logits": _always(return_dict_in_generate=True, output_logits=True),
    "output_attentions": _same_answer({"return_dict_in_generate": True, "output_attentions": True}),
    "output_hidden_states": _same_answer(
        {"return_dict_in_generate": True, "output_hidden_states": True}
    ),
    "return_dict_in_generate": _always(return_dict_in_generate=True),
    # drafts
    "prompt_lookup_num_tokens": _same_answer(LOOKUP),
    "max_matching_ngram_size": _same_answer(LOOKUP | {"max_matching_ngram_size": 1}),
    "is_assistant": Case(lambda _: {"is_assistant": True}, refused=True),
    "num_assistant_tokens": _always(num_assistant_tokens=2),
    "num_assistant_tokens_schedule": _always(num_assistant_tokens_schedule="constant"),
    "assistant_confidence_threshold": _always(assistant_confidence_threshold=0.1),
    "assistant_early_exit": Case(lambda _: {"assistant_early_exit": 2}, refused=True),
    "assistant_lookbehind": _always(assistant_lookbehind=3),
    "target_lookbehind": _always(target_lookbehind=3),
    "assistant_ensemble_weight": Case(
        lambda model: {"assistant_ensemble_weight": 0.0, "assistant_model": _assistant(model)},
        answer={},
    ),
    "use_mtp": _always(use_mtp=True),
    "speculation_type": _always(speculation_type=None),
    # caches
    "use_cache": Case(lambda _: {"use_cache": False}, refused=True),
    "cache_implementation": Case(lambda _: {"cache_implementation": "static"}, refused=True),
    "cache_config": _always(cache_config={"nbits": 4}),
    "max_cache_len": _always(max_cache_len=99),
    "prefill_chunk_size": Case(lambda _: {"prefill_chunk_size": 8}, refused=True),
    "compile_config": Case(lambda _: {"compile_config": CompileConfig()}),
    "disable_compile": _always(disable_compile=True),
    "continuous_batching_config": _always(continuous_batching_config=None),
}
