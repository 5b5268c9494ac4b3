"""What the fuzzer asks: how many inputs, what counts as an answer, and how long one may take."""

import contextlib
import io
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from typer import Typer

from aim_cost.errors import AimError

INPUTS = int(os.environ.get("AIM_FUZZ", "300"))
"""What the shares of the tests are of: 300 in CI, 10,000 with ``make fuzz``."""

IN_CI = "AIM_FUZZ" not in os.environ
_CPU_SECONDS = 60.0 if IN_CI else 5.0


def fuzzed(share: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The settings of a test that gets ``share`` of INPUTS; CI asks the same ones each time."""
    return settings(
        max_examples=max(2, round(share * INPUTS)),
        deadline=None,
        derandomize=IN_CI,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


class Hangs(BaseException):
    """An input that takes more processor time than an answer may."""


@contextlib.contextmanager
def no_hang(times: int = 1) -> Iterator[None]:
    """End what takes more than ``times`` _CPU_SECONDS of this process, whatever else runs."""
    limit_s = times * _CPU_SECONDS

    def stop(*_: object) -> None:
        raise Hangs(f"more than {limit_s:g} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def one_line(error: AimError) -> None:
    """An error has four parts, and its message is one line that a terminal can show."""
    assert all((error.where, error.expected, error.fix)), error
    assert str(error).isprintable() and len(str(error)) < 3000


def refused(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a function returns, or None where it refuses with one clear error."""
    with no_hang():
        try:
            return function(*arguments, **options)
        except AimError as error:
            one_line(error)
            return None


def command(app: Typer, arguments: list[str], *, times: int = 1) -> str | AimError | None:
    """What a command prints, the error with which it refuses, or None for a wrong usage.

    It ends with 0 and an answer, or with 2 and an error, within ``times`` the time of an input.
    """
    out, err = io.StringIO(), io.StringIO()
    status: object = 0
    with no_hang(times), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(arguments, prog_name="aim")
        except AimError as error:
            one_line(error)
            return error
        except SystemExit as end:
            status = end.code or 0
    assert status in (0, 2), (status, err.getvalue())
    assert (out.getvalue() + err.getvalue()).strip()
    return out.getvalue() if status == 0 else None


def typed(options: Mapping[str, object]) -> list[str]:
    """Options as they are typed; None is left out, and True is a flag."""
    given = {name: value for name, value in options.items() if value is not None}
    return [
        word
        for name, value in given.items()
        for word in ([name] if value is True else [name, str(value)])
    ]


EDGES = (0, 1, 2, 3, 4, 7, 8, 13, 16, 27, 28, 31, 32, 33, 64, 100, 196, 197, 729, 1000, 4096)
FAR = (10**4, 10**5, 10**6, 10**8, 10**9, 10**9 + 1, 2**31, 2**32, 2**63, 10**20, 10**40, -1, -7)

numbers = st.one_of(
    st.sampled_from(EDGES), st.integers(1, 300), st.sampled_from(EDGES), st.sampled_from(FAR)
)
"""Whole numbers, most of them such as people type."""

odd_numbers = st.sampled_from(
    ("", " ", "nan", "inf", "-inf", "1e3", "1e999", "0x10", "014", "1_000", "1,5", "1.5", "٣", "½",
     "--", "1e-400", "99999999999999999999", "-0", "+4", "4 ", "four", "9" * 5000)
)  # fmt: skip
"""Text where a number is expected."""

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


def shown(number: st.SearchStrategy[int]) -> st.SearchStrategy[str]:
    """Numbers as they are typed, and now and then something else."""
    return st.one_of(number.map(str), number.map(str), number.map(str), odd_numbers, texts)
