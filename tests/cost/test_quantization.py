"""Quantised checkpoints: their bytes, what is said beside the times, and what is refused."""

import pytest

from aim_cost import (
    Case,
    Execution,
    ModelSpec,
    Schedule,
    Workload,
    compare,
    model_parameters,
    plan,
    preset_config,
)
from aim_cost.case.memory import prefill_memory
from aim_cost.errors import InfeasibleError, SpecError
from aim_cost.models.linear import Linear
from aim_cost.models.parameters import weights_bytes
from aim_cost.models.quantization import EightBit, FourBit

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "modules_to_not_convert": ["visual"]}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
WORKLOAD = Workload(40, frames=4, frame_size=(448, 448))
VIDEO = Workload(40, frames=4)


def quantised(config, preset="qwen2.5-vl-7b", **outer):
    fields = preset_config(preset) | outer | {"quantization_config": config}
    return ModelSpec.from_hf_config(fields, name="quantised")


def test_awq_keeps_the_matrices_of_the_decoder_at_four_bits_and_a_scale_and_a_zero_a_group():
    spec = quantised(AWQ)
    matrices = 28 * (2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    assert matrices == 6_525_288_448
    others = 2 * (model_parameters(spec) - matrices)
    held = weights_bytes(spec, 2)
    assert held == others + matrices * (4 + 16 / 128 + 4 / 128) / 8
    assert round(held / 1e9, 2) == 6.92
    memory = prefill_memory(spec, WORKLOAD, Schedule().resolve(spec, WORKLOAD), Execution())
    assert memory.weights_bytes == held
    plain = quantised(None)
    before = prefill_memory(plain, WORKLOAD, Schedule().resolve(plain, WORKLOAD), Execution())
    # one matrix is laid out to be multiplied
    unpacked = memory.llm_activation_bytes - before.llm_activation_bytes
    assert (unpacked, memory.vision_activation_bytes) == (
        2 * 3584 * 18944,
        before.vision_activation_bytes,
    )


@pytest.mark.parametrize(
    ("inputs", "outputs", "nested", "held"),
    [
        (1000, 200, False, 112_564),
        (1000, 200, True, 104_269),
        (896, 4864, False, 2_451_520),
        (896, 4864, True, 2_249_324),
        (129, 7, False, 576),
        (129, 7, True, 1_563),
    ],
)
def test_four_bits_hold_what_bitsandbytes_holds(inputs, outputs, nested, held):
    # bitsandbytes 0.50.2, Linear4bit on a CPU: bytes of the weight and of all of its quant_state
    assert FourBit((), nested).matrix_bytes(Linear(("x",), inputs, outputs)) == held


def test_eight_bits_hold_what_bitsandbytes_holds():
    # bitsandbytes 0.50.2, Linear8bitLt: CB and SCB
    assert EightBit(()).matrix_bytes(Linear(("x",), 896, 4864)) == 4_358_144 + 19_456


def test_a_skipped_module_is_named_as_releases_of_transformers_name_it():
    whole = weights_bytes(quantised(NF4), 2)
    layer = "layers.3.mlp.up_proj"
    for prefix in ("model.language_model", "language_model.model", "model"):
        skipped = NF4 | {"llm_int8_skip_modules": ["lm_head", f"{prefix}.{layer}"]}
        assert weights_bytes(quantised(skipped), 2) > whole
    other = NF4 | {"llm_int8_skip_modules": ["lm_head", "layers.3.mlp.up"]}  # no whole name
    assert weights_bytes(quantised(other), 2) == whole
    # a list of its own is all that is skipped: the head is quantised with the rest
    assert weights_bytes(quantised(NF4 | {"llm_int8_skip_modules": ["visual"]}), 2) != whole


def test_a_tied_head_stays_with_its_embeddings():
    config = {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": []}
    tied = quantised(config, "qwen2-vl-7b", tie_word_embeddings=True)
    apart = quantised(config, "qwen2-vl-7b")
    assert weights_bytes(apart, 2) - weights_bytes(tied, 2) == (3584 + 4) * 152064


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"quant_method": "fp8"}, "quantization_config.quant_method"),
        ({"quant_method": "compressed-tensors"}, "quantization_config.quant_method"),
        ({"quant_method": "hqq"}, "quantization_config.quant_method"),
        ({"quant_method": None}, "quantization_config.quant_method"),
        ({"bits": 8}, "quantization_config.bits"),
        ({"bits": True}, "quantization_config.bits"),
        ({"version": "gemv"}, "quantization_config.version"),
        ({"group_size": 0}, "quantization_config.group_size"),
        ({"group_size": 100}, "quantization_config.group_size"),
        ({"modules_to_not_convert": None}, "quantization_config.bits"),  # the tower's 3420 outputs
        ({"modules_to_not_convert": ["visual.*"]}, "quantization_config.modules_to_not_convert"),
        ({"modules_to_not_convert": "visual"}, "quantization_config.modules_to_not_convert"),
    ],
)
def test_what_is_not_counted_is_refused_with_the_way_out(change, field):
    with pytest.raises(SpecError) as error:
        quantised(AWQ | change)
    assert error.value.where == field
    if field.endswith(("quant_method", "bits", "version")):
        assert "Remove quantization_config" in error.value.fix


@pytest.mark.parametrize("where", ["text_config", "vision_config", None])
def test_a_quantization_in_another_place_is_not_overlooked(where):
    fields = preset_config("llava-1.5-7b")
    name = "compression_config" if where is None else "quantization_config"
    (fields if where is None else fields[where])[name] = AWQ
    with pytest.raises(SpecError, match=name):
        ModelSpec.from_hf_config(fields)


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "gptq", "bits": 4, "dynamic": {"-:visual": {}}},
        {"quant_method": "gptq", "bits": 5},
        {"quant_method": "gptq"},
        {"quant_method": "gptq", "bits": 4, "lm_head": True},
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"},
        {"quant_method": "bitsandbytes"},
        {"load_in_4bit": True, "load_in_8bit": True},
        {"load_in_4bit": "yes"},
        [],
        "awq",
    ],
)
def test_a_layout_of_another_kind_is_refused(config):
    with pytest.raises(SpecError, match="quantization_config"):
        quantised(config)


def test_gptq_quantises_the_named_modules_of_the_decoder():
    whole = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    named = whole | {"modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj"]]}
    plain = 2 * model_parameters(quantised(None))
    saved = plain - weights_bytes(quantised(named), 2)
    square, wide = 3584 * 3584, 3584 * 18944
    bits = 16 - (4 + 20 / 128)
    index = 2 * 4 * 3584  # the group of each input
    assert saved == 28 * ((square + wide) * bits / 8 - index)
    assert weights_bytes(quantised(whole), 2) < weights_bytes(quantised(named), 2)


def test_every_table_says_what_the_times_are_of():
    case = Case(quantised(AWQ), VIDEO, "h100-sxm")
    sentence = "Weights as AWQ, 4 bits (quantization_config) in the memory alone"
    priced = case.price()
    answers = [priced, compare(case, "aim"), plan(case, memory_bytes=8e9)]
    for answer in answers:
        text = " ".join(str(answer).split())
        assert sentence in text
        assert "those of bfloat16 weights" in text
    assert sentence in priced.to_row()["notes"][0]
    plain = Case("qwen2.5-vl-7b", VIDEO, "h100-sxm").price()
    assert "notes" not in plain.to_row()
    assert plain.ttft_s == priced.ttft_s


def test_a_plan_counts_on_the_bytes_of_quantised_weights():
    plain = Case("qwen2.5-vl-7b", VIDEO, "h100-sxm")
    with pytest.raises(InfeasibleError, match="memory"):
        plan(plain, memory_bytes=8e9)
    found = plan(Case(quantised(AWQ), VIDEO, "h100-sxm"), memory_bytes=8e9)
    assert found.result.memory.peak_bytes < 8e9
