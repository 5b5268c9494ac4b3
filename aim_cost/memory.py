"""Memory of one prefill: weights, KV cache, and the largest set of activations alive at once.

The sets are those of transformers 5.23 under inference_mode: which tensors a frame of the call
stack still holds when the largest kernel of a stage runs.
"""

from dataclasses import dataclass
from itertools import pairwise

from aim_cost.models.image_rule import Anyres
from aim_cost.models.model import ModelSpec, TextSpec
from aim_cost.models.parameters import model_parameters
from aim_cost.models.qwen_vision import Views
from aim_cost.models.vision_spec import QwenVisionSpec, VisionSpec
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
    """Memory of a prefill that transformers runs in one go, logits of the last position only.

    Assumed: pixels arrive in the width of the weights and outlive the prefill; a merged video is
    as small from the end of the encoding on; attention is fused in the vision tower; of Qwen's
    towers all temporal patches of all prompts are in one sequence.
    """
    width, model = execution.element_bytes, workload.sized(model)
    views = [(view, trace.batch * number) for view, number in workload.views(model)]
    if isinstance(model.vision, QwenVisionSpec):
        sized = [(view, number) for view, number in views if isinstance(view, QwenVisionSpec)]
        peak, kept = _qwen_encoding(sized, width, keeps_states=execution.keeps_tower_states)
    else:
        images, video = sum(number for _, number in views), workload.frames is not None
        tokens = trace.tower_tokens
        peak, kept = _vit_encoding(
            *(model, model.vision, images, width),
            video=video,
            tokens=tokens,
            keeps_states=execution.keeps_tower_states,
        )
        peak = max(peak, kept + _packing(model, workload, width))
    # text and placeholders are embedded before the video is encoded
    prompt = trace.batch * trace.prompt_tokens * model.text.hidden_size
    features = trace.batch * trace.visual_tokens * model.text.hidden_size
    # features of all images, and of videos in other models, are joined into a copy; the parts live
    # as long as the tower's output
    joined = workload.images is not None or model.model_type != "llava_onevision"
    copies = 2 if joined and not execution.keeps_tower_states else 1
    return Memory(
        weights_bytes=width * model_parameters(model),
        kv_cache_bytes=kv_cache_bytes(model, trace, width),
        vision_activation_bytes=peak + width * prompt,
        llm_activation_bytes=kept
        + copies * width * features
        + _decoder_peak(model, trace, execution),
    )


def _vit_encoding(
    model: ModelSpec,
    vision: VisionSpec,
    images: int,
    width: int,
    *,
    video: bool,
    tokens: tuple[int, ...],
    keeps_states: bool,
) -> tuple[int, int]:
    """Bytes alive at most until the features are there, and bytes alive from then on.

    ``tokens``: of an image entering each layer and after the last, () where none are merged.
    """
    hidden = model.text.hidden_size
    pixels = images * vision.pixels
    states = images * vision.tokens * vision.hidden_size
    # the tower's last hidden state, normed and not, outlives it
    encoded = pixels + 2 * states
    layers = images * _largest_layer(vision, tokens, keeps_states=keeps_states)
    earlier = images * _earlier_states(vision, tokens) if keeps_states else 0
    pooling = model.pooling if video else None
    if pooling is None:
        features = 2 * images * model.image_tokens * hidden
    elif pooling.before_projector:
        # each step reads one tensor and writes another
        features = images * model.frame_tokens * (max(vision.hidden_size, hidden) + hidden)
    else:
        features = images * (2 * model.image_tokens + model.frame_tokens) * hidden
    peak = max(pixels + layers, encoded + earlier + features)
    return width * peak, width * (pixels if keeps_states else encoded)


def _earlier_states(vision: VisionSpec, tokens: tuple[int, ...]) -> int:
    """Elements of the hidden states of one image that enter all layers but the last."""
    counts = tokens or (vision.tokens,) * (vision.num_hidden_layers + 1)
    return sum(counts[:-1]) * vision.hidden_size


def _largest_layer(vision: VisionSpec, tokens: tuple[int, ...], *, keeps_states: bool) -> int:
    """Elements alive at most in a layer, of one image: in its attention or in its MLP.

    The tower's embeddings live as long as it runs, and with ``keeps_states`` the input of every
    layer. Beside a layer's input: its norm, q, k, v, what attention gives and its projection; or
    the residual, its norm and the MLP.
    """
    hidden, inner = vision.hidden_size, vision.intermediate_size
    # before and after the activation; CLIP's is x sigmoid(1.702 x), one tensor more
    parts = 3 if vision.model_type == "clip_vision_model" else 2
    counts = tokens or (vision.tokens,) * (vision.num_hidden_layers + 1)
    earlier = peak = 0
    for before, after in pairwise(counts):
        attention, feed_forward = 7 * before * hidden, parts * after * inner
        residual = (before + 2 * after) * hidden
        peak = max(peak, earlier + attention, earlier + residual + feed_forward)
        # the first layer's input, or those of all layers so far
        earlier = earlier + before * hidden if keeps_states else vision.tokens * hidden
    return peak


def _packing(model: ModelSpec, workload: Workload, width: int) -> int:
    """Bytes alive at most while images are packed, one after another, beside the tower's."""
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


def _qwen_encoding(views: Views, width: int, *, keeps_states: bool) -> tuple[int, int]:
    """The same for a Qwen tower.

    In each block the most is alive either in the rotation of q and k, which computes in float32, or
    in the MLP. The merger writes less.
    """
    vision = views[0][0]
    pixels = width * sum(number * view.pixels for view, number in views)
    rows = sum(number * view.patches for view, number in views)
    states = rows * vision.hidden_size
    angles = 2 * _FLOAT32_BYTES * rows * vision.hidden_size // vision.num_attention_heads
    # residual, its norm, q, k, v; then the rotated q and three parts of the rotated k
    rotation = 5 * width * states + 4 * _FLOAT32_BYTES * states
    if width < _FLOAT32_BYTES:  # q and k are cast
        rotation += 2 * _FLOAT32_BYTES * states
    feed_forward = width * (2 * states + 3 * rows * vision.intermediate_size)
    kept = pixels if keeps_states else pixels + width * states
    return pixels + angles + max(rotation, feed_forward), kept


def _decoder_peak(model: ModelSpec, trace: TokenTrace, execution: Execution) -> int:
    """The largest live set over the layers: embeddings, angles, cache, one layer's tensors."""
    last = len(trace.attention_tokens) - 1
    text, width, batch = model.text, execution.element_bytes, trace.batch
    prompt = batch * trace.prompt_tokens * text.hidden_size * width
    angles = 2 * trace.prompt_tokens * text.head_dim * width
    peak = cache = 0
    for layer, tokens in enumerate(trace.attention_tokens):
        rows = batch * tokens
        cache += 2 * rows * text.key_value_dim * width
        # the layer's input, the residual and its norm; gate, up and their product
        residual = 3 * rows * text.hidden_size * width
        mlp = 3 * batch * trace.mlp_tokens[layer] * text.intermediate_size * width
        queries = rows
        if layer == last and trace.last_queries is not None:
            queries = batch * trace.last_queries
        attention = (2 * queries * text.query_dim + rows * text.key_value_dim) * width
        if execution.attention == "eager":
            scores = queries * tokens * text.num_attention_heads
            attention += scores * (2 * width + _FLOAT32_BYTES)
        if layer in trace.scored_layers and execution.scoring == "fused":
            # of every head: maxima, sums and two vectors of ranks
            attention += 4 * _FLOAT32_BYTES * rows * text.num_attention_heads
        elif layer in trace.scored_layers:
            attention += scoring_bytes(text, batch, tokens, width)
        peak = max(peak, cache + residual + max(mlp, attention))
    return prompt + angles + peak


def scoring_bytes(text: TextSpec, batch: int, tokens: int, width: int) -> int:
    """What AIM's score in torch holds at most at a layer: linear in ``tokens``."""
    rows = min(tokens, IMPORTANCE_ROWS)
    # of each head: queries; logits beside their float32 copy, which becomes the matrix; ranks
    entry = _FLOAT32_BYTES + (width if width < _FLOAT32_BYTES else 0)
    block = rows * (text.head_dim * width + tokens * entry)
    ranks = (IMPORTANCE_ITERATIONS + 1) * tokens * _FLOAT32_BYTES
    return batch * text.num_attention_heads * (block + ranks) + rows * rows * width  # and a mask
