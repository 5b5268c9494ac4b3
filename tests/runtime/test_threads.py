"""Calls at the same time and calls inside calls: each gets what it gets alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

from aim_cost import Schedule
from aim_runtime import PatchError, patched
from aim_runtime.seams import cache_of, with_cache
from tests.runtime.qwen import qwen_inputs, tiny_qwen
from tests.runtime.support import tiny_llava, tiny_qwen2, video_inputs

GREEDY = {"max_new_tokens": 4, "do_sample": False}
ALL = [
    "none",
    "merge 0.5, prune linear:1:3",
    "merge 0.5 positions=kept, prune linear:1:3 drop=after-attention",
    "vision-merge 4, prune linear:1:3",
]
LLAVA = [video_inputs(4), video_inputs(4, seed=5), video_inputs(2, before=3, seed=6)]
QWEN = [
    qwen_inputs("qwen2.5-vl", [4, (2, 8, 8), 3]),
    qwen_inputs("qwen2.5-vl", [2, (4, 8, 12), 5]),
    qwen_inputs("qwen2.5-vl", [6, (2, 8, 8), 1, (2, 4, 4), 2]),
]


class Meeting:
    """Lets threads wait for one another at modules of a model, so that their calls overlap."""

    def __init__(self, model, parties):
        self._barrier, self._own = threading.Barrier(parties), threading.local()
        decoder = model.model.language_model
        modules = [decoder, *decoder.layers]
        modules += [module.self_attn.o_proj for module in decoder.layers]
        modules += [module.mlp for module in decoder.layers]
        tower = getattr(model.model, "vision_tower", None) or model.model.visual
        modules += [m for m in tower.modules() if hasattr(m, "self_attn") or hasattr(m, "attn")]
        self._handles = [module.register_forward_pre_hook(self._wait) for module in modules]

    def _wait(self, module, args):
        if getattr(self._own, "meets", False):
            self._barrier.wait(timeout=30)

    def run(self, *calls):
        """The results of ``calls``, each in a thread of its own."""

        def call(function):
            self._own.meets = True
            try:
                return function()
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(len(calls)) as pool:
            return [future.result() for future in [pool.submit(call, one) for one in calls]]

    def end(self):
        for handle in self._handles:
            handle.remove()


@pytest.fixture(scope="module", params=["llava", "qwen2.5-vl"])
def case(request):
    """A model, prompts for it and schedules that it takes."""
    if request.param == "llava":
        return tiny_llava(4), LLAVA, ALL
    return tiny_qwen("qwen2.5-vl"), QWEN, [s for s in ALL if "vision" not in s]


def answer(model, inputs, **more):
    output = model.generate(
        **inputs, **GREEDY, return_dict_in_generate=True, output_logits=True, **more
    )
    return torch.stack(output.logits)


@torch.no_grad()
def by_hand(model, inputs):
    """A prefill and three steps."""
    output, seen = model(**inputs, use_cache=True), []
    for _ in range(3):
        seen.append(output.logits[:, -1])
        word = seen[-1].argmax(-1, keepdim=True)
        output = model(input_ids=word, **with_cache(cache_of(output)))
    return torch.stack(seen)


@torch.no_grad()
def second_turn(model, inputs):
    """An answer after the cache of the first one."""
    first = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    more = torch.tensor([[11, 12, 13]])
    call = {"input_ids": torch.cat([first.sequences, more], dim=1)}
    return answer(model, call, **with_cache(cache_of(first)))


@pytest.mark.parametrize("way", [answer, by_hand, second_turn])
def test_threads_get_their_own_answers(case, way):
    model, prompts, schedules = case
    for schedule in schedules:
        if (
            way is not answer
            and schedule == "none"
            and model.config.model_type != "llava_onevision"
        ):
            continue  # without a patch too the model itself keeps one prompt's positions
        with patched(model, Schedule.parse(schedule)):
            alone = [way(model, inputs) for inputs in prompts]
            meeting = Meeting(model, len(prompts))
            try:
                found = meeting.run(*(lambda x=inputs: way(model, x) for inputs in prompts))
            finally:
                meeting.end()
        for one, other in zip(found, alone, strict=True):
            assert torch.equal(one, other)


def test_a_thread_that_fails_harms_no_other(case):
    model, prompts, schedules = case
    for schedule in schedules:
        with patched(model, Schedule.parse(schedule)) as trace:
            expected = answer(model, prompts[0])
            per_token = ("input_ids", "attention_mask", "mm_token_type_ids")
            wrong = {n: x[:, 9:] if n in per_token else x for n, x in prompts[1].items()}

            def fails(inputs=wrong):
                with pytest.raises((PatchError, ValueError, RuntimeError, TypeError)):
                    model.generate(**inputs, **GREEDY)

            with ThreadPoolExecutor(2) as pool:
                right = [pool.submit(answer, model, prompts[0]) for _ in range(3)]
                failed = [pool.submit(fails) for _ in range(3)]
                for future in failed:
                    future.result()
                for future in right:
                    assert torch.equal(future.result(), expected)
            assert torch.equal(answer(model, prompts[0]), expected)
            assert trace.tokens


def test_a_streamer_reads_what_another_thread_generates(case):
    class Words:
        """A tokenizer: each id is a word."""

        def decode(self, ids, **kwargs):
            return "".join(f"{int(one)} " for one in ids)

    model, prompts, schedules = case
    for schedule in schedules:
        with patched(model, Schedule.parse(schedule)) as trace:
            inputs = prompts[0]
            ids = model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :].tolist()
            tokens = trace.tokens
            streamer = TextIteratorStreamer(Words(), skip_prompt=True, timeout=30)
            thread = threading.Thread(
                target=model.generate, kwargs={**inputs, **GREEDY, "streamer": streamer}
            )
            thread.start()
            # the thread that reads asks the model something else meanwhile
            read = []
            for words in streamer:
                read += words.split()
                answer(model, prompts[1])
            thread.join()
            assert read == [str(one) for one in ids]
            model.generate(**inputs, **GREEDY)
            assert trace.tokens == tokens


class Asks(BaseStreamer):
    """Runs the model on another prompt whenever it gets a token, the prompt's too."""

    def __init__(self, model, inputs):
        self.found, self._model, self._inputs = [], model, inputs

    def put(self, value):
        self.found.append(answer(self._model, self._inputs))

    def end(self):
        pass


def test_a_streamer_may_call_the_model(case):
    model, prompts, schedules = case
    for schedule in schedules:
        with patched(model, Schedule.parse(schedule)):
            expected, other = answer(model, prompts[0]), answer(model, prompts[1])
            asks = Asks(model, prompts[1])
            assert torch.equal(answer(model, prompts[0], streamer=asks), expected)
            assert len(asks.found) == 5
            assert all(torch.equal(one, other) for one in asks.found)


PLACES = {
    "the tower": lambda model: getattr(model.model, "vision_tower", None) or model.model.visual,
    "the decoder": lambda model: model.model.language_model,
    "a layer": lambda model: model.model.language_model.layers[2],
    "a projection": lambda model: model.model.language_model.layers[1].self_attn.o_proj,
    "an MLP": lambda model: model.model.language_model.layers[1].mlp,
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("where", PLACES)
def test_a_call_inside_a_call(case, where, fails):
    model, prompts, schedules = case
    for schedule in schedules:
        with patched(model, Schedule.parse(schedule)) as trace, torch.no_grad():
            expected, other = model(**prompts[0]).logits, model(**prompts[1]).logits
            model(**prompts[0])
            tokens, inner, busy = trace.rows, [], []

            def ask(*_, busy=busy, inner=inner):
                if busy:
                    if fails and len(busy) == 3:
                        raise ZeroDivisionError
                    busy.append(1)
                    return
                busy.append(1)
                try:
                    inner.append(model(**prompts[1]).logits)
                except ZeroDivisionError:
                    inner.append(None)
                busy.clear()

            handle = PLACES[where](model).register_forward_pre_hook(ask)
            found = model(**prompts[0]).logits
            handle.remove()
            assert torch.equal(found, expected)
            assert trace.rows == tokens
            assert all(one is None or torch.equal(one, other) for one in inner)
            assert inner


@pytest.mark.parametrize("last_layer", ["all", "needed"])
def test_a_last_layer_is_each_calls_own(last_layer):
    model, inputs = tiny_llava(4), LLAVA[0]
    ways = ({"logits_to_keep": 1}, {}, {"logits_to_keep": 1})
    schedule = Schedule.parse("merge 0.5, prune linear:1:3")

    def call(more):
        with torch.no_grad():
            return model(**inputs, **more).logits

    with patched(model, schedule, last_layer=last_layer):
        alone = [call(more) for more in ways]
        meeting = Meeting(model, len(ways))
        try:
            found = meeting.run(*(lambda m=more: call(m) for more in ways))
        finally:
            meeting.end()
    assert all(map(torch.equal, found, alone))


def test_threads_on_a_bare_language_model():
    model, mask = tiny_qwen2(4), torch.arange(20)[None].remainder(17) >= 3
    generator = torch.Generator().manual_seed(2)
    embeds = [torch.randn(1, 20, 64, generator=generator) for _ in range(4)]
    with patched(model, Schedule.parse("prune linear:1:3"), visual_mask=mask), torch.no_grad():
        alone = [model(inputs_embeds=one).logits for one in embeds]

        def run(one):
            with torch.no_grad():
                return model(inputs_embeds=one).logits

        with ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                assert all(map(torch.equal, pool.map(run, embeds), alone))
