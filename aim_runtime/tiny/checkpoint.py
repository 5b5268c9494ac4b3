"""Training from start to end, and what it leaves: a folder that from_pretrained loads."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlavaOnevisionForConditionalGeneration

from aim_cost.files import write_atomically
from aim_cost.report import to_csv
from aim_runtime.tiny.model import new_model
from aim_runtime.tiny.questions import WORDS
from aim_runtime.tiny.train_answers import AnswerStage
from aim_runtime.tiny.train_vision import VisionStage
from aim_runtime.tiny.training import Rhythm, read_progress, run_stage


@dataclass(frozen=True)
class Recipe:
    """How long each stage is trained, in optimizer steps."""

    vision_steps: int = 2000
    answer_steps: int = 800
    rhythm: Rhythm = Rhythm()


def train(seed: int, out: Path, recipe: Recipe = Recipe()) -> None:
    model = new_model(seed)
    done = read_progress(out)
    vision = VisionStage(model, seed, recipe.vision_steps)
    if done.stage in ("", vision.name):
        done = run_stage(vision, done, out, recipe.rhythm)
        write_atomically(out / "curve.csv", to_csv(done.curve).encode())
    answers = AnswerStage(model, seed, recipe.answer_steps)
    done = run_stage(answers, done, out, recipe.rhythm)
    write_atomically(out / "curve.csv", to_csv(done.curve).encode())
