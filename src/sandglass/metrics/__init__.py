"""Metrics: what a number measured on a dataset is, and how each task's numbers are computed."""

from __future__ import annotations

from typing import TypedDict


class Interval(TypedDict):
    """A value and its 95 % bootstrap interval over images; -1 or NaN where the dataset has no truths for it."""

    value: float
    low: float
    high: float


class Metric(Interval, total=False):
    """A metric of one set of predictions.

    A metric that is taken at the best of several score thresholds names that `threshold`, and has the whole `sweep`: a
    row of the threshold and of every metric for each.
    """

    threshold: float
    sweep: list[list[float]]


# The change of a metric from one set of predictions to another on the same images.
Change = Interval
