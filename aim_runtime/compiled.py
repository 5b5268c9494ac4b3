"""torch.compile around a patched model: the decoder runs as written, the rest may be compiled.

Compiled code looks, before it runs, whether a module's ``forward`` is still the one it has seen,
but not whether the module has got hooks (``torch._dynamo.config.skip_nnmodule_hook_guards``). So a
patch gives the decoder a forward that is never compiled, and its layers must not be compiled alone.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from transformers import Qwen2Model

from aim_runtime.errors import PatchError

Forward = Callable[..., Any]


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside the wrapper that ``torch.compile(module)`` returns; others themselves."""
    return module._orig_mod if isinstance(module, OptimizedModule) else module


def uncompiled(function: Forward) -> Forward:
    """``function``, never compiled, nor what it calls, by whatever compiles its callers."""
    return torch.compiler.disable(
        function, reason="aim_runtime.patch reduces tokens here: compile without fullgraph=True"
    )


def require_uncompiled(decoder: Qwen2Model) -> None:
    """Raises: PatchError when the decoder, or a part in which tokens leave, is itself compiled."""
    for name, part in _hooked_parts(decoder):
        if _is_compiled(part):
            raise PatchError(
                name,
                expected="a decoder that runs as written: tokens leave between and in its layers",
                got="torch.compile on it",
                fix="Compile the whole model or its vision tower instead, or use GraphedPrefill.",
            )


def _hooked_parts(decoder: Qwen2Model) -> Iterator[tuple[str, nn.Module]]:
    yield "decoder", decoder
    for index, layer in enumerate(decoder.layers):
        name, attention = f"decoder.layers.{index}", layer.self_attn
        yield name, layer
        yield f"{name}.self_attn", attention
        yield f"{name}.self_attn.o_proj", attention.o_proj
        yield f"{name}.mlp", layer.mlp


def _is_compiled(module: nn.Module) -> bool:
    forward = module.forward
    by_function = hasattr(forward, "_torchdynamo_orig_callable")  # also of torch.compiler.disable
    return (
        isinstance(module, OptimizedModule)
        or module._compiled_call_impl is not None
        or (by_function and not getattr(forward, "_torchdynamo_disable", False))
    )
