"""A patch tries itself out before it touches a model of a transformers that was never tested."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import accumulate
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from aim_cost.models.model import ModelSpec
from aim_cost.models.workload import Workload
from aim_cost.schedules.merge import Merge
from aim_cost.schedules.prune import Prune
from aim_cost.schedules.schedule import Schedule
from aim_runtime.errors import PatchError, error_line
from aim_runtime.models import find_adapter
from aim_runtime.models.adapter import Adapter
from aim_runtime.models.load import Loaded
from aim_runtime.models.smallest import smallest_model
from aim_runtime.patching.items import merge_item
from aim_runtime.prompts.inputs import sized_inputs
from aim_runtime.reference import Reference
from aim_runtime.seams import TESTED, WAY_OUT, is_tested, named
from aim_runtime.trace import RunTrace

RunPatched = Callable[..., AbstractContextManager[RunTrace]]

_TOLERANCE = 1e-3  # of fp32 logits, which are about 1 here
_PRUNE = Prune(linear=(1, 3))

_differences: dict[type[PreTrainedModel], str] = {}


def require_tested(kind: type[PreTrainedModel], run_patched: RunPatched) -> None:
    """Let a tested transformers pass; on another, try the smallest model of the class once.

    It runs patched and by the mask-based reference, in under two seconds. Where both agree, a
    warning says that this release was not tested.
    Args: run_patched, ``patched``.
    Raises: PatchError that says what differs.
    """
    if is_tested():
        return
    if kind not in _differences:
        _differences[kind] = ""  # the trial patches a model of this class itself
        _differences[kind] = difference = _difference(kind, run_patched)
        if not difference:
            warnings.warn(
                f"transformers {transformers.__version__} was not tested (tested: {TESTED}). A "
                f"small random {kind.__name__} gave under a patch what the slow reference gives.",
                stacklevel=4,
            )
    if _differences[kind]:
        raise PatchError(
            f"transformers {transformers.__version__}",
            expected=f"{TESTED}, or a release that runs a small {kind.__name__} as they do",
            got=_differences[kind],
            fix=WAY_OUT,
        )


@torch.no_grad()
def _difference(kind: type[PreTrainedModel], run_patched: RunPatched) -> str:
    """What a patch of the smallest model gets wrong; empty if nothing."""
    try:
        model = smallest_model(kind)
        adapter = find_adapter(model)
        if adapter is None:
            return _of_language_model(model, run_patched)
        return _of_vision_model(model, adapter, run_patched)
    except Exception as error:  # an unknown release may raise anything
        return error_line(error)


def _of_language_model(model: PreTrainedModel, run_patched: RunPatched) -> str:
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(1, 24, model.config.hidden_size, generator=generator, device="cpu")
    visual = torch.zeros(1, 24, dtype=torch.bool, device="cpu")
    visual[:, 4:18] = True
    with run_patched(model, Schedule(prune=_PRUNE), visual_mask=visual) as trace:
        logits = model(inputs_embeds=embeds).logits[0]
    reference = Reference(model.model, model.lm_head)
    return _compared(reference, embeds[0], visual[0], None, trace, logits)


def _of_vision_model(model: PreTrainedModel, adapter: Adapter, run_patched: RunPatched) -> str:
    spec = ModelSpec.from_hf_config(model.config.to_dict(), name=type(model).__name__)
    loaded = Loaded(model, spec, model.config, torch.device("cpu"), "float32", None)
    modality = "video" if "video" in adapter.pixel_inputs else "image"
    if modality == "video":
        workload = Workload(8, frames=4)
    elif spec.image_rule is not None:  # by which images are cut
        workload = Workload(8, images=(spec.vision.frame_size,))
    else:
        workload = Workload(8, image_tokens=spec.image_tokens)
    inputs = sized_inputs(loaded, workload)
    merge = Merge(retention=0.5)
    embeds, positions, added = _entering_decoder(model, adapter, inputs)
    (item,) = adapter.items_of_pixels(inputs, modality)
    visual = inputs["input_ids"][0] == adapter.placeholders[modality]
    merged = merge_item(embeds[None, visual], item, merge, {})
    # what is left of a run stands where the run began, in the order that merging leaves
    own, text = visual.nonzero()[:, 0], (~visual).nonzero()[:, 0]
    firsts = torch.tensor([0, *accumulate(adapter.runs_of(item))], device="cpu")
    run_of = torch.bucketize(torch.arange(len(own), device="cpu"), firsts[1:], right=True)
    survivors = own[merged.places[0]]
    order = torch.cat([text, own[firsts[run_of[merged.places[0]]]]]).argsort(stable=True)
    embeds = torch.cat([embeds[text], merged.features[0]])[order]
    kept = torch.cat([text, survivors])[order]
    if added is not None:
        of_left = torch.stack([merged.again(level[None, visual])[0] for level in added])
        added = torch.cat([added[:, text], of_left], dim=1)[:, order]
    places = positions[:, kept] if adapter.has_axes else None
    with run_patched(model, Schedule(merge=merge, prune=_PRUNE)) as trace:
        logits = model(**inputs).logits[0]
    reference = Reference(adapter.decoder, model.lm_head)
    return _compared(reference, embeds, visual[kept], places, trace, logits, added)


def _entering_decoder(
    model: PreTrainedModel, adapter: Adapter, inputs: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What the unpatched model hands to its decoder: embeds [n, H], positions [axes, n].

    And what DeepStack adds, [levels, n, H]; None without it.
    """
    seen: dict[str, Any] = {}

    def see(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.update(named(module, args, kwargs))

    hook = adapter.decoder.register_forward_pre_hook(see, with_kwargs=True)
    try:
        model(**inputs)
    finally:
        hook.remove()
    embeds = seen["inputs_embeds"][0]
    positions = seen.get("position_ids")
    if positions is None:
        positions = torch.arange(len(embeds), device=embeds.device)[None, None]
    added, levels = None, seen.get("deepstack_visual_embeds")
    if levels is not None:
        added = embeds.new_zeros(len(levels), *embeds.shape)
        added[:, seen["visual_pos_masks"][0]] = torch.stack(list(levels))
    return embeds, positions[-3:, 0] if adapter.has_axes else positions[0], added


def _compared(
    reference: Reference,
    embeds: Tensor,
    visual: Tensor,
    positions: Tensor | None,
    trace: RunTrace,
    logits: Tensor,
    added: Tensor | None = None,
) -> str:
    """What a run differs in from the reference for one prompt: embeds [n, H], visual [n]."""
    if trace.kept[0].shape[-1] != len(embeds):
        return f"{trace.kept[0].shape[-1]} tokens enter the decoder, {len(embeds)} were expected"
    more = {"positions": positions, "added": added}
    kept = reference.kept(embeds, visual, trace.tokens, **more)
    for layer, (here, mask) in enumerate(zip(trace.kept, kept, strict=True)):
        if here[0].tolist() != mask.nonzero()[:, 0].tolist():
            return f"layer {layer} has other tokens than the reference keeps"
    expected = reference.logits(embeds, kept, **more)[trace.kept[-1][0]]
    worst = float((logits - expected)[~visual[trace.kept[-1][0]]].abs().max())
    if not worst <= _TOLERANCE:
        return f"logits differ from the reference by {worst:.2g}"
    return ""
