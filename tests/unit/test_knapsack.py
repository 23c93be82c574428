"""The choice that loses least within a budget: by hand, against every choice, and quickly for hundreds of layers."""

import itertools
import random
import time

import pytest

from compressors.quantize.knapsack import Options, least_loss, steps_of


def lost(choice: list[int], options: list[Options]) -> float:
    return sum(own[number][1] for own, number in zip(options, choice, strict=True))


def spent(choice: list[int], options: list[Options]) -> float:
    return sum(own[number][0] for own, number in zip(options, choice, strict=True))


def drawn(generator: random.Random, layers: int, widths: int) -> list[Options]:
    """Costs that rise, and losses that fall but for some that were measured a little higher."""
    found: list[Options] = []
    for _ in range(layers):
        cost, loss, own = 0, 10 * generator.random(), list[tuple[float, float]]()
        for _ in range(widths):
            own.append((cost, loss))
            cost, loss = cost + generator.randint(1, 100), loss * 1.2 * generator.random()
        found.append(own)
    return found


def test_a_large_gain_goes_before_a_small_one_that_costs_less_for_it() -> None:
    # In the order of gains for each unit, the small one is first, and the large one no longer fits.
    small, large = [(0, 1.1), (1, 0.0)], [(0, 10.0), (10, 0.0)]
    assert [step.layer for step in steps_of([small, large])] == [0, 1]
    assert least_loss([small, large], 10) == [0, 1]
    assert least_loss([small, large], 11) == [1, 1]
    assert least_loss([small, large], 13, spent=2) == [1, 1]
    assert least_loss([small, large], 9) == [1, 0]


def test_steps_are_corners_of_the_hull() -> None:
    # The second option gains 1 for each unit, the third 2, from the first: the second is none.
    own = [(0, 10.0), (2, 8.0), (4, 2.0), (8, 0.0)]
    assert [(step.option, step.cost, step.gain) for step in steps_of([own])] == [(2, 4, 8.0), (3, 4, 2.0)]
    # It is taken all the same where there is room for nothing more.
    assert least_loss([own], 3) == [1]


def test_what_costs_nothing_is_taken_and_pays_for_others() -> None:
    cheaper, dear, useless = [(0.0, 1.0), (-2.0, 0.0)], [(0.0, 5.0), (2.0, 0.0)], [(0.0, 0.0), (1.0, 0.0)]
    assert least_loss([cheaper, dear, useless], 0.5) == [1, 1, 0]
    # What gains nothing is taken while there is room.
    assert least_loss([cheaper, dear, useless], 1.0) == [1, 1, 1]
    assert least_loss([], 1.0) == []


@pytest.mark.parametrize("layers, widths", [(8, 2), (6, 3)])
def test_no_choice_loses_less(layers: int, widths: int) -> None:
    generator = random.Random(layers)
    beaten = 0
    for _ in range(100):
        options = drawn(generator, layers, widths)
        most = generator.randint(0, int(sum(own[-1][0] for own in options)))
        found = least_loss(options, most)
        every = (list(choice) for choice in itertools.product(range(widths), repeat=layers))
        assert spent(found, options) <= most
        assert lost(found, options) == pytest.approx(
            min(lost(choice, options) for choice in every if spent(choice, options) <= most)
        )
        # Taking each step that fits, in their order, is often not the best.
        greedy = [0] * layers
        for step in steps_of(options):
            after = [step.option if layer == step.layer else number for layer, number in enumerate(greedy)]
            greedy = after if spent(after, options) <= most else greedy
        beaten += lost(found, options) < lost(greedy, options) - 1e-9
    assert beaten > 10


def test_hundreds_of_layers_take_seconds() -> None:
    options = drawn(random.Random(0), 300, 3)
    began = time.process_time()
    found = least_loss(options, 0.4 * sum(own[-1][0] for own in options))
    assert time.process_time() - began < 30
    assert spent(found, options) <= 0.4 * sum(own[-1][0] for own in options)
