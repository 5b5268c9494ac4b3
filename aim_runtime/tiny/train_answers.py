"""Second stage: the decoder learns to answer questions about videos; vision stays as it is."""

from collections.abc import Mapping
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaOnevisionForConditionalGeneration

from aim_runtime.tiny.digits import load_pool
from aim_runtime.tiny.model import FRAMES, answer_logits, frame_features
from aim_runtime.tiny.questions import KINDS, Question, ask
from aim_runtime.tiny.scenes import Videos, draw_videos

_BATCH = 32
_VALIDATION_VIDEOS = 128
# Kinds with an argument come more often: they need the decoder to bind, which it learns last.
_ASKED = {
    "digit_of_color": 3,
    "color_of_digit": 3,
    "place_of_digit": 4,
    "exists": 2,
    "first_last": 2,
    "count_color": 2,
}
# Up to a share of the steps, videos of these frames. Never one alone: it would reward answers that
# ignore the argument.
_FRAMES = ((0.25, (2, 3)), (0.55, (3, 6)), (1.0, (6, FRAMES)))


class AnswerStage:
    """Trains decoder, word embeddings and newline; see ``training.Stage``."""

    name = "answers"

    def __init__(
        self, model: LlavaOnevisionForConditionalGeneration, seed: int, steps: int
    ) -> None:
        self.steps = steps
        self._model, self._seed = model, seed
        self.module = model
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        decoder = model.model.language_model
        trained = [model.model.image_newline, *decoder.parameters()]
        for parameter in trained:
            parameter.requires_grad_(True)
        matrices = [p for p in decoder.layers.parameters() if p.dim() == 2]
        chosen = {id(p) for p in matrices}
        others = [p for p in trained if id(p) not in chosen]
        self.optimizers = (
            torch.optim.Muon(
                matrices, lr=4e-3, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.02),
        )

    def loss(self, step: int) -> Tensor:
        """Cross-entropy of the answers, mean over the questions."""
        seed = self._seed * 1_000_003 + 500_000 + step
        random = Random(seed)
        shortest, longest = next(f for share, f in _FRAMES if step < share * self.steps)
        videos = draw_videos(
            load_pool("train"),
            _BATCH,
            random.randint(shortest, longest),
            torch.Generator().manual_seed(seed),
        )
        questions = [_questions(videos, row, random) for row in range(_BATCH)]
        logits = self._logits(videos, questions)
        answers = torch.tensor([[q.answer_id for q in each] for each in questions])
        return functional.cross_entropy(logits.flatten(0, 1), answers.flatten())

    @torch.no_grad()
    def validate(self) -> Mapping[str, float]:
        """Accuracy, and that of each kind of question, on videos of FRAMES frames."""
        generator = torch.Generator().manual_seed(0)
        videos = draw_videos(load_pool("validation"), _VALIDATION_VIDEOS, FRAMES, generator)
        random = Random(0)
        questions = [_questions(videos, row, random) for row in range(_VALIDATION_VIDEOS)]
        answered = self._logits(videos, questions).argmax(dim=-1).tolist()
        right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
        for row, ids in zip(questions, answered, strict=True):
            for question, token in zip(row, ids, strict=True):
                right[question.kind].append(token == question.answer_id)
        kinds = {kind: sum(hits) / len(hits) for kind, hits in right.items()}
        return {"accuracy": sum(kinds.values()) / len(kinds)} | kinds

    def _logits(self, videos: Videos, questions: list[list[Question]]) -> Tensor:
        with torch.no_grad():
            features = frame_features(self._model, videos.pixels.flatten(0, 1))
        features = features.unflatten(0, videos.digit.shape).flatten(1, 2)
        ids = torch.tensor([[q.token_ids for q in each] for each in questions])
        return answer_logits(self._model, features, ids)


def _questions(videos: Videos, row: int, random: Random) -> list[Question]:
    """The questions of _ASKED about one video; what it does not allow becomes "exists"."""
    facts = [x[row].tolist() for x in (videos.digit, videos.ink, videos.place)]
    asked = []
    for kind, count in _ASKED.items():
        for _ in range(count):
            question = ask(*facts, kind, random) or ask(*facts, "exists", random)
            asked.append(question)
    return asked
