"""One verb: run a schedule inside a transformers model, without a fork.

Merging wraps the model's encoders of images and videos; dropping happens in forward hooks of the
decoder layers, or inside a layer in a forward of our own; scores come from an attention function
that sees q and k after the rotary embedding.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers import (
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedModel,
    Qwen2_5_VLTextModel,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen2VLTextModel,
    Qwen3VLTextModel,
)

from aim_cost.models.workload import LastLayer
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import PatchError
from aim_runtime.models import find_adapter
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.adapters import ADAPTERS
from aim_runtime.models.compiled import require_uncompiled, unwrapped
from aim_runtime.models.part import Part
from aim_runtime.models.wrapped import model_inside
from aim_runtime.patching.attention import SUPPORTED_ATTENTION
from aim_runtime.patching.executable import check_executable
from aim_runtime.patching.generate import Generation, refuse_batching
from aim_runtime.patching.last_layer import LastTokenAlone
from aim_runtime.patching.logits import CallerLogits
from aim_runtime.patching.position_keeping import PositionKeeping
from aim_runtime.patching.prompt_shortening import PromptShortening
from aim_runtime.patching.token_dropping import TokenDropping
from aim_runtime.patching.tower import TowerMerging
from aim_runtime.patching.trial import require_tested
from aim_runtime.patching.undo import Changes
from aim_runtime.prompts.prompt import Prompt, embedded_prompt
from aim_runtime.recorder import NULL_RECORDER, Recorder
from aim_runtime.seams import decoder_seams, deepstack_seams, model_seams, require_seams
from aim_runtime.trace import RunTrace

LANGUAGE_MODELS = (Qwen2ForCausalLM, LlamaForCausalLM)
SUPPORTED_MODELS = (*(kind for adapter in ADAPTERS for kind in adapter.kinds), *LANGUAGE_MODELS)
_DECODERS = (Qwen2Model, LlamaModel, Qwen2VLTextModel, Qwen2_5_VLTextModel, Qwen3VLTextModel)
_PATCH = "_aim_patch"


@contextmanager
def patched(
    model: PreTrainedModel,
    schedule: Schedule | str,
    *,
    visual_mask: Tensor | None = None,
    recorder: Recorder = NULL_RECORDER,
    last_layer: LastLayer | str = LastLayer.ALL,
) -> Iterator[RunTrace]:
    """Run ``model`` under ``schedule`` inside the ``with`` block; see ``patch``."""
    trace = patch(
        model, schedule, visual_mask=visual_mask, recorder=recorder, last_layer=last_layer
    )
    try:
        yield trace
    finally:
        unpatch(model)


def patch(
    model: PreTrainedModel,
    schedule: Schedule | str,
    *,
    visual_mask: Tensor | None = None,
    recorder: Recorder = NULL_RECORDER,
    last_layer: LastLayer | str = LastLayer.ALL,
) -> RunTrace:
    """Make ``model`` merge and drop visual tokens as ``schedule`` says, until ``unpatch``.

    ``model(...)`` and ``model.generate(...)`` are called as before, with the prompts that the
    model's processor writes: images and videos, several in a prompt too; text alone, which nothing
    reduces; batches padded on the left, whose rows may hold different images and videos; and
    further text after the cache of a prompt. The logits of a prefill are those of the tokens that
    are left (``trace.kept[-1]``); ``Schedule()`` changes no bit. Where positions have three axes
    (Qwen2-VL) survivors keep theirs, whatever ``merge.positions`` says.

    Args:
        schedule: itself, or its text.
        model: one of SUPPORTED_MODELS; a bare language model is pruned only.
        visual_mask: bool [B, n], True at visual tokens. Required by a bare language model and by
            others called with ``inputs_embeds``; every prompt must then fit it.
        recorder: is told when merging and scoring happen.
        last_layer: ``all`` computes every token in the last layer, as transformers does;
            ``needed`` computes keys and values of all, so that the cache is the same, and the rest
            for the last token alone, in prefills that are called with ``logits_to_keep=1``, as
            ``generate`` does, and with no other outputs. Their ``trace.kept[-1]`` is that token.
            Text after the cache of a prompt is computed whole.
    Returns: the trace, rewritten by every prefill.
    Raises: PatchError, ScheduleError. Everything is checked before the model is changed.
    """
    last_layer = LastLayer.read(last_layer, PatchError)
    schedule = Schedule.of(schedule)
    model = model_inside(model)
    adapter = find_adapter(model)
    decoder = _checked_decoder(model, adapter)
    if adapter is not None:
        adapter.check()
    _check_transformers(model, decoder, adapter)
    check_executable(schedule, len(decoder.layers))
    embedded = _embedded_prompt(model, adapter, schedule, visual_mask)
    trace = RunTrace()
    reduces = schedule != Schedule()
    positions = PositionKeeping(adapter, schedule)
    prompts = tower = last = generation = logits = None
    if adapter is not None:
        prompts = PromptShortening(
            adapter,
            schedule,
            positions,
            recorder,
            reduces=reduces,
            takes_ids=embedded is None,
        )
        if schedule.vision_merge is not None:
            tower = TowerMerging(adapter, schedule.vision_merge, trace)
    if last_layer is LastLayer.NEEDED:
        last = LastTokenAlone(model, decoder)
    if reduces:
        generation = Generation(
            model, positions, adapter, prompts, prunes=schedule.prune is not None
        )
        logits = CallerLogits(model, prompts, embedded)
    dropping = TokenDropping(
        decoder,
        schedule,
        reduces=reduces,
        prompts=prompts,
        embedded=embedded,
        positions=positions,
        last=last,
        logits=logits,
        recorder=recorder,
        trace=trace,
    )
    with Changes() as changes:  # a change that fails takes those before it back
        refuse_batching(model, changes)
        for part in (dropping, last, logits, tower, prompts, positions, generation):
            if part is not None:
                part.attach(changes)
        setattr(decoder, _PATCH, changes.pop_all())
    return trace


def _check_transformers(
    model: PreTrainedModel, decoder: nn.Module, adapter: Adapter | None
) -> None:
    """Raises: PatchError where the installed transformers is not what the patch relies on."""
    require_seams((*decoder_seams(decoder), *deepstack_seams(decoder)))
    if adapter is not None:
        require_seams(model_seams(model, adapter.inner, adapter.pixel_inputs))
    require_tested(type(model), patched)


def unpatch(model: PreTrainedModel) -> None:
    """Restore ``model`` as it was before ``patch``. Raises: PatchError if it is not patched."""
    model = model_inside(model)
    decoder = _decoder(model, find_adapter(model))
    changes: Changes | None = getattr(decoder, _PATCH, None)
    if changes is None:
        raise PatchError(
            type(model).__name__,
            expected="a patched model",
            got="one that is not",
            fix="Call patch(model, schedule) first.",
        )
    delattr(decoder, _PATCH)
    changes.close()


def _decoder(model: PreTrainedModel, adapter: Adapter | None) -> Part:
    decoder: Part = None
    if adapter is not None:
        decoder = adapter.decoder
    elif isinstance(model, LANGUAGE_MODELS):
        decoder = unwrapped(model.model)
    if isinstance(decoder, _DECODERS):
        return decoder
    raise PatchError(
        "model",
        expected=f"one of {', '.join(kind.__name__ for kind in SUPPORTED_MODELS)}, with one of "
        f"{', '.join(kind.__name__ for kind in _DECODERS)}",
        got=type(model).__name__ + (f" with {type(decoder).__name__}" if decoder else ""),
        fix="Other models are not supported yet.",
    )


def _checked_decoder(model: PreTrainedModel, adapter: Adapter | None) -> Part:
    decoder = _decoder(model, adapter)
    if getattr(decoder, _PATCH, None) is not None:
        raise PatchError(
            type(model).__name__,
            expected="a model that is not patched",
            got="a patched one",
            fix="Call unpatch(model) first, or leave the with block.",
        )
    require_uncompiled(decoder)
    implementation = decoder.config._attn_implementation
    if implementation not in SUPPORTED_ATTENTION:
        raise PatchError(
            "attention implementation",
            expected=f"one of {', '.join(SUPPORTED_ATTENTION)}",
            got=implementation,
            fix="Call model.set_attn_implementation('sdpa') first.",
        )
    if len(decoder.layers) != decoder.config.num_hidden_layers:
        raise PatchError(
            "num_hidden_layers",
            expected=f"{len(decoder.layers)}, the layers that the decoder has",
            got=decoder.config.num_hidden_layers,
            fix="Remove the layers that do not run, or correct the config.",
        )
    require_one_device(decoder.layers)
    partial = set(getattr(decoder.config, "layer_types", None) or ()) - {"full_attention"}
    if partial:
        raise PatchError(
            "layer_types",
            expected="full_attention in every layer",
            got=", ".join(sorted(partial)),
            fix="Set use_sliding_window=False, if the model allows it.",
        )
    return decoder


def _embedded_prompt(
    model: PreTrainedModel, adapter: Adapter | None, schedule: Schedule, visual_mask: Tensor | None
) -> Prompt | None:
    if visual_mask is None:
        if adapter is not None:
            return None
        raise PatchError(
            "visual_mask",
            expected=f"a bool mask [batch, prompt tokens], for a bare {type(model).__name__}",
            got="none",
            fix="Pass visual_mask=mask, True at visual tokens.",
        )
    for name in ("sample", "vision_merge", "merge", "select"):
        if getattr(schedule, name) is not None:
            raise PatchError(
                f"schedule.{name}",
                expected="pruning alone: all else acts on an image or video before it is embedded",
                got=schedule.label(),
                fix="Prune only, or give pixels to a vision-language model without visual_mask.",
            )
    return embedded_prompt(visual_mask)


def require_one_device(layers: Iterable[nn.Module]) -> None:
    """Raises: PatchError for layers on several devices, weights that accelerate fetches aside."""
    devices = {str(p.device) for layer in layers for p in layer.parameters() if not p.is_meta}
    if len(devices) > 1:
        raise PatchError(
            "decoder",
            expected="layers on one device, which is told once who stays",
            got=", ".join(sorted(devices)),
            fix="Load the model with device_map={'': 0}, or keep on the CPU what does not fit.",
        )
