"""A decoder layer whose dropped tokens skip its output projection and its MLP."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from aim_runtime.models.part import Part
from aim_runtime.patching.current import Current


def leaving_after_attention(layer: Part, run: Current[Any]) -> Callable[..., Tensor]:
    """The forward of a Qwen2 or Llama decoder layer, for a prefill that drops tokens inside it.

    The attention sees every token that enters; a hook before its output projection (``stay`` of
    Prefill) lets those that stay pass, and so does the residual here. Other calls, as in decode,
    run the layer's own forward. The parts and their order are those of both classes in
    every tested transformers.
    Args: run, where that hook finds the prefill, also when the layer is computed again.
    """
    own = layer.forward

    @wraps(own)
    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        prefill = kwargs.get("aim_prefill")
        if prefill is None:
            whole: Tensor = own(hidden_states, *args, **kwargs)
            return whole
        normed = layer.input_layernorm(hidden_states)
        with run.during(prefill):
            mixed, _ = layer.self_attn(hidden_states=normed, **kwargs)
        hidden_states = prefill.leave(layer.self_attn.layer_idx, hidden_states) + mixed
        changed: Tensor = layer.mlp(layer.post_attention_layernorm(hidden_states))
        return hidden_states + changed

    return forward
