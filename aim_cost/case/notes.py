"""case_notes(): sentences on what the figures of a prefill do not show."""

from aim_cost.models.model import ModelSpec


def case_notes(
    model: ModelSpec, dtype: str, *, tokens: int, positions: int, groups: int = 0
) -> tuple[str, ...]:
    """A sentence or two on each of: a prompt too long, timestamps, a window, quantised weights.

    Args: dtype, of activations and of what is not quantised; tokens, entering the LLM; positions,
        that they are numbered to: more where merged tokens keep their places; groups, of a video.
    """
    text, notes = model.text, []
    if positions > text.positions:
        notes.append(
            f"The prompt has {positions:,} positions, the model was made for {text.positions:,} "
            "(max_position_embeddings). transformers runs it all the same; the answers may suffer, "
            "and servers refuse it."
        )
    if model.family.frames_apart and groups > 1:
        notes.append(
            f"The video has {groups} temporal patches, and the processor writes a timestamp and "
            "two markers for each: they are text and belong to the text tokens."
        )
    if text.sliding_window is not None and tokens >= text.sliding_window:
        notes.append(
            f"{text.sliding_layers} of {text.num_hidden_layers} layers attend to the last "
            f"{text.sliding_window:,} tokens (sliding_window). transformers multiplies all and "
            "masks the others: FLOPs are right, times are those without a mask."
        )
    if model.quantization is not None:
        notes.append(
            f"Weights as {model.quantization.label} (quantization_config) in the memory alone: "
            f"times and GB moved are those of {dtype} weights."
        )
    return tuple(notes)
