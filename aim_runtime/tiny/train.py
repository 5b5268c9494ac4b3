"""Training: the vision tower on single frames, then the LLM on questions about clips.

It needs a projector that does not start too small, a ramp of difficulty for the vision tower, many
questions after one clip, Muon for the LLM's matrices, and no clips of one frame. Both stages resume
after a kill.
"""

from pathlib import Path

from transformers import LlavaOnevisionForConditionalGeneration

from aim_cost.render import counted_progress
from aim_runtime.tiny.recipe import Recipe
from aim_runtime.tiny.run import Run
from aim_runtime.tiny.train_answers import train_answers
from aim_runtime.tiny.train_vision import train_vision


def train(seed: int, folder: Path, recipe: Recipe) -> LlavaOnevisionForConditionalGeneration:
    """Train a model, or go on from what ``folder`` holds.

    Writes there: STATE_FILE while training, CURVE_FILE: validation accuracy by kind and loss,
    every ``save_every`` steps, the recipe, the seed and the seconds spent. Data is drawn from the
    seed and the step, so a run that was interrupted ends as one that was not.
    Returns: the model in eval mode; its last state was validated, no best one is chosen.
    Raises: LoadError where ``folder`` holds another training.
    """
    run = Run(seed, folder, recipe)
    with counted_progress() as progress:
        train_vision(run, progress)
        train_answers(run, progress)
    run.model.eval()
    return run.model
