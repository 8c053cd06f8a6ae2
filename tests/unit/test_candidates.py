"""The search finds the fastest choices that keep a fidelity, and the noise that it goes by adds up."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.test_backends import save_graph
from graphs import normal
from sandglass.graph.session import GraphSession
from sandglass.quantization import make_plan
from sandglass.quantization.output_noise import decibels, integer_layers, layer_noises, noise, only, run, without
from sandglass.quantization.plan import Plan
from sandglass.quantization.simulate import simulate
from sandglass.quantization.spec import Spec
from sandglass.search import candidates as searching
from sandglass.search.candidates import SPARES, STEPS, Choice
from sandglass.search.costs import Cost, Crossing, Way, saved
from sandglass.search.min_cut import cheapest

SPEC = Spec(("Conv",), asymmetric=True)
LAYERS = ["first", "depthwise", "pointwise", "three", "last"]


def costs(*powers: float) -> list[Cost]:
    """Layers a, b, c.. with these noises, each twice as fast in int8."""
    return [Cost(chr(97 + i), 2.0, (Way(8, 1.0, power),)) for i, power in enumerate(powers)]


def crossing(makers: str, readers: str, milliseconds: float, both_ways: bool = True) -> Crossing:
    """A tensor between layers, which are named by one letter each."""
    return Crossing(frozenset(makers), frozenset(readers), milliseconds, both_ways)


def search(*given: Any, **more: Any) -> list[Choice]:
    """All choices, for whom none suffices."""
    return list(searching.search(*given, **more))


class Fidelity:
    """1 less the noises of the layers that are in int8, and what was asked."""

    def __init__(self, given: Sequence[Cost]) -> None:
        self.noises = {(cost.name, way.bits): way.noise for cost in given for way in cost.ways}
        self.asked: list[tuple[tuple[str, int], ...]] = []

    def __call__(self, bits: Mapping[str, int]) -> float:
        self.asked.append(tuple(bits.items()))
        return 1 - sum(self.noises[way] for way in bits.items())


def assignments(given: Sequence[Cost]) -> Iterator[dict[str, Way]]:
    """Every way in which the layers can run."""
    for ways in itertools.product(*((None, *cost.ways) for cost in given)):
        yield {cost.name: way for cost, way in zip(given, ways, strict=True) if way is not None}


def priced(given: Sequence[Cost], crossings: Sequence[Crossing], chosen: Mapping[str, Way], price: float) -> float:
    """What `cheapest` makes small: milliseconds and the price of the noise, over all in float."""
    return price * sum(way.noise for way in chosen.values()) - saved(given, crossings, chosen)


NUMBERS = st.integers(1, 1000).map(lambda value: value / 100)


@st.composite
def instances(draw: st.DrawFn) -> tuple[list[Cost], list[Crossing]]:
    """Up to six layers with one or two ways each, and tensors between any of them."""
    names = "abcdef"[: draw(st.integers(0, 6))]
    given = [
        Cost(name, draw(NUMBERS), tuple(Way(bits, draw(NUMBERS), draw(NUMBERS) / 1e3)
                                        for bits in (8, 6)[: draw(st.integers(1, 2))]))
        for name in names
    ]  # fmt: skip
    some = st.frozensets(st.sampled_from(names), max_size=3) if names else st.just(frozenset())
    crossings = st.builds(Crossing, some, some, NUMBERS, st.booleans())
    return given, draw(st.lists(crossings, max_size=5))


def test_all_in_int8_within_the_budget() -> None:
    """Full int8 keeps the fidelity: it is the first choice, and the first that is simulated; spares are slower."""
    given = costs(0.01, 0.02, 0.03)
    fidelity = Fidelity(given)
    choice, *spares = search(given, [], fidelity, 0.93)
    assert (choice.bits, choice.reasons) == ({"a": 8, "b": 8, "c": 8}, {})
    assert (choice.fidelity, choice.noise, choice.saved) == pytest.approx((0.94, 0.06, 3.0))
    assert fidelity.asked[0] == (("a", 8), ("b", 8), ("c", 8))
    assert all(spare.saved < choice.saved for spare in spares)


def test_noisiest_layers_are_given_back_and_no_more() -> None:
    """The fewest, each with its reason; fidelity, noise and time are those of the choice."""
    given = costs(0.01, 0.08, 0.02, 0.04)
    choice = search(given, [], Fidelity(given), 0.96)[0]
    assert choice.reasons == {
        "b": "gives 8.0e-02 of the output's power as noise for 1.000 ms",
        "d": "gives 4.0e-02 of the output's power as noise for 1.000 ms",
    }
    assert choice.bits == {"a": 8, "c": 8}
    assert (choice.fidelity, choice.noise, choice.saved) == pytest.approx((0.97, 0.03, 2.0))


def test_noise_counts_for_the_time_that_it_buys() -> None:
    """Of two layers with the same noise the one that gains less goes back to float."""
    given = [Cost("fast", 10.0, (Way(8, 1.0, 0.02),)), Cost("slow", 2.0, (Way(8, 1.0, 0.02),))]
    assert search(given, [], Fidelity(given), 0.97)[0].bits == {"fast": 8}
    assert search(given[::-1], [], Fidelity(given), 0.97)[0].bits == {"fast": 8}


def test_idle_layers_are_in_float() -> None:
    """A layer that int8 makes no faster is in float though the budget is kept, and though its noise is least."""
    idle = [Cost("idle", 1.0, (Way(8, 1.2, 1e-9),)), Cost("same", 1.0, (Way(8, 1.0, 1e-9),))]
    given = [*costs(0.01, 0.02), *idle]
    fidelity = Fidelity(given)
    choice = search(given, [], fidelity, 0.5)[0]
    assert choice.bits == {"a": 8, "b": 8}
    assert choice.reasons == {
        "idle": "int8 gains no time: 1.200 ms, float 1.000 ms",
        "same": "int8 gains no time: 1.000 ms, float 1.000 ms",
    }
    assert set(search(given, [], fidelity, 0.985)[0].reasons) == {"idle", "same", "b"}
    assert all(name not in dict(asked) for asked in fidelity.asked for name in ("idle", "same"))


def test_best_is_returned_when_nothing_suffices() -> None:
    """A fidelity that no choice reaches: the one of the highest, alone."""
    given = costs(0.01, 0.02, 0.03)
    (choice,) = search(given, [], lambda bits: 0.8 - 0.1 * len(bits), 0.99)
    assert choice == Choice({}, choice.reasons, 0.8, 0, 0)
    assert set(choice.reasons) == {"a", "b", "c"}
    (choice,) = search(given, [], lambda bits: 0.5 + 0.1 * len(bits), 0.99)  # float itself may be no better
    assert set(choice.bits) == {"a", "b", "c"}


def test_fidelity_that_is_just_reached_is_reached() -> None:
    """A fidelity that is the least one suffices."""
    given = costs(0.1, 0.2, 0.3, 0.4)
    for count in range(5):
        choice = search(given, [], lambda bits: 1 - len(bits) / 4, 1 - count / 4)[0]
        assert set(choice.bits) == set("abcd"[:count])


def test_what_falls_short_by_little_is_returned_as_well() -> None:
    """With `near` choices that nearly suffice come too, the fastest first, and the search goes on to those that do."""
    given = costs(0.1, 0.2, 0.3, 0.4)
    found = search(given, [], lambda bits: 1 - len(bits) / 4, 0.75, near=0.3)
    assert [set(choice.bits) for choice in found] == [{"a", "b"}, {"a"}, set()]


def test_who_is_not_content_is_given_quieter_ones_in_larger_steps() -> None:
    """Twenty layers: the first five choices, fastest first, then one, two, four more layers back, and the quietest."""
    given = costs(*(0.001 * (i + 1) for i in range(20)))
    asked = list[int]()

    def fidelity(bits: Mapping[str, int]) -> float:
        asked.append(len(bits))
        return 1.0

    found = searching.search(given, [], fidelity, 0.5)
    counts = [len(next(found).bits) for _ in range(SPARES + 1)]
    assert counts == asked == sorted(asked, reverse=True)  # nothing is simulated that was not asked for
    more = [len(choice.bits) for choice in found]
    behind = asked[SPARES + 1 :]
    assert more == [*(behind[step - 1] for step in (1, 2, 4, 8) if step <= len(behind)), 0][: len(more)]
    assert more[-1] == asked[-1] == 0


def test_layers_that_go_at_one_price_go_one_by_one() -> None:
    """Ten layers alike are all in int8 at one price and none at the next; as many stay as the fidelity allows."""
    given = [Cost(name, 2.0, (Way(8, 1.0, 0.01),)) for name in "abcdefghij"]
    assert [len(cheapest(given, [], price)) for price in (99.0, 101.0)] == [10, 0]
    fidelity = Fidelity(given)
    assert search(given, [], fidelity, 0.965)[0].bits == dict.fromkeys("abc", 8)
    assert len(fidelity.asked) == len(set(fidelity.asked)) <= 11


def test_what_is_best_at_few_prices_is_not_passed_by() -> None:
    """Two layers that save much go back at prices 20 % apart, among fifty over six decades: one may stay."""
    noises = {"loud": 0.01, "louder": 0.012}
    given = [Cost(name, 2.0, (Way(8, 1.0, noise),)) for name, noise in noises.items()]
    given += [Cost(f"{i}", 0.02, (Way(8, 0.01, 1e-8),)) for i in range(48)]
    choice = search(given, [], Fidelity(given), 0.985)[0]
    assert set(choice.bits) == {cost.name for cost in given} - {"louder"}


def test_thinning_leaves_out_what_saves_nothing() -> None:
    """Fewer layers that do not pay for their conversion are not even simulated."""
    given = [Cost(name, 2.0, (Way(8, 1.0, 0.01),)) for name in "abcdefghij"]
    chain = [crossing("", "abcdefghij", 3.5)]
    fidelity = Fidelity(given)
    assert len(search(given, chain, fidelity, 0.955)[0].bits) == 4
    assert all(len(asked) >= 4 for asked in fidelity.asked if asked)
    assert search(given, chain, Fidelity(given), 0.975)[0].bits == {}


def test_nothing_to_search() -> None:
    """No layers, or idle ones alone: one simulation, and its fidelity."""
    assert search([], [], lambda bits: 0.7, 0.9) == [Choice({}, {}, 0.7, 0, 0)]
    idle = [Cost("a", 1.0, (Way(8, 1.0, 0.1),))]
    fidelity = Fidelity(idle)
    (choice,) = search(idle, [], fidelity, 0.95)
    assert (choice.bits, fidelity.asked) == ({}, [()])


def test_faster_way_is_chosen_where_it_is_quiet() -> None:
    """Of two numbers of bits the fast one at a low price, the quiet one at a higher, float at the highest."""
    given = [Cost("a", 3.0, (Way(8, 2.0, 0.01), Way(6, 1.0, 0.05)))]
    chosen = [cheapest(given, [], price) for price in (0.0, 20.0, 40.0, 90.0, 110.0)]
    assert [way["a"].bits if way else None for way in chosen] == [6, 6, 8, 8, None]
    for least, bits in ((0.94, {"a": 6}), (0.98, {"a": 8}), (0.995, {})):
        assert search(given, [], Fidelity(given), least)[0].bits == bits


def test_each_layer_has_its_own_way() -> None:
    """6 bits where they are faster and quiet enough, 8 where they are not, together in one choice."""
    ways = (Way(8, 2.0, 0.001), Way(6, 1.0, 0.004))
    given = [Cost("quiet", 3.0, ways), Cost("slow", 3.0, (Way(8, 1.0, 0.001), Way(6, 1.5, 0.001))),
             Cost("noisy", 3.0, (Way(8, 2.0, 0.001), Way(6, 1.9, 0.5)))]  # fmt: skip
    choice = search(given, [], Fidelity(given), 0.99)[0]
    assert choice.bits == {"quiet": 6, "slow": 8, "noisy": 8}
    assert choice.saved == pytest.approx(2 + 2 + 1)


@pytest.mark.parametrize(
    ("integer", "crossed"),
    [("", (0, 0, 0, 0)), ("m", (0, 1, 0, 0)), ("mn", (1, 1, 0, 0)), ("r", (1, 1, 1, 1)), ("nr", (1, 1, 1, 1)),
     ("mr", (1, 1, 1, 1)), ("mnr", (1, 1, 0, 1)), ("mnrs", (0, 0, 0, 1))],
)  # fmt: skip
def test_tensors_are_converted_where_int8_and_float_meet(integer: str, crossed: tuple[int, ...]) -> None:
    """m (and n) make a tensor that r and s read; where integers flow both ways count, else only the one into int8."""
    entries = [crossing("mn", "rs", 1.0), crossing("m", "rs", 1.0), crossing("mn", "rs", 1.0, False),
               crossing("", "rs", 1.0)]  # fmt: skip
    assert tuple(int(entry.crossed(dict.fromkeys(integer))) for entry in entries) == crossed


def test_neighbours_stay_together() -> None:
    """Layers in a row that gain less than a conversion pay only together: all are in int8, or none is."""
    given = [Cost(name, 1.0, (Way(8, 0.8, 0.01),)) for name in "abcd"]
    chain = [crossing("", "a", 0.3), *(crossing(*pair, 0.3) for pair in ("ab", "bc", "cd"))]
    assert set(cheapest(given, chain, 0.0)) == set("abcd")
    assert cheapest(given, chain, 13.0) == {}
    assert cheapest(given[:1], chain, 0.0) == {}
    # What would have to be converted back keeps its neighbour in int8, though it alone would not pay.
    given[2] = Cost("c", 1.0, (Way(8, 1.1, 0.0),))
    assert set(cheapest(given, chain, 0.0)) == set("abcd")
    given[2] = Cost("c", 1.0, (Way(8, 1.7, 0.0),))
    assert cheapest(given, chain, 0.0) == {}
    assert set(cheapest(given, chain[2:], 0.0)) == {"a"}
    assert set(cheapest(given, chain[3:], 0.0)) == set("ab")


def test_a_lonely_layer_does_not_pay_for_its_conversion() -> None:
    """A layer that gains less than its conversion costs is in float, and the saved time counts conversions."""
    given = costs(0.01, 0.01)
    entries = [crossing("", "a", 1.5), crossing("x", "b", 0.25, both_ways=False)]
    choice = search(given, entries, Fidelity(given), 0.9)[0]
    assert choice.bits == {"b": 8}
    assert choice.saved == pytest.approx(0.75)


@settings(max_examples=150, deadline=None)
@given(instances(), st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0, 1000.0]))
def test_the_cheapest_of_all_is_found(instance: tuple[list[Cost], list[Crossing]], price: float) -> None:
    """At any price and with any conversions, but for those that are not counted: back from integers of several."""
    given, crossings = instance
    least = min(priced(given, crossings, other, price) for other in assignments(given))
    uncounted = sum(e.milliseconds for e in crossings if e.both_ways and len(e.makers) > 1)
    assert priced(given, crossings, cheapest(given, crossings, price), price) <= least + uncounted + 1e-9


@settings(max_examples=60, deadline=None)
@given(instances(), st.floats(0, 1))
def test_every_choice_is_the_best_of_its_noise(instance: tuple[list[Cost], list[Crossing]], share: float) -> None:
    """Without conversions no other ways of the layers save more time with as little noise (Everett, 1963)."""
    given, _ = instance
    least = 1 - share * sum(cost.ways[0].noise for cost in given)
    for choice in search(given, [], Fidelity(given), least):
        rivals = [
            saved(given, [], other)
            for other in assignments(given)
            if sum(way.noise for way in other.values()) <= choice.noise + 1e-12
        ]
        assert choice.saved >= max(rivals) - 1e-9


@settings(max_examples=60, deadline=None)
@given(instances(), st.floats(0, 1))
def test_search_is_honest_and_quick(instance: tuple[list[Cost], list[Crossing]], share: float) -> None:
    """Fastest first, each with its own fidelity, noise and time; nothing is asked twice, and twice is the same."""
    given, crossings = instance
    fidelity, lines = Fidelity(given), list[str]()
    least = 1 - share * sum(cost.ways[0].noise for cost in given)
    found = search(given, crossings, fidelity, least, lines.append)
    assert search(given, crossings, Fidelity(given), least) == found
    assert len(set(fidelity.asked)) == len(fidelity.asked) == len(lines) <= 2 + STEPS
    assert [choice.saved for choice in found] == sorted((choice.saved for choice in found), reverse=True)
    assert all(choice.fidelity >= least for choice in found)
    for choice in found:
        ways = {cost.name: way for cost in given for way in cost.ways if choice.bits.get(cost.name) == way.bits}
        assert set(choice.bits) | set(choice.reasons) == {cost.name for cost in given}
        assert not set(choice.bits) & set(choice.reasons)
        assert choice.saved == pytest.approx(saved(given, crossings, ways), abs=1e-9)
        assert choice.saved >= -1e-9
        assert choice.noise == pytest.approx(sum(way.noise for way in ways.values()))
        assert choice.fidelity == Fidelity(given)(choice.bits)


def test_no_choice_is_slower_than_float() -> None:
    """Two layers gain less than it takes to convert back what they make together: float is tried in their place."""
    given, entries = costs(0.01, 0.02), [crossing("ab", "x", 3.0)]
    assert set(cheapest(given, entries, 0.0)) == {"a", "b"}
    found = search(given, entries, Fidelity(given), 0.9)
    assert [(len(choice.bits), choice.saved) for choice in found] == [(1, 1.0), (0, 0.0)]


def test_layers_go_back_where_it_costs_least() -> None:
    """Between two choices the layers at the end of a chain go first: around others conversions would be more.

    A step that loses more time than the quieter choice after it is left out.
    """
    given = [Cost(name, 2.0, (Way(8, 1.0, noise),)) for name, noise in zip("abcdef", (9, 9, 10, 9, 9, 9), strict=True)]
    chain = [crossing("", "a", 0.4), *(crossing(*pair, 0.4) for pair in ("ab", "bc", "cd", "de", "ef"))]
    asked = list[tuple[str, ...]]()

    def fidelity(bits: Mapping[str, int]) -> float:
        asked.append(tuple(bits))
        return -float(len(bits))

    search(given, chain, fidelity, 1.0)
    assert asked == [tuple("abcdef"[start:]) for start in range(7)]
    del asked[:]
    search(given, [crossing("", "abcdef", 4.5)], fidelity, 1.0)
    assert [len(choice) for choice in asked] == [6, 5, 0]


def test_a_budget_is_kept_in_spite_of_conversions() -> None:
    """Layers whose conversions cost more than they lose together in int8 still go back for their noise."""
    given = [Cost(name, 1.0, (Way(8, 0.9, 0.1),)) for name in "abc"]
    chain = [crossing("", "a", 5.0), crossing("a", "b", 9.0), crossing("b", "c", 9.0)]
    for entries in (chain, chain[1:]):
        choice = search(given, entries, Fidelity(given), 0.95)[0]
        assert (choice.bits, choice.fidelity, choice.saved) == ({}, 1.0, 0.0)
    assert set(search(given, chain[1:], Fidelity(given), 0.65)[0].bits) == set("abc")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network."""
    return save_graph(tmp_path_factory.mktemp("search") / "small.onnx")


def images(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Its inputs."""
    return [{"image": normal(seed + i, 1, 3, 32, 24)} for i in range(count)]


@pytest.fixture(scope="module")
def plan(graph: Path) -> Plan:
    """Its plan."""
    return make_plan.make_plan(graph, images(8), "mse")


def single_noises(graph: Path, plan: Plan, batches: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """The noise of each layer that is rounded alone."""
    expected = run(GraphSession(graph), batches)
    alone = {name: simulate(graph, only(plan, [name]), SPEC) for name in LAYERS}
    return {name: noise(expected, run(session, batches)) for name, session in alone.items()}


def test_noises_of_single_layers_add_up(graph: Path, plan: Plan) -> None:
    """Their sum is about the noise of all layers rounded together, and none of them is all of it."""
    held_out = images(8, 100)
    single = single_noises(graph, plan, held_out)
    together = noise(run(GraphSession(graph), held_out), run(simulate(graph, plan, SPEC), held_out))
    assert list(single) == LAYERS
    assert 0.75 < sum(single.values()) / together < 1.35
    assert all(0 < power < 0.9 * together for power in single.values())


def test_noise_of_no_layer_is_none(graph: Path, plan: Plan) -> None:
    """With all layers in float the simulation is the network; a layer given back takes its noise with it."""
    batches = images(2, 100)
    expected = run(GraphSession(graph), batches)
    assert noise(expected, run(simulate(graph, only(plan, []), SPEC), batches)) < 1e-10
    single = single_noises(graph, plan, batches)
    worst = max(single, key=lambda name: single[name])
    less = noise(expected, run(simulate(graph, without(plan, {worst: "noisy"}), SPEC), batches))
    assert less < noise(expected, run(simulate(graph, plan, SPEC), batches))


def test_layers_are_left_out_by_name(graph: Path, plan: Plan) -> None:
    """`only` and `without` change those layers, with a reason, and no other."""
    assert integer_layers(graph, only(plan, ["three", "first"]), SPEC) == ["first", "three"]
    changed = without(plan, {"three": "noisy"})
    assert integer_layers(graph, changed, SPEC) == ["first", "depthwise", "pointwise", "last"]
    assert changed.layers["three"].reason == "noisy"
    assert {n: layer for n, layer in changed.layers.items() if n != "three"} == {
        n: layer for n, layer in plan.layers.items() if n != "three"
    }


def test_noise_is_a_share_of_the_power() -> None:
    """Its decibels are the mean over inputs, weak or strong, but for one without a signal, which does not count."""
    expected = [{"y": np.array([3.0, 4.0])}, {"y": np.array([400.0, 300.0])}, {"y": np.zeros(2)}]
    assert noise(expected, [{"y": values["y"] * 1.1} for values in expected]) == pytest.approx(0.01)
    assert noise(expected, [{"y": expected[0]["y"] * 2}, {"y": expected[1]["y"] * 1.01}, expected[2]]) == pytest.approx(
        0.01
    )
    assert noise(expected, expected) == pytest.approx(1e-12)
    assert noise(expected[2:], [{"y": np.array([0.5, 0.0])}]) == 0
    assert decibels(0.01) == pytest.approx(20)
    assert decibels(0) == pytest.approx(120)


def test_one_input_counts_for_no_more_than_another() -> None:
    """A layer that is half of the noise on one input, however loud, and nothing on the others adds a share of that.

    What the layers that run in int8 first add is the noise of them all; a further way of one has the same measure.
    """
    power = np.array([1.0, 1.0, 4.0, 1.0])
    changed = np.array([[5.0, 0, 0, 0], [5.0, 1e-4, 4e-4, 1e-4], [10.0, 2e-4, 0, 2e-4]])
    first, second, other = layer_noises(changed, power, [0, 1])
    assert first + second == pytest.approx((10 * 1e-12) ** 0.25)
    assert first / (first + second) == pytest.approx(0.5 / 4)
    assert other / (first + second) == pytest.approx((1 + 2 + 2) / 4)


def test_inputs_that_tell_nothing_do_not_count() -> None:
    """Neither where the network has no signal nor where no layer makes a difference; where all are so there is none."""
    changed = np.array([[1e-2, 0.0, 3.0], [3e-2, 0.0, 1.0]])
    assert layer_noises(changed, np.array([1.0, 1.0, 0.0]), [0, 1]) == pytest.approx([1e-2, 3e-2])
    assert layer_noises(changed, np.zeros(3), [0, 1]).tolist() == [0, 0]
