"""Rounded layers give back their output better than rounding to nearest, and do no harm."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from graphs import network, normal

from sandglass.graph.layers import Facts, clamp_bounds, facts
from sandglass.quantization.edits import Rounded
from sandglass.quantization.input_rows import row_channels, weight_matrix
from sandglass.quantization.layer_rounding import LayerToRound, round_input, round_to_nearest
from sandglass.quantization.plan import TensorRange
from sandglass.quantization.repairs import bias_correction, compensated_rounding
from sandglass.quantization.repairs.output_thresholds import Reader, output_threshold

# By name: the call of a layer, its weight's shape, its channels, and the groups and columns of a row of its input.
LAYERS: dict[str, tuple[str, tuple[int, ...], int, tuple[int, int]]] = {
    "dense": ("Conv(x, w, b)", (16, 8, 3, 3), 16, (1, 72)),
    "pointwise": ("Conv(x, w, b)", (16, 48, 1, 1), 16, (1, 48)),
    "wide": ("Conv(x, w, b)", (16, 160, 3, 3), 16, (1, 1440)),
    "grouped": ("Conv<group = 4>(x, w, b)", (16, 4, 3, 3), 16, (4, 36)),
    "depthwise": ("Conv<group = 8>(x, w, b)", (8, 1, 3, 3), 8, (8, 9)),
    "transposed": ("ConvTranspose<strides = [2, 2]>(x, w, b)", (32, 8, 4, 4), 8, (1, 32)),
    "grouped transposed": ("ConvTranspose<group = 2>(x, w, b)", (32, 8, 2, 2), 16, (2, 16)),
    "grouped to one": ("ConvTranspose<group = 4>(x, w, b)", (32, 1, 2, 2), 4, (4, 8)),
    "depthwise transposed": ("ConvTranspose<group = 8>(x, w, b)", (8, 1, 4, 4), 8, (8, 1)),
    "gemm": ("Gemm(x, w, b)", (40, 16), 16, (1, 40)),
    "gemm, turned": ("Gemm<transB = 1>(x, w, b)", (16, 40), 16, (1, 40)),
    "product": ("MatMul(x, w)", (40, 16), 16, (1, 40)),
}
SEVERAL_COLUMNS = [name for name in LAYERS if name != "depthwise transposed"]
FORWARD = [name for name in LAYERS if "transposed" not in name and name != "grouped to one"]


@dataclass(frozen=True)
class Case:
    """A layer, its weights, and rows of its input: to learn from, and held out."""

    fact: Facts
    weight: np.ndarray
    bias: np.ndarray | None
    rows: np.ndarray
    held_out: np.ndarray
    found: TensorRange
    asymmetric: bool = True

    def rounded(self, bits: int = 8, compensate: bool = True, correct: bool = True) -> Rounded:
        """The layer, rounded."""
        repairs = (bias_correction.NAME,) if correct else ()
        layer = LayerToRound(self.fact, self.weight, self.bias, self.rows, self.found, self.asymmetric, bits, repairs)
        rounded = round_to_nearest(layer)
        rounded = compensated_rounding.compensated(layer, rounded) if compensate else rounded
        return bias_correction.corrected(layer, rounded) if correct else rounded

    def change(self, given: Rounded, rows: np.ndarray) -> np.ndarray:
        """What rounding does to the outputs, (rows, groups, rows of the matrix); only MatMul has no bias for it."""
        matrix, channels = weight_matrix(self.weight, self.fact), row_channels(self.fact)
        shape = [-1 if i == self.fact.axis else 1 for i in range(self.weight.ndim)]
        other = weight_matrix(given.integers.astype(np.float32) * given.scales.reshape(shape), self.fact)
        seen = round_input(rows, self.found, self.asymmetric)
        found = np.asarray(np.einsum("rgk,gok->rgo", seen, other) - np.einsum("rgk,gok->rgo", rows, matrix))
        if self.fact.layer.operator == "MatMul":
            return found
        return found + (given.bias - (0 if self.bias is None else self.bias))[channels]

    def error(self, given: Rounded, rows: np.ndarray) -> float:
        """Power of what rounding does to the outputs; of taps, which share a bias, without their means."""
        found = self.change(given, rows)
        return float(found.var(0).mean() if self.fact.layer.operator == "ConvTranspose" else (found**2).mean())


def whole_range(rows: np.ndarray) -> TensorRange:
    """The range of all rows."""
    low, high = float(rows.min()), float(rows.max())
    return TensorRange(low, high, max(-low, high))


def case(name: str, offset: float = 1.0) -> Case:
    """A layer whose inputs are correlated, as activations are: a few causes are mixed into all columns."""
    call, shape, channels, (groups, columns) = LAYERS[name]
    weights = {"w": normal(1, *shape)} | ({"b": normal(2, channels)} if "b)" in call else {})
    sample = "float[1, 8, 9, 9]" if len(shape) == 4 else "float[5, 40]"
    model = network(f"g ({sample} x) => (float[N] y) {{ y = {call} }}", weights)
    rows = np.einsum("rgc,gck->rgk", normal(4, 2000, groups, 4), normal(3, groups, 4, columns))
    rows = rows + 0.1 * normal(5, *rows.shape) + offset * np.abs(normal(6, groups, columns))
    return Case(facts(model)["y"], weights["w"], weights.get("b"), rows[:1000], rows[1000:], whole_range(rows))


@pytest.mark.parametrize("bits", [6, 7, 8])
@pytest.mark.parametrize("name", LAYERS)
def test_integers_stay_within_the_bits(name: str, bits: int) -> None:
    """Whatever the compensation asks for, and the scale is that of the largest weight of each channel."""
    given = case(name)
    for compensate in (True, False):
        found = given.rounded(bits, compensate)
        assert found.integers.shape == given.weight.shape
        assert found.integers.dtype == np.int8
        assert 2 ** (bits - 1) - 2 <= found.levels <= 2 ** (bits - 1) - 1
        assert found.scales.shape == (given.weight.shape[given.fact.axis],)
        assert found.bias.shape == (given.fact.channels,)
        assert found.scales.dtype == found.bias.dtype == np.float32


@pytest.mark.parametrize("name", LAYERS)
def test_without_compensation_integers_are_the_nearest(name: str) -> None:
    """Each weight is within half a step of its integer, in the layout of the weight."""
    given = case(name)
    found = given.rounded(compensate=False)
    steps = found.scales.reshape([-1 if i == given.fact.axis else 1 for i in range(given.weight.ndim)])
    assert np.abs(found.integers * steps - given.weight).max() <= 0.5001 * found.scales.max()
    assert (np.abs(found.integers - given.weight / steps) <= 0.5001).all()


@pytest.mark.parametrize("name", SEVERAL_COLUMNS)
def test_compensation_makes_up_for_rounding(name: str) -> None:
    """On correlated inputs the output's error is far less than with the nearest integers, on held-out rows too."""
    for bits, least in ((6, 0.7), (8, 1.0)):
        given = case(name)
        better, nearest = (given.rounded(bits, compensate) for compensate in (True, False))
        assert (better.integers != nearest.integers).any()
        for rows in (given.rows, given.held_out):
            assert given.error(better, rows) < least * given.error(nearest, rows), bits


@pytest.mark.parametrize("rows", [16, 200])
def test_compensation_needs_fewer_rows_than_columns(rows: int) -> None:
    """A wide layer gains by rows that are a small part of its columns, and the fewer they are the less."""
    given = replace(case("wide"), rows=case("wide").rows[:rows])
    better, nearest = (given.rounded(6, compensate) for compensate in (True, False))
    assert given.error(better, given.held_out) < (0.9 if rows < 100 else 0.6) * given.error(nearest, given.held_out)


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("name", ["dense", "depthwise", "product"])
def test_compensation_does_no_harm_on_inputs_with_a_mean(name: str, correct: bool) -> None:
    """Inputs far from 0 on average, as after a ReLU: where no bias takes up the mean, the integers keep it."""
    given = case(name, offset=10)
    better, nearest = (given.rounded(6, compensate, correct) for compensate in (True, False))
    assert given.error(better, given.held_out) < given.error(nearest, given.held_out)


@pytest.mark.parametrize("compensate", [True, False])
@pytest.mark.parametrize("name", [name for name in FORWARD if name != "product"])
def test_bias_takes_up_the_mean_error(name: str, compensate: bool) -> None:
    """With the correction outputs have no mean error on the rows learnt from; without, the bias is as it was."""
    given = case(name)
    before, after = (given.rounded(6, compensate, correct) for correct in (False, True))
    assert given.bias is not None
    np.testing.assert_array_equal(before.bias, given.bias)
    left = np.abs(given.change(after, given.rows).mean(0)).max()
    assert left < 1e-3 * np.abs(given.change(before, given.rows).mean(0)).max() + 1e-4
    assert given.error(after, given.held_out) < 1.02 * given.error(before, given.held_out)


@pytest.mark.parametrize("name", ["transposed", "grouped transposed", "depthwise transposed"])
def test_bias_of_a_transposed_layer_takes_up_its_share(name: str) -> None:
    """Each output is the sum of taps over strides: a channel's mean error is its taps' over the strides' product."""
    given = case(name)
    before, after = (given.rounded(6, False, correct) for correct in (False, True))
    channels = row_channels(given.fact)
    taps = given.change(before, given.rows).mean(0)
    expected = np.zeros(given.fact.channels)
    np.add.at(expected, channels.ravel(), taps.ravel())
    expected /= np.prod(given.fact.stride)
    np.testing.assert_allclose(before.bias - after.bias, expected, rtol=1e-3, atol=1e-3)


def test_layer_without_a_bias_gets_one() -> None:
    """Its bias is the correction alone."""
    given = case("dense")
    alone, beside = replace(given, bias=None).rounded(6), given.rounded(6)
    assert given.bias is not None
    np.testing.assert_array_equal(alone.integers, beside.integers)
    np.testing.assert_allclose(alone.bias, beside.bias - given.bias, atol=1e-5)
    assert (replace(given, bias=None).rounded(6, correct=False).bias == 0).all()


def test_clipped_outliers_do_not_shift_the_bias() -> None:
    """One row far beyond the range leaves the outputs of all others where they are."""
    given = case("dense")
    rows = given.rows.copy()
    rows[0] *= 1000
    spoilt = replace(given, rows=rows, found=replace(whole_range(rows), threshold=given.found.threshold))
    shift = spoilt.change(spoilt.rounded(), given.held_out).mean(0)
    outputs = np.einsum("rgk,gok->rgo", given.held_out, weight_matrix(given.weight, given.fact))
    assert np.abs(shift).max() < 0.02 * outputs.std()


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_dead_and_constant_inputs_do_no_harm(name: str, asymmetric: bool) -> None:
    """Columns, groups or whole inputs that never change, and channels without weights: finite, and no worse."""
    given = replace(case(name), asymmetric=asymmetric)
    constant = np.broadcast_to(given.rows[:1], given.rows.shape)
    columns, group = given.rows.copy(), given.rows.copy()
    columns[:, :, ::2] = 0
    group[:, 0] = 0
    weight = given.weight.copy()
    np.moveaxis(weight, given.fact.axis, 0)[0] = 0
    for changed in (
        replace(given, rows=constant, held_out=constant),
        replace(given, rows=columns, held_out=columns),
        replace(given, rows=group, held_out=group),
        replace(given, rows=given.rows[:1], held_out=given.rows[:1]),
        replace(given, rows=np.zeros_like(given.rows)),
        replace(given, weight=weight),
        replace(given, weight=0 * weight),
    ):
        for bits in (6, 8):
            found = changed.rounded(bits)
            assert np.isfinite(found.bias).all()
            assert np.isfinite(found.scales).all()
            assert (found.scales > 0).all()
            assert found.levels < 2 ** (bits - 1)
            dead = np.moveaxis(found.integers, given.fact.axis, 0)[np.moveaxis(changed.weight, given.fact.axis, 0) == 0]
            assert (dead == 0).all() or changed.weight is given.weight
            if changed.rows is not given.rows and changed.rows.any():
                nearest = changed.error(changed.rounded(bits, False), changed.held_out)
                assert changed.error(found, changed.held_out) <= 1.01 * nearest + 1e-9


def test_threshold_is_chosen_by_the_output() -> None:
    """An outlier in a column that has no weight is clipped; the same outlier in one that counts is not."""
    given = case("pointwise", offset=0)
    rows = given.rows.copy()
    rows[:, :, 0] = 100 * np.sign(rows[:, :, 0])
    found = whole_range(rows)
    weight = given.weight.copy()
    weight[:, 0] = 0
    ignored, counted = (
        output_threshold(found, [Reader(given.fact, values, None, rows)], True).threshold
        for values in (weight, given.weight)
    )
    assert ignored < 0.3 * found.threshold
    assert counted == pytest.approx(found.threshold)


@pytest.mark.parametrize("bounds", [(0.0, np.inf), (0.0, 6.0), (-np.inf, np.inf)])
def test_what_a_clamp_cuts_off_does_not_count(bounds: tuple[float, float]) -> None:
    """An outlier that leads far below 0 may be clipped where a ReLU or ReLU6 follows, and not where nothing does."""
    given = case("pointwise", offset=0)
    rows, weight = given.rows.copy(), given.weight.copy()
    rows[::50, :, 0], weight[:, 0] = 100, -np.abs(weight[:, 0]) - 0.1
    found = output_threshold(whole_range(rows), [Reader(given.fact, weight, given.bias, rows, bounds)], True)
    assert (found.threshold < 50) == (bounds[0] == 0)


def test_bounds_are_those_of_the_only_clamp() -> None:
    """ReLU, Clip with constants, with one of them, with a computed one; none where others read the layer too."""
    text = """g (float[1, 4, 8, 8] x, float m) => (float[1, 4, 8, 8] y, float[1, 4, 8, 8] z) {
        a = Conv(x, w)  ra = Relu(a)
        b = Conv(ra, w)  rb = Clip(b, low, high)
        c = Conv(rb, w)  rc = Clip(c, low)
        d = Conv(rc, w)  rd = Clip(d, low, m)
        e = Conv(rd, w)  re = Relu(e)
        f = Conv(e, w)
        y = Add(re, f)
        z = Conv(y, w) }"""
    model = network(text, {"w": normal(1, 4, 4, 1, 1), "low": np.float32(-1), "high": np.float32(6)})
    above, none = (-1, np.inf), (-np.inf, np.inf)
    expected = {"a": (0, np.inf), "b": (-1, 6), "c": above, "d": above, "e": none, "f": none, "z": none}
    assert clamp_bounds(model) == expected


@pytest.mark.parametrize("count", [1, 100])
def test_threshold_of_a_constant_input_keeps_it(count: int) -> None:
    """An input that never changes, or was seen once: nothing tells where to clip, so nothing is."""
    given = case("gemm")
    rows = np.repeat(given.rows[:1], count, 0)
    found = output_threshold(whole_range(rows), [Reader(given.fact, given.weight, None, rows)], True)
    assert found.threshold > 0.9 * np.abs(rows).max()
