"""Metrics: the types of measured values with their intervals, and the computation of each task's metrics."""

from __future__ import annotations

from typing import TypedDict


class Interval(TypedDict):
    """A value and its 95 % bootstrap interval over images; -1 or NaN if the dataset has no labels for it."""

    value: float
    low: float
    high: float


class Metric(Interval, total=False):
    """A metric of one set of predictions.

    If the metric is evaluated at several score thresholds, `threshold` is the best of them, and `sweep` has one row for
    each threshold: the threshold, and then all metrics of the task.
    """

    threshold: float
    sweep: list[list[float]]


# The change of a metric from one set of predictions to another on the same images.
Change = Interval
