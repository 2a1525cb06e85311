"""A worker that is counted on for a memory it has not kept says so, and computes nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fl_core.execution import wire
from protocol import messages

pytestmark = [pytest.mark.net, pytest.mark.timeout(60)]


async def test_what_is_not_kept_is_said(serve: Any) -> None:
    """The task comes back at once, and the next one is run."""
    async with serve(1) as master:
        await master.setup()
        await master.broadcast(1)
        task, buffers = wire.task_message("r", master.work(1, 0), 1)
        await master.link.send(msgspec.structs.replace(task, held=[(0, 4)]), buffers)
        answer = await master.receive()
        assert isinstance(answer, messages.Failure)
        assert (answer.report.kind, answer.task, answer.attempt) == ("lacking", 0, 1)
        await master.task(1, 0, 2)
        answer = await master.receive()
        assert isinstance(answer, messages.Result)
        assert (answer.task, answer.attempt) == (0, 2)
