"""Memory of one prefill: weights, KV cache, and the largest set of activations alive at once.

The sets are those of transformers 5.23 under inference_mode: which tensors a frame of the call
stack still holds when the largest kernel of a stage runs.
"""

from dataclasses import dataclass

from aim_cost.models.image_rule import Anyres
from aim_cost.models.model import ModelSpec
from aim_cost.models.parameters import unpacked_bytes, weights_bytes
from aim_cost.models.text_spec import TextSpec
from aim_cost.models.workload import Execution, Workload
from aim_cost.ops.formulas import IMPORTANCE_ITERATIONS, IMPORTANCE_ROWS
from aim_cost.schedules.trace import TokenTrace

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Memory:
    """Bytes on the device.

    Args:
        weights_bytes, kv_cache_bytes: what stays after the prefill.
        vision_activation_bytes: alive at most while frames are encoded, projected and pooled.
        llm_activation_bytes: alive at most in a decoder layer, the cache filled so far included.
    Not counted: the allocator's rounding and fragments, library workspaces, the CUDA context. One
    quantised matrix at a time is unpacked to the width of the activations, except 8-bit ones.
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
    """Memory of a prefill that transformers runs in one go, logits of the last position only.

    Assumed: pixels arrive in the width of the weights and outlive the prefill; a merged video is
    as small from the end of the encoding on; attention is fused in the vision tower; of Qwen's
    towers all temporal patches of all prompts are in one sequence.
    """
    width, model = execution.element_bytes, workload.sized(model)
    seen = workload.views(model)
    if workload.frames is not None:  # those that are sampled
        seen = ((model.vision, trace.groups),)
    views = [(view, trace.batch * number) for view, number in seen]
    tower = model.vision.memory(
        views, width, trace.tower_tokens, keeps_states=execution.keeps_tower_states
    )
    peak, kept = tower.running, tower.kept
    if model.vision.output_size is None:
        number, video = sum(number for _, number in views), workload.frames is not None
        features_bytes = width * _feature_elements(model, number, video=video)
        packing_bytes = _packing(model, workload, width)
        peak = max(peak, tower.encoded + features_bytes, kept + packing_bytes)
    # text and placeholders are embedded before the video is encoded
    prompt = trace.batch * trace.prompt_tokens * model.text.hidden_size
    features = trace.batch * trace.visual_tokens * model.text.hidden_size
    # features of all images, and of videos in other models, are joined into a copy; the parts stay
    # as long as the tower's output
    joined = workload.images is not None or model.family.joins_videos
    copies = 2 if joined and not execution.keeps_tower_states else 1
    levels = model.vision.deepstack_levels
    if levels:  # whose model holds the tower's output in every release
        copies = 2 + (0 if execution.keeps_tower_states else levels)
    return Memory(
        weights_bytes=weights_bytes(model, width),
        kv_cache_bytes=kv_cache_bytes(model, trace, width),
        vision_activation_bytes=peak
        + width * prompt
        + unpacked_bytes(model, model.vision_linears, width),
        llm_activation_bytes=kept
        + unpacked_bytes(model, model.text.linears, width)
        + copies * width * features
        + _decoder_peak(model, trace, execution),
    )


def _feature_elements(model: ModelSpec, views: int, *, video: bool) -> int:
    """Elements alive at most while ``views`` of the tower's output are projected and pooled."""
    hidden = model.text.hidden_size
    pooling = model.pooling if video else None
    if pooling is None:
        return 2 * views * model.image_tokens * hidden
    if pooling.before_projector:
        # each step reads one tensor and writes another
        return views * model.frame_tokens * (max(model.vision.hidden_size, hidden) + hidden)
    return views * (2 * model.image_tokens + model.frame_tokens) * hidden


def _packing(model: ModelSpec, workload: Workload, width: int) -> int:
    """Bytes alive at most while images are packed, one after another; the tower's are left out."""
    if not isinstance(model.image_rule, Anyres):
        return 0
    grids, peak, packed = workload.image_grids(model) * workload.batch, 0, 0
    for grid in grids:
        laid = (grid.crops - 1) * grid.base_tokens
        shrunk = grid.rows * grid.columns if grid.shrinks else 0
        rows = grid.tokens - grid.base_tokens
        steps = (laid + shrunk, (shrunk or laid) + rows, rows + grid.tokens)
        peak = max(peak, packed + max(steps))
        packed += grid.tokens
    projected = sum(grid.crops * grid.base_tokens for grid in grids)
    return width * (projected + peak) * model.text.hidden_size


def _decoder_peak(model: ModelSpec, trace: TokenTrace, execution: Execution) -> int:
    """The largest live set over the layers: embeddings, angles, cache, one layer's tensors."""
    last, before = len(trace.attention_tokens) - 1, 0
    text, width, batch = model.text, execution.element_bytes, trace.batch
    prompt = batch * trace.prompt_tokens * text.hidden_size * width
    angles = 2 * trace.prompt_tokens * text.head_dim * width
    window = text.sliding_window
    masks = execution.attention == "sdpa" and window is not None and window <= trace.prompt_tokens
    mask = batch * trace.prompt_tokens**2 if masks else 0  # bool, as long as the LLM runs
    peak = cache = 0
    for layer, tokens in enumerate(trace.attention_tokens):
        rows = batch * tokens
        cache += 2 * rows * text.key_value_dim * width
        # the layer's input, the residual and its norm; gate, up and their product
        residual = 3 * rows * text.hidden_size * width
        if 0 < layer <= model.vision.deepstack_levels:
            # what the layer before gave, to a copy of which features were added
            residual += before * text.hidden_size * width
        before = batch * trace.mlp_tokens[layer]
        mlp = 3 * batch * trace.mlp_tokens[layer] * text.intermediate_size * width
        queries = rows
        if layer == last and trace.last_queries is not None:
            queries = batch * trace.last_queries
        attention = (2 * queries * text.query_dim + rows * text.key_value_dim) * width
        if execution.attention == "eager":
            scores = queries * tokens * text.num_attention_heads
            attention += scores * (2 * width + _FLOAT32_BYTES)
        if masks:
            # the queries, and the mask in their width
            attention = max(attention, (text.query_dim + tokens) * queries * width)
        if layer in trace.scored_layers and execution.scoring == "fused":
            # for every head: maxima, sums and two vectors of ranks
            attention += 4 * _FLOAT32_BYTES * rows * text.num_attention_heads
        elif layer in trace.scored_layers:
            attention += scoring_bytes(text, batch, tokens, width)
        peak = max(peak, cache + residual + max(mlp, attention))
    return prompt + angles + mask + peak


def scoring_bytes(text: TextSpec, batch: int, tokens: int, width: int) -> int:
    """The most bytes that AIM's score in torch holds at a layer; they are linear in ``tokens``."""
    rows = min(tokens, IMPORTANCE_ROWS)
    # for each head: queries; logits and their float32 copy, which becomes the matrix; ranks
    entry = _FLOAT32_BYTES + (width if width < _FLOAT32_BYTES else 0)
    block = rows * (text.head_dim * width + tokens * entry)
    ranks = (IMPORTANCE_ITERATIONS + 1) * tokens * _FLOAT32_BYTES
    return batch * text.num_attention_heads * (block + ranks) + rows * rows * width  # and a mask
