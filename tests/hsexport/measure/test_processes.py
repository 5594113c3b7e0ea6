"""A function that another process answers."""

import os
import signal
import warnings
from contextlib import contextmanager

import pytest

from hsengines.errors import HSError
from hsexport.measure.processes import ProcessEnded, answering


@contextmanager
def opened(number):
    """Adds to `number`, or does what is asked of it by name."""
    if number < 0:
        raise HSError("too few", "give more")

    def answer(asked):
        if asked == "raise":
            raise HSError("refused", "ask again")
        if asked == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            return "still here"
        if asked == "die":
            os._exit(3)
        if asked == "warn":
            warnings.warn("look out", UserWarning, stacklevel=1)
            return os.getpid()
        return number + asked

    yield answer


def test_a_process_answers_raises_and_warns_until_it_is_gone():
    with answering("a thing", opened, 2) as ask:
        assert [ask(1), ask(40)] == [3, 42]
        with pytest.raises(HSError, match="refused; ask again"):
            ask("raise")
        with pytest.warns(UserWarning, match="look out"):
            assert ask("warn") != os.getpid()
        assert ask("interrupt") == "still here"
        with pytest.raises(ProcessEnded, match="the process that opened a thing has ended"):
            ask("die")


def test_what_opening_raises_is_raised_here():
    with pytest.raises(HSError, match="too few; give more"), answering("a thing", opened, -1):
        pass
