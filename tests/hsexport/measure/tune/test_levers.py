"""How many steps have an error, between those that were measured."""

import pytest

from hsexport.measure.tune.levers import steps_at

ERRORS = {4: 8.0, 8: 4.0, 16: 2.0}


@pytest.mark.parametrize(
    ("wanted", "steps"), [(8, 4), (4, 8), (2, 16), (6, 32**0.5), (1, 28), (9, 4)], ids=lambda value: f"{value:.3g}"
)
def test_steps_lie_between_those_that_enclose_the_error(wanted, steps):
    assert steps_at(wanted, ERRORS, 28) == pytest.approx(steps)
