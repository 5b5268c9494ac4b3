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
    seed: Annotated[int, typer.Option(help="Of weights and data.")] = 0,
    threads: Annotated[int, typer.Option(help="Cores to compute on.")] = 1,
    form: FormatOption = Format.table,
) -> None:
    """Train from nothing, or go on where --out stopped: under 30 minutes on one core."""
    import torch

    from aim_cost.checks import whole
    from aim_runtime.errors import LoadError
    from aim_runtime.tiny.checkpoint import save_checkpoint
    from aim_runtime.tiny.run import CURVE_FILE
    from aim_runtime.tiny.train import train as run_train

    torch.set_num_threads(whole(threads, "--threads", LoadError))
    model = run_train(seed, out)
    told = json_tree(text_of(out / CURVE_FILE))
    accuracy = save_checkpoint(model, out, seed, told)
    if form is not Format.table:
        print_rows([{"seed": seed, **accuracy}], form)
        return
    lines = [(kind, f"{100 * share:.1f}") for kind, share in accuracy.items()]
    note = f"Percent of 1000 validation clips. Wrote {out}."
    console().print(table(f"Tiny model, seed {seed}", ("question", "right"), lines, note))
