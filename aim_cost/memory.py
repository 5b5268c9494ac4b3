"""Memory of one prefill: weights, KV cache, and the largest set of activations alive at once.

The sets are those of transformers 5.23 under inference_mode: which tensors a frame of the call
stack still holds when the largest kernel of a stage runs.
"""

from dataclasses import dataclass

from aim_cost.model import ModelSpec
from aim_cost.parameters import model_parameters
from aim_cost.trace import TokenTrace
from aim_cost.workload import Execution, Workload

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Memory:
    """Bytes on the device.

    Args:
        weights_bytes, kv_cache_bytes: what stays after the prefill.
        vision_activation_bytes: alive at most while frames are encoded, projected and pooled.
        llm_activation_bytes: alive at most in a decoder layer, the cache filled so far included.
    Not counted: the allocator's rounding and fragments, library workspaces, the CUDA context.
    """

    weights_bytes: int
    kv_cache_bytes: int
    vision_activation_bytes: int
    llm_activation_bytes: int

    @property
    def peak_bytes(self) -> int:
        return self.weights_bytes + max(self.vision_activation_bytes, self.llm_activation_bytes)


def kv_cache_bytes(model: ModelSpec, trace: TokenTrace, element_bytes: int) -> int:
    """Bytes of keys and values over all layers, each holding the tokens that entered it."""
    return 2 * trace.batch * sum(trace.attention_tokens) * model.text.key_value_dim * element_bytes


def prefill_memory(
    model: ModelSpec, workload: Workload, trace: TokenTrace, execution: Execution
) -> Memory:
    """Memory of a prefill that transformers runs in one go, logits of the last position only."""
    width = execution.element_bytes
    images = trace.batch * trace.groups
    vision = model.vision
    pixels = images * vision.num_channels * vision.image_size**2
    states = images * vision.tokens * vision.hidden_size
    # the tower's last hidden state, normed and not, outlives it
    encoded = pixels + 2 * states
    feed_forward = 2 * images * vision.tokens * vision.intermediate_size
    projected = images * model.image_tokens * model.text.hidden_size
    pooled = images * trace.merge_tokens[0] * model.text.hidden_size
    pooling = pooled if workload.frames is not None else 0
    vision_peak = max(pixels + 4 * states + feed_forward, encoded + 2 * projected + pooling)
    # text and placeholders are embedded before the video is encoded
    prompt = trace.batch * trace.prompt_tokens * model.text.hidden_size
    features = trace.batch * trace.visual_tokens * model.text.hidden_size
    return Memory(
        weights_bytes=width * model_parameters(model),
        kv_cache_bytes=kv_cache_bytes(model, trace, width),
        vision_activation_bytes=width * (vision_peak + prompt),
        llm_activation_bytes=width * (encoded + features) + _decoder_peak(model, trace, execution),
    )


def _decoder_peak(model: ModelSpec, trace: TokenTrace, execution: Execution) -> int:
    """The largest live set over the layers: embeddings, cache so far, one layer's tensors."""
    text, width, batch = model.text, execution.element_bytes, trace.batch
    prompt = batch * trace.prompt_tokens * text.hidden_size * width
    peak = cache = 0
    for layer, tokens in enumerate(trace.attention_tokens):
        rows = batch * tokens
        cache += 2 * rows * text.key_value_dim * width
        # the layer's input, the residual and its norm; gate, up and their product
        residual = 3 * rows * text.hidden_size * width
        mlp = 3 * batch * trace.mlp_tokens[layer] * text.intermediate_size * width
        attention = rows * (2 * text.query_dim + text.key_value_dim) * width
        if execution.attention == "eager":
            scores = rows * tokens * text.num_attention_heads
            attention += scores * (2 * width + _FLOAT32_BYTES)
        if layer in trace.scored_layers:
            # a mask; one head of every prompt: its logits, this and the last matrix in float32
            attention += tokens * tokens * (width + batch * (width + 2 * _FLOAT32_BYTES))
        peak = max(peak, cache + residual + max(mlp, attention))
    return prompt + peak
