"""The real 7B dims on the meta device: shapes without data, and FLOPs that can be written down."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from aim_cost import Schedule
from aim_cost.schedules.prune import Prune
from aim_runtime import patched
from tests.cost.blocks import block_causal_entries

HIDDEN, KEY_VALUE, INTERMEDIATE, VOCABULARY, HEADS = 3584, 512, 18944, 152128, 28


@pytest.fixture(scope="module")
def language_model():
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=28,
        num_attention_heads=HEADS,
        num_key_value_heads=4,
        dtype=torch.bfloat16,
    )
    with torch.device("meta"):
        return Qwen2ForCausalLM(config).eval()


@pytest.mark.parametrize(
    ("schedule", "decoder_flops", "all_flops"),
    [
        (Schedule(), 22_900_649_762_816, 22_900_649_762_816),
        (Schedule(prune=Prune(linear=(14, 22))), 15_527_245_547_520, 15_568_595_003_864),
    ],
)
def test_flops_of_7b_after_merging(language_model, schedule, decoder_flops, all_flops):
    visual_mask = torch.zeros(1, 1669, dtype=torch.bool)
    visual_mask[:, 14:1583] = True
    embeds = torch.empty(1, 1669, HIDDEN, device="meta", dtype=torch.bfloat16)
    decoder = language_model.model
    with (
        patched(language_model, schedule, visual_mask=visual_mask) as trace,
        FlopCounterMode(display=False) as counter,
    ):
        output = language_model(inputs_embeds=embeds, logits_to_keep=1)
    tokens = trace.tokens.attention_tokens
    layers = sum(
        4 * n * HIDDEN**2 + 4 * n * HIDDEN * (KEY_VALUE) + 6 * n * HIDDEN * INTERMEDIATE
        + 4 * n**2 * HIDDEN
        for n in tokens
    )  # fmt: skip
    entries = sum(block_causal_entries(tokens[i]) for i in trace.tokens.scored_layers)
    scores = HEADS * entries * (2 * 128 + 10)
    head = 2 * HIDDEN * VOCABULARY
    assert layers + head == decoder_flops
    assert layers + head + scores == all_flops
    # transformers 5.17 also multiplies out the rotary angles: a matmul, n x 1 x 64
    rotary = counter.get_flop_counts().get("Qwen2ForCausalLM.model.rotary_emb", {})
    assert counter.get_total_flops() - sum(rotary.values()) == all_flops
    assert len(decoder.layers) == len(tokens)
    assert output.logits.shape == (1, 1, VOCABULARY)
    assert trace.cache_tokens == tokens
    assert all(kept.is_meta for kept in trace.kept)
