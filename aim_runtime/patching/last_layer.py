"""A last decoder layer that computes what the logits of the last token need, and no more."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward

from aim_runtime.models.compiled import uncompiled
from aim_runtime.models.part import Part
from aim_runtime.models.rotary import key_heads, query_heads, rotated, split_heads
from aim_runtime.patching.current import Current
from aim_runtime.patching.undo import Changes
from aim_runtime.seams import CACHE, named

_OUTPUTS = ("output_hidden_states", "output_attentions")


class LastTokenAlone:
    """Computes the last token alone in the last layer, in calls that ask for nothing else."""

    def __init__(self, model: PreTrainedModel, decoder: Part) -> None:
        self._model, self._decoder = model, decoder
        self._wanted: Current[bool] = Current()

    @property
    def is_wanted(self) -> bool:
        """Whether the call that runs now asks for the logits of its last token, and no more."""
        return bool(self._wanted.value)

    def attach(self, changes: Changes) -> None:
        """Change the forward of the model, and that of the last layer."""
        changes.replace(self._model, "forward", self._asking(self._model.forward))
        last = self._decoder.layers[-1]
        changes.replace(last, "forward", of_last_token(last))

    def _asking(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """The model's forward, which first tells what is asked of it."""
        configs = (self._model.config, self._decoder.config)

        @uncompiled
        def is_wanted(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
            return wants_last_token_alone(named(self._model, args, kwargs), *configs)

        @wraps(own, updated=())
        def forward(*args: Any, **kwargs: Any) -> Any:
            with self._wanted.during(is_wanted(args, kwargs)):
                return own(*args, **kwargs)

        return uncompiled(forward, recursive=False)


def wants_last_token_alone(inputs: Mapping[str, Any], *configs: PreTrainedConfig) -> bool:
    """Whether a call of the whole model asks for the logits of its last token, and nothing else.

    Args: inputs, the arguments by name; configs, which may ask for more.
    """
    keep = inputs.get("logits_to_keep")
    if type(keep) is not int or keep != 1:  # a tensor names places
        return False
    return not any(
        inputs.get(name, any(getattr(config, name, False) for config in configs))
        for name in _OUTPUTS
    )


def of_last_token(layer: Part) -> Callable[..., Tensor]:
    """The forward of the last decoder layer, for prefills that need its last token alone.

    Keys and values are those of every token: hidden[B, n, H] -> k, v[B, kv_heads, n, d]. Query,
    output projection and MLP are the last token's, and so is what comes out, [B, 1, H]. Whatever
    the schedule drops inside this layer is not computed anyway. Other calls, as in decode, run the
    layer's own forward. The parts and their order are those of Qwen2's, Llama's and Qwen's
    vision-language layers in every tested transformers.
    """
    own = layer.forward

    @wraps(own)
    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        prefill = kwargs.get("aim_prefill")
        if prefill is None or prefill.plan.last_queries is None:
            whole: Tensor = own(hidden_states, *args, **kwargs)
            return whole
        mixed = _attend(layer.self_attn, layer.input_layernorm(hidden_states), **kwargs)
        left = prefill.leave(layer.self_attn.layer_idx, hidden_states)
        hidden_states = left + layer.self_attn.o_proj(mixed)
        changed: Tensor = layer.mlp(layer.post_attention_layernorm(hidden_states))
        return hidden_states + changed

    return forward


def _attend(
    attention: Part,
    x: Tensor,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """What the last of x[B, n, H] gathers from all, before the output projection: [B, 1, h * d]."""
    cos, sin = position_embeddings
    query = rotated(query_heads(attention, x[:, -1:]), cos[:, -1:], sin[:, -1:])
    key = rotated(key_heads(attention, x), cos, sin)
    value = split_heads(attention.v_proj(x), attention.head_dim)
    cache = kwargs.pop(CACHE, None)
    if cache is not None:
        key, value = cache.update(key, value, attention.layer_idx)
    if attention_mask is not None:
        # the last row sees all that is left; padding stands before it in every layer
        attention_mask = attention_mask[..., -1:, : key.shape[2]]
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(
        attention.config._attn_implementation, eager_attention_forward
    )
    mixed, _ = attend(
        attention,
        query,
        key,
        value,
        attention_mask,
        dropout=attention.attention_dropout if attention.training else 0.0,
        scaling=attention.scaling,
        sliding_window=getattr(attention, "sliding_window", None),
        **kwargs,
    )
    together: Tensor = mixed.flatten(2)
    return together.contiguous()
