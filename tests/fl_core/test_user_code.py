"""What the user's own code raises, and what passes through it."""

from __future__ import annotations

import pytest

from fl_core.errors import PlugInError, UserCodeError
from fl_core.experiment.schema import PlugIn
from fl_core.user_code import in_code_of, in_user_code


def test_our_own_errors_pass_as_they_are() -> None:
    """in_user_code makes UserCodeErrors of foreign exceptions only, with the client they concern."""
    with pytest.raises(PlugInError, match="as it is"), in_user_code(3):
        raise PlugInError("as it is")
    with pytest.raises(UserCodeError, match=r"ValueError: hers \(client 3\)"), in_user_code(3):
        raise ValueError("hers")


def test_our_own_plug_ins_raise_what_they_raise() -> None:
    """in_code_of makes UserCodeErrors of what a file of hers raises; an error of ours keeps its type."""
    with pytest.raises(UserCodeError, match="KeyError: 'a'"), in_code_of(PlugIn("hers.py")):
        raise KeyError("a")
    with pytest.raises(KeyError), in_code_of(PlugIn("ours")):
        raise KeyError("a")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, GeneratorExit])
def test_an_interrupt_passes(stop: type[BaseException]) -> None:
    """Ctrl-C in her code ends the program; it is no mistake of hers."""
    with pytest.raises(stop), in_user_code():
        raise stop
