"""aim-runtime tiny: train the tiny model."""

from pathlib import Path
from typing import Annotated

import typer

from aim_cost.cli.options import FormatOption
from aim_cost.files.json_text import json_tree
from aim_cost.files.text import text_of
from aim_cost.render import Format, console, print_rows, table

app = typer.Typer(help="A tiny LLaVA-OneVision on videos of real digits.", no_args_is_help=True)


@app.callback()
def _tiny() -> None:
    """Keeps ``train`` a command of its own."""


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint and of the state.")],
    model: Annotated[
        str, typer.Option(help="tiny has 16 visual tokens a frame; tiny-36 has 36, starts with it.")
    ] = "tiny",
    seed: Annotated[int, typer.Option(help="Of weights and data.")] = 0,
    threads: Annotated[int, typer.Option(help="Cores to compute on.")] = 1,
    form: FormatOption = Format.table,
) -> None:
    """Train, or go on where --out stopped: under 30 minutes on one core."""
    import torch

    from aim_cost.checks import one_of, whole
    from aim_runtime.errors import InputError, LoadError
    from aim_runtime.tiny.checkpoint import save_checkpoint
    from aim_runtime.tiny.recipe import RECIPES
    from aim_runtime.tiny.run import CURVE_FILE
    from aim_runtime.tiny.train import train as run_train

    torch.set_num_threads(whole(threads, "--threads", LoadError))
    recipe = RECIPES[one_of(model, RECIPES, "--model", InputError)]
    trained = run_train(seed, out, recipe)
    told = json_tree(text_of(out / CURVE_FILE))
    command = f"aim-runtime tiny train --model {model} --seed {seed}"
    accuracy = save_checkpoint(trained, out, command, told)
    if form is not Format.table:
        print_rows([{"model": model, "seed": seed, **accuracy}], form)
        return
    lines = [(kind, f"{100 * share:.1f}") for kind, share in accuracy.items()]
    note = f"Percent of 1000 validation clips. Wrote {out}."
    console().print(table(f"{model}, seed {seed}", ("question", "right"), lines, note))
