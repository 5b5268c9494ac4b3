"""torch.compile of a patched model: the decoder is not compiled, the rest may be.

Compiled code looks, before it runs, whether a module's ``forward`` is still the one it has seen,
but not whether the module has got hooks (``torch._dynamo.config.skip_nnmodule_hook_guards``). So a
patch gives the decoder a forward that is never compiled, and its layers must not be compiled alone.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch._dynamo import OptimizedModule

from aim_runtime.errors import PatchError
from aim_runtime.models.part import Part

Forward = Callable[..., Any]
_Module = TypeVar("_Module", bound=nn.Module)


def unwrapped(module: _Module) -> _Module:
    """The module inside the wrapper that ``torch.compile(module)`` returns; others themselves."""
    return cast(_Module, module._orig_mod) if isinstance(module, OptimizedModule) else module


def uncompiled(function: Forward, *, recursive: bool = True) -> Forward:
    """Return ``function`` marked so that it is not compiled when its callers are.

    Args: recursive, nor is anything that it calls.
    """
    reason = "aim_runtime.patching.patch reduces tokens here: compile without fullgraph=True"
    disabled: Forward = torch.compiler.disable(function, recursive=recursive, reason=reason)
    return disabled


def require_uncompiled(decoder: Part) -> None:
    """Raises: PatchError when the decoder, or a part in which tokens leave, is itself compiled."""
    instead = "Compile the whole model or its vision tower instead, or use GraphedPrefill."
    _require("decoder", decoder, decoder.layers, ("o_proj",), instead)


def require_uncompiled_tower(tower: nn.Module, layers: Iterable[nn.Module]) -> None:
    """The same for a vision tower that merges. Raises: PatchError."""
    _require("vision tower", tower, layers, ("k_proj",), "Compile the whole model instead.")


def require_uncompiled_blocks(tower: nn.Module, blocks: Iterable[nn.Module]) -> None:
    """The same for a tower of Qwen2-VL or Qwen2.5-VL that is read. Raises: PatchError."""
    fix = "Compile the whole model instead."
    _require("vision tower", tower, blocks, ("qkv",), fix, attention="attn")


def _require(
    name: str,
    module: nn.Module,
    layers: Iterable[Part],
    projections: Iterable[str],
    fix: str,
    attention: str = "self_attn",
) -> None:
    for where, part in _hooked_parts(name, module, layers, projections, attention):
        if _is_compiled(part):
            raise PatchError(
                where,
                expected=f"a {name} that runs as written: tokens leave between and in its layers",
                got="torch.compile on it",
                fix=fix,
            )


def _hooked_parts(
    name: str, module: nn.Module, layers: Iterable[Part], projections: Iterable[str], attention: str
) -> Iterator[tuple[str, nn.Module]]:
    yield name, module
    for index, layer in enumerate(layers):
        where, part = f"{name}.layers.{index}", getattr(layer, attention)
        yield where, layer
        yield f"{where}.{attention}", part
        for projection in projections:
            yield f"{where}.{attention}.{projection}", getattr(part, projection)
        yield f"{where}.mlp", layer.mlp


def _is_compiled(module: nn.Module) -> bool:
    forward = module.forward
    by_function = hasattr(forward, "_torchdynamo_orig_callable")  # also of torch.compiler.disable
    return (
        isinstance(module, OptimizedModule)
        or module._compiled_call_impl is not None
        or (by_function and not getattr(forward, "_torchdynamo_disable", False))
    )
