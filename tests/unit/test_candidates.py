"""Assignments at rising prices, and the choices among them that are worth building."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandglass.search.candidates import SPARES, STEPS, Choice, assignments, choice_of, worth_building
from sandglass.search.costs import Assignment, Boundary, Conversion, CostModel, LayerCost, LayerVariant
from sandglass.search.min_cut import cheapest


def costs(*noises: float) -> list[LayerCost]:
    """Layers a, b, c.. with these noises, each twice as fast in int8."""
    return [layer(chr(97 + i), 2.0, (8, 1.0, noise)) for i, noise in enumerate(noises)]


def layer(name: str, float_ms: float, *variants: tuple[int, float, float]) -> LayerCost:
    """A layer with the bits, milliseconds and noise of its variants."""
    return LayerCost(name, float_ms, tuple(LayerVariant(*variant) for variant in variants))


def conversion(makers: str, readers: str, milliseconds: float, both_ways: bool = True) -> Conversion:
    """Of a tensor between layers, which are named by one letter each."""
    return Conversion(Boundary(frozenset(makers), frozenset(readers), both_ways), milliseconds)


def network(layers: Iterable[LayerCost], conversions: Iterable[Conversion] = ()) -> CostModel:
    """A cost model; the time of the whole network does not matter here."""
    return CostModel(tuple(layers), tuple(conversions), 100.0)


def noise(assignment: Mapping[str, LayerVariant]) -> float:
    """The sum over layers."""
    return sum(variant.noise for variant in assignment.values())


def scored(model: CostModel) -> Iterator[Choice]:
    """The choices at rising prices, each with a fidelity of 1 less its noise."""
    return (choice_of(model, entry, 1 - noise(entry)) for entry in assignments(model))


def search(model: CostModel, min_fidelity: float) -> list[Choice]:
    """All choices that are worth building, for a caller that no choice satisfies."""
    return list(worth_building(scored(model), min_fidelity))


def choices(*fidelities: float) -> list[Choice]:
    """Choices with these fidelities, each 1 ms slower than the one before it."""
    return [Choice({"x": i}, {}, fidelity, 0.0, 10.0 - i) for i, fidelity in enumerate(fidelities)]


def every_assignment(layers: Sequence[LayerCost]) -> Iterator[Assignment]:
    """Every way to run the layers."""
    for variants in itertools.product(*((None, *entry.variants) for entry in layers)):
        yield {entry.name: variant for entry, variant in zip(layers, variants, strict=True) if variant is not None}


def priced(model: CostModel, assignment: Assignment, price: float) -> float:
    """What `cheapest` makes small: milliseconds and the price of the noise, over all layers in float."""
    return price * noise(assignment) - model.saved_ms(assignment)


NUMBERS = st.integers(1, 1000).map(lambda value: value / 100)


@st.composite
def models(draw: st.DrawFn) -> CostModel:
    """Up to six layers with one or two variants each, and tensors between any of them."""
    names = "abcdef"[: draw(st.integers(0, 6))]
    layers = [
        layer(name, draw(NUMBERS), *((bits, draw(NUMBERS), draw(NUMBERS) / 1e3)
                                     for bits in (8, 6)[: draw(st.integers(1, 2))]))
        for name in names
    ]  # fmt: skip
    some = st.frozensets(st.sampled_from(names), max_size=3) if names else st.just(frozenset())
    conversions = st.builds(Conversion, st.builds(Boundary, some, some, st.booleans()), NUMBERS)
    return network(layers, draw(st.lists(conversions, max_size=5)))


def test_all_in_int8_within_the_budget() -> None:
    """Full int8 has enough fidelity: it is the first choice; spares are slower."""
    choice, *spares = search(network(costs(0.01, 0.02, 0.03)), 0.93)
    assert (choice.bits, choice.reasons) == ({"a": 8, "b": 8, "c": 8}, {})
    assert (choice.fidelity, choice.noise, choice.saved_ms) == pytest.approx((0.94, 0.06, 3.0))
    assert all(spare.saved_ms < choice.saved_ms for spare in spares)


def test_noisiest_layers_go_back_to_float_and_no_more() -> None:
    """The fewest, each with its reason; fidelity, noise and time are those of the choice."""
    choice = search(network(costs(0.01, 0.08, 0.02, 0.04)), 0.96)[0]
    assert choice.reasons == {
        "b": "int8 saves 1.000 ms, but its noise is 8.0e-02 of the outputs' power",
        "d": "int8 saves 1.000 ms, but its noise is 4.0e-02 of the outputs' power",
    }
    assert choice.bits == {"a": 8, "c": 8}
    assert (choice.fidelity, choice.noise, choice.saved_ms) == pytest.approx((0.97, 0.03, 2.0))


def test_noise_counts_for_the_time_that_it_buys() -> None:
    """Of two layers with the same noise the one that gains less goes back to float."""
    layers = [layer("fast", 10.0, (8, 1.0, 0.02)), layer("slow", 2.0, (8, 1.0, 0.02))]
    assert search(network(layers), 0.97)[0].bits == {"fast": 8}
    assert search(network(layers[::-1]), 0.97)[0].bits == {"fast": 8}


def test_layers_without_gain_are_in_float() -> None:
    """A layer that int8 makes no faster is in float though fidelity is high, and though its noise is least."""
    idle = [layer("idle", 1.0, (8, 1.2, 1e-9)), layer("same", 1.0, (8, 1.0, 1e-9))]
    model = network([*costs(0.01, 0.02), *idle])
    choice = search(model, 0.5)[0]
    assert choice.bits == {"a": 8, "b": 8}
    assert choice.reasons == {
        "idle": "int8 is not faster: 1.200 ms, float 1.000 ms",
        "same": "int8 is not faster: 1.000 ms, float 1.000 ms",
    }
    assert set(search(model, 0.985)[0].reasons) == {"idle", "same", "b"}
    assert not any({"idle", "same"} & entry.keys() for entry in assignments(model))


def test_best_is_returned_when_nothing_suffices() -> None:
    """A fidelity that no choice reaches: the first one with the highest, alone."""
    entries = choices(0.5, 0.8, 0.7, 0.8)
    assert list(worth_building(entries, 0.99)) == [entries[1]]


def test_no_choices() -> None:
    assert list(worth_building([], 0.5)) == []


def test_fidelity_that_is_just_reached_suffices() -> None:
    model = network(costs(0.1, 0.2, 0.3, 0.4))
    for count in range(5):
        entries = (choice_of(model, entry, 1 - len(entry) / 4) for entry in assignments(model))
        assert set(next(worth_building(entries, 1 - count / 4)).bits) == set("abcd"[:count])


def test_choices_that_fall_short_by_little_are_built_as_well() -> None:
    """With a tolerance choices that nearly suffice come too, the fastest first, and do not count as sufficient."""
    entries = choices(0.0, 0.25, 0.5, 0.75, 1.0)
    assert list(worth_building(entries, 0.75, tolerance=0.3)) == entries[2:]


def test_a_caller_gets_quieter_choices_in_larger_steps() -> None:
    """The first five choices, fastest first, then one, two, four choices further, and the quietest."""
    entries = choices(*[1.0] * 20)
    read = list[Choice]()

    def reading() -> Iterator[Choice]:
        for entry in entries:
            read.append(entry)
            yield entry

    results = worth_building(reading(), 0.5)
    assert [next(results) for _ in range(SPARES + 1)] == read  # no more are simulated than asked for
    assert list(results) == [entries[SPARES + step] for step in (1, 2, 4, 8)] + [entries[-1]]


def test_fastest_of_the_first_choices_comes_first() -> None:
    """Also where it is not the first one."""
    entries = [
        replace(entry, saved_ms=saved) for entry, saved in zip(choices(*[1.0] * 3), (1.0, 3.0, 2.0), strict=True)
    ]
    assert [choice.saved_ms for choice in worth_building(entries, 0.5)] == [3.0, 2.0, 1.0]


def test_assignments_begin_with_the_fastest_and_end_with_float() -> None:
    entries = list(assignments(network(costs(*(0.001 * (i + 1) for i in range(20))))))
    counts = [len(entry) for entry in entries]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (20, 0)


def test_layers_that_go_at_one_price_go_one_by_one() -> None:
    """Ten layers alike are all in int8 at one price and none at the next; as many stay as the fidelity allows."""
    model = network(layer(name, 2.0, (8, 1.0, 0.01)) for name in "abcdefghij")
    assert [len(cheapest(model, price)) for price in (99.0, 101.0)] == [10, 0]
    assert search(model, 0.965)[0].bits == dict.fromkeys("abc", 8)
    assert len(list(assignments(model))) <= 11


def test_an_assignment_that_is_best_at_few_prices_is_found() -> None:
    """Two layers that save much go back at prices 20 % apart, among fifty over six decades: one may stay."""
    noises = {"loud": 0.01, "louder": 0.012}
    layers = [layer(name, 2.0, (8, 1.0, noise)) for name, noise in noises.items()]
    layers += [layer(f"{i}", 0.02, (8, 0.01, 1e-8)) for i in range(48)]
    choice = search(network(layers), 0.985)[0]
    assert set(choice.bits) == {entry.name for entry in layers} - {"louder"}


def test_assignments_that_save_nothing_are_left_out() -> None:
    """Fewer layers that do not pay for their conversion are not even simulated."""
    model = network((layer(name, 2.0, (8, 1.0, 0.01)) for name in "abcdefghij"), [conversion("", "abcdefghij", 3.5)])
    assert len(search(model, 0.955)[0].bits) == 4
    assert all(len(entry) >= 4 for entry in assignments(model) if entry)
    assert search(model, 0.975)[0].bits == {}


def test_nothing_to_search() -> None:
    """No layers, or only some without gain: all in float is the only assignment."""
    assert list(assignments(network([]))) == [{}]
    assert list(assignments(network([layer("a", 1.0, (8, 1.0, 0.1))]))) == [{}]


def test_faster_variant_is_chosen_where_it_is_quiet() -> None:
    """Of two numbers of bits the fast one at a low price, the quiet one at a higher, float at the highest."""
    model = network([layer("a", 3.0, (8, 2.0, 0.01), (6, 1.0, 0.05))])
    chosen = [cheapest(model, price) for price in (0.0, 20.0, 40.0, 90.0, 110.0)]
    assert [entry["a"].bits if entry else None for entry in chosen] == [6, 6, 8, 8, None]
    for least, bits in ((0.94, {"a": 6}), (0.98, {"a": 8}), (0.995, {})):
        assert search(model, least)[0].bits == bits


def test_each_layer_has_its_own_variant() -> None:
    """6 bits where they are faster and quiet enough, 8 where they are not, together in one choice."""
    layers = [
        layer("quiet", 3.0, (8, 2.0, 0.001), (6, 1.0, 0.004)),
        layer("slow", 3.0, (8, 1.0, 0.001), (6, 1.5, 0.001)),
        layer("noisy", 3.0, (8, 2.0, 0.001), (6, 1.9, 0.5)),
    ]
    choice = search(network(layers), 0.99)[0]
    assert choice.bits == {"quiet": 6, "slow": 8, "noisy": 8}
    assert choice.saved_ms == pytest.approx(2 + 2 + 1)


@pytest.mark.parametrize(
    ("integer", "crossed"),
    [("", (0, 0, 0, 0)), ("m", (0, 1, 0, 0)), ("mn", (1, 1, 0, 0)), ("r", (1, 1, 1, 1)), ("nr", (1, 1, 1, 1)),
     ("mr", (1, 1, 1, 1)), ("mnr", (1, 1, 0, 1)), ("mnrs", (0, 0, 0, 1))],
)  # fmt: skip
def test_tensors_are_converted_where_int8_and_float_meet(integer: str, crossed: tuple[int, ...]) -> None:
    """m (and n) make a tensor that r and s read; where integers flow both ways count, else only the one into int8."""
    entries = [conversion("mn", "rs", 1.0), conversion("m", "rs", 1.0), conversion("mn", "rs", 1.0, False),
               conversion("", "rs", 1.0)]  # fmt: skip
    assert tuple(int(entry.boundary.is_crossed(integer)) for entry in entries) == crossed


def test_neighbours_stay_together() -> None:
    """Layers in a row that gain less than a conversion pay only together: all are in int8, or none is."""
    layers = [layer(name, 1.0, (8, 0.8, 0.01)) for name in "abcd"]
    chain = [conversion("", "a", 0.3), *(conversion(*pair, 0.3) for pair in ("ab", "bc", "cd"))]
    assert set(cheapest(network(layers, chain), 0.0)) == set("abcd")
    assert cheapest(network(layers, chain), 13.0) == {}
    assert cheapest(network(layers[:1], chain), 0.0) == {}
    # A layer that would have to be converted back keeps its neighbour in int8, though it alone would not pay.
    layers[2] = layer("c", 1.0, (8, 1.1, 0.0))
    assert set(cheapest(network(layers, chain), 0.0)) == set("abcd")
    layers[2] = layer("c", 1.0, (8, 1.7, 0.0))
    assert cheapest(network(layers, chain), 0.0) == {}
    assert set(cheapest(network(layers, chain[2:]), 0.0)) == {"a"}
    assert set(cheapest(network(layers, chain[3:]), 0.0)) == set("ab")


def test_a_layer_that_does_not_pay_for_its_conversion_is_in_float() -> None:
    """A layer that gains less than its conversion costs is in float, and the saved time counts conversions."""
    model = network(costs(0.01, 0.01), [conversion("", "a", 1.5), conversion("x", "b", 0.25, both_ways=False)])
    choice = search(model, 0.9)[0]
    assert choice.bits == {"b": 8}
    assert choice.saved_ms == pytest.approx(0.75)


@settings(max_examples=150, deadline=None)
@given(models(), st.sampled_from([0.0, 0.1, 1.0, 10.0, 100.0, 1000.0]))
def test_the_cheapest_of_all_is_found(model: CostModel, price: float) -> None:
    """At any price and with any conversions, except those that are not counted: back from integers of several."""
    least = min(priced(model, other, price) for other in every_assignment(model.layers))
    uncounted = sum(
        entry.milliseconds for entry in model.conversions if entry.boundary.both_ways and len(entry.boundary.makers) > 1
    )
    assert priced(model, cheapest(model, price), price) <= least + uncounted + 1e-9


@settings(max_examples=60, deadline=None)
@given(models())
def test_every_assignment_is_the_best_of_its_noise(model: CostModel) -> None:
    """Without conversions no other assignment saves more time with as little noise (Everett, 1963)."""
    model = network(model.layers)
    for entry in assignments(model):
        rivals = [
            model.saved_ms(other) for other in every_assignment(model.layers) if noise(other) <= noise(entry) + 1e-12
        ]
        assert model.saved_ms(entry) >= max(rivals) - 1e-9


@settings(max_examples=60, deadline=None)
@given(models())
def test_assignments_differ_and_are_few(model: CostModel) -> None:
    """No assignment comes twice, twice is the same, and none is slower than all layers in float."""
    entries = list(assignments(model))
    assert entries == list(assignments(model))
    bits = {tuple((name, variant.bits) for name, variant in entry.items()) for entry in entries}
    assert len(bits) == len(entries) <= 2 + STEPS
    assert all(model.saved_ms(entry) >= 0 for entry in entries)


@settings(max_examples=60, deadline=None)
@given(models(), st.floats(0, 1))
def test_choices_hold_what_their_assignments_add_up_to(model: CostModel, share: float) -> None:
    """Fastest first, each with its own fidelity, noise and time, and a reason for every layer in float."""
    least = 1 - share * sum(entry.variants[0].noise for entry in model.layers)
    results = search(model, least)
    saved = [choice.saved_ms for choice in results]
    assert saved[: SPARES + 1] == sorted(saved[: SPARES + 1], reverse=True)
    assert all(choice.fidelity >= least for choice in results)
    for choice in results:
        assignment = model.assignment(choice.bits)
        assert set(choice.bits) | set(choice.reasons) == {entry.name for entry in model.layers}
        assert not set(choice.bits) & set(choice.reasons)
        assert choice.saved_ms == pytest.approx(model.saved_ms(assignment), abs=1e-9)
        assert choice.noise == pytest.approx(noise(assignment))


def test_no_assignment_is_slower_than_float() -> None:
    """Two layers gain less than it takes to convert back what they make together: float is tried in their place."""
    model = network(costs(0.01, 0.02), [conversion("ab", "x", 3.0)])
    assert set(cheapest(model, 0.0)) == {"a", "b"}
    assert [(len(entry), model.saved_ms(entry)) for entry in assignments(model)] == [(0, 0.0), (1, 1.0)]


def test_layers_go_back_where_it_costs_least() -> None:
    """Between two assignments the layers at the end of a chain go first: around others conversions would be more.

    A step that loses more time than the quieter assignment after it is left out.
    """
    layers = [layer(name, 2.0, (8, 1.0, noise)) for name, noise in zip("abcdef", (9, 9, 10, 9, 9, 9), strict=True)]
    chain = [conversion("", "a", 0.4), *(conversion(*pair, 0.4) for pair in ("ab", "bc", "cd", "de", "ef"))]
    assert [tuple(entry) for entry in assignments(network(layers, chain))] == [
        tuple("abcdef"[start:]) for start in range(7)
    ]
    assert [len(entry) for entry in assignments(network(layers, [conversion("", "abcdef", 4.5)]))] == [6, 5, 0]


def test_a_budget_is_kept_in_spite_of_conversions() -> None:
    """Layers whose conversions cost more than they lose together in int8 still go back for their noise."""
    layers = [layer(name, 1.0, (8, 0.9, 0.1)) for name in "abc"]
    chain = [conversion("", "a", 5.0), conversion("a", "b", 9.0), conversion("b", "c", 9.0)]
    for entries in (chain, chain[1:]):
        choice = search(network(layers, entries), 0.95)[0]
        assert (choice.bits, choice.fidelity, choice.saved_ms) == ({}, 1.0, 0.0)
    assert set(search(network(layers, chain[1:]), 0.65)[0].bits) == set("abc")


def test_share_and_work_of_layers() -> None:
    """By work int8 is twice as fast, whatever was timed; a bonus makes float slower by a share of the average."""
    layers = [replace(entry, macs=macs) for entry, macs in zip(costs(0.01, 0.02), (30, 10), strict=True)]
    model = network(layers, [conversion("", "a", 0.5)])
    assert model.share({"a": 8}) == 0.75
    by_work = model.by_work()
    assert [(entry.float_ms, entry.variants[0].milliseconds) for entry in by_work.layers] == [(75, 37.5), (25, 12.5)]
    assert (by_work.conversions, by_work.float_ms) == ((), 100.0)
    assert [entry.float_ms for entry in model.with_bonus(0.1).layers] == [2 + 7.5, 2 + 2.5]
