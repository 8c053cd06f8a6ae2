"""Tensors are converted where integers end: who makes them, who reads them, and how large they are."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import network, normal

from sandglass.graph.layers import facts
from sandglass.quantization.spec import Spec
from sandglass.search.conversions import boundaries
from sandglass.search.costs import Boundary

CONSTANTS = {"w1": normal(1, 8, 3, 3, 3), "w2": normal(2, 8, 8, 1, 1), "w9": normal(3, 5, 8, 1, 1),
             "k": normal(4, 1, 8, 1, 1), "twice": np.array([1, 1, 2, 2])}  # fmt: skip
C = "c = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(image, w1)"  # 8 channels of 6 x 4
RESIDUAL = f"{C} r = Relu(c) d = Conv(r, w2) s = Add(d, r) t = Relu(s) y = Conv(t, w9)"
FLOAT, FLOWING = (Spec(("Conv",), asymmetric=True, between=between) for between in ((), ("Add", "Mul", "Resize")))


def ends(text: str, spec: Spec, without: str = "", outputs: str = "") -> dict[str, tuple[str, int]]:
    """Makers and elements of each tensor that is read by a layer, by the layers that read it."""
    more = f"float[A, B, D, E] {outputs}, " if outputs else ""
    model = network(f"g (float[1, 3, 12, 8] image) => ({more}float[N, C, H, W] y) {{ {text} }}", CONSTANTS)
    sizes = boundaries(model, spec, [name for name in facts(model) if name not in without])
    assert all(entry.both_ways == bool(spec.between) for entry in sizes)
    return {"".join(sorted(entry.readers)): ("".join(sorted(entry.makers)), size) for entry, size in sizes.items()}


def test_integers_end_at_what_is_computed_in_float() -> None:
    """The image and a sum are converted for whoever reads them; a clamp is a part of its layer."""
    assert ends(RESIDUAL, FLOAT) == {"c": ("", 288), "d": ("c", 192), "y": ("", 192)}


def test_layers_that_are_timed_converting_have_their_own() -> None:
    """Each layer has a conversion of its own, whoever made its input and whoever else reads it."""
    spec = Spec(("Conv",), asymmetric=False, timed_converting=True)
    text = f"{C} r = Relu(c) d = Conv(r, w2) e = Conv(r, w2) s = Add(d, e) y = Conv(s, w9)"
    assert ends(text, spec) == {"c": ("", 288), "d": ("", 192), "e": ("", 192), "y": ("", 192)}


def test_integers_flow_through_sums() -> None:
    """Where a target adds integers, a sum is made of them if all of its terms are."""
    assert ends(RESIDUAL, FLOWING) == {"c": ("", 288), "d": ("c", 192), "y": ("cd", 192)}


def test_integers_flow_through_what_has_constants() -> None:
    """Constants are no makers: sizes of an upsampling, and a term that is added."""
    text = f'{C} u = Resize<mode = "nearest">(c, , twice) d = Conv(u, w2) s = Add(d, k) y = Conv(s, w9)'
    assert ends(text, FLOWING) == {"c": ("", 288), "d": ("c", 768), "y": ("d", 768)}
    assert ends(text, FLOAT) == {"c": ("", 288), "d": ("", 768), "y": ("", 768)}


@pytest.mark.parametrize("spec", [FLOAT, FLOWING], ids=["float", "flowing"])
def test_one_term_in_float_ends_integers(spec: Spec) -> None:
    """A sum with something that no layer makes is computed in float."""
    text = f"{C} n = Sigmoid(c) d = Conv(c, w2) s = Add(d, n) y = Conv(s, w9)"
    assert ends(text, spec)["y"] == ("", 192)


def test_a_gate_of_channels_ends_no_integers() -> None:
    """A product with one float for each channel is made of the integers that it is spread over."""
    text = f"{C} p = GlobalAveragePool(c) e = Conv(p, w2) g = HardSigmoid(e) m = Mul(g, c) y = Conv(m, w9)"
    assert ends(text, FLOWING) == {"c": ("", 288), "e": ("", 8), "y": ("c", 192)}
    assert ends(text, FLOAT)["y"] == ("", 192)


def test_readers_of_one_tensor_share_its_conversion() -> None:
    """Every layer that reads a tensor is named, those apart from the given ones are not."""
    text = f"{C} r = Relu(c) d = Conv(r, w2) e = Conv(r, w2) f = Conv(r, w2) s = Add(d, e) y = Add(s, f)"
    assert ends(text, FLOAT) == {"c": ("", 288), "def": ("c", 192)}
    assert ends(text, FLOAT, without="e") == {"c": ("", 288), "df": ("c", 192)}
    assert ends(text, FLOAT, without="def") == {"c": ("", 288)}


def test_outputs_have_a_size_too() -> None:
    """A tensor that a layer reads and that is an output is converted like any other."""
    assert ends(f"{C} y = Conv(c, w9)", FLOAT, outputs="c")["y"] == ("c", 192)


def test_long_chains_of_sums() -> None:
    """Hundreds of sums after one another are no matter of the interpreter's stack."""
    lines = [C, "s0 = Add(c, c)", *(f"s{i + 1} = Add(s{i}, c)" for i in range(1500))]
    assert ends(" ".join([*lines, "y = Conv(s1500, w9)"]), FLOWING)["y"] == ("c", 192)


def test_of_no_layers_there_are_none() -> None:
    """Nothing in int8, nothing to convert."""
    assert ends(RESIDUAL, FLOWING, without="cdy") == {}
    assert Boundary(frozenset(), frozenset(), True).is_crossed({}) is False
