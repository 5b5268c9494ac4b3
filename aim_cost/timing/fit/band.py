"""Bands and error figures from held-out predictions."""

import numpy as np

from aim_cost.timing.form import Array
from aim_cost.timing.kernel_model import Band

COVERAGE = 0.90
_BINS = 8
_LEAST_ROWS = 20  # with fewer rows a quantile of 5 % means nothing


def band_of(predicted_s: Array, measured_s: Array) -> Band:
    """The middle 90 % of log(measured / predicted), in bins of equal count along predicted time.

    Weibull's quantiles, so that a row not seen is as likely to fall outside for few rows as for
    many: with 20 rows in a bin they are the outermost ones.
    """
    order = np.argsort(predicted_s, kind="stable")
    bins = np.array_split(order, max(1, min(_BINS, len(order) // _LEAST_ROWS)))
    ratio = np.log(measured_s / predicted_s)
    tail = (1 - COVERAGE) / 2
    return Band(
        np.array([np.exp(np.log(predicted_s[rows]).mean()) for rows in bins]),
        np.array([np.quantile(ratio[rows], tail, method="weibull") for rows in bins]),
        np.array([np.quantile(ratio[rows], 1 - tail, method="weibull") for rows in bins]),
    )


def errors_of(predicted_s: Array, measured_s: Array) -> dict[str, float]:
    """Mean, median and 90th percentile of |predicted / measured - 1|, the signed mean, and rows."""
    error = predicted_s / measured_s - 1
    size = np.abs(error)
    return {
        "mape": float(size.mean()),
        "median": float(np.median(size)),
        "p90": float(np.quantile(size, 0.9)),
        "bias": float(error.mean()),
        "n": len(size),
    }


def covered(band: Band, predicted_s: Array, measured_s: Array) -> float:
    """The share of measured times inside the band."""
    low, high = band.around(predicted_s)
    return float(((measured_s >= low) & (measured_s <= high)).mean())
