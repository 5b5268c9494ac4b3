"""What is printed fits 80 columns, and nothing is lost on the way."""

import io

from rich.console import Console

from aim_cost.render import table, wrapped

FIGURES = ("0.267", "yes", "1905", "2043", "-7 %", "1.00x")
COLUMNS = ("schedule", "TFLOPs", "=", "pred.", "meas.", "error", "gain")
LONG = "merge 0.25 by=uniform positions=kept, prune ratios:1,1,0.5,0.5,0.25 score=text-attention"


def printed(*labels, note=""):
    text = io.StringIO()
    page = Console(file=text, width=80, force_terminal=False)
    page.print(table("title", COLUMNS, [(label, *FIGURES) for label in labels], note))
    return text.getvalue().splitlines()


def test_a_long_first_column_wraps_and_every_figure_stays():
    lines = printed("none", LONG)
    assert max(map(len, lines)) <= 80
    words = " ".join(lines).split()
    assert all(words.count(word) == 2 for word in ["0.267", "yes", "1905", "2043", "-7", "1.00x"])
    assert set(LONG.split()) <= set(words)


def test_a_short_first_column_stays_on_its_line():
    (line,) = (line for line in printed("merge 0.25, prune linear:14:22") if "0.267" in line)
    assert line.split()[:4] == ["merge", "0.25,", "prune", "linear:14:22"]


def test_sentences_wrap_and_paths_stay_whole():
    path = "/somewhere/" + "very-long/" * 9
    lines = wrapped(f"what was measured is in {path} and the same command goes on").splitlines()
    assert path in lines
    assert all(len(line) <= 80 for line in lines if line != path)
