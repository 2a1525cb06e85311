"""The dispatcher: each row of its table, and random histories that must keep its promises."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from master.dispatch_vocabulary import (
    Accept,
    Assign,
    Cancel,
    Command,
    CreditChanged,
    Discard,
    DispatchPaused,
    DispatchResumed,
    Event,
    ExecutorDraining,
    ExecutorJoined,
    ExecutorLost,
    Fail,
    Poisoned,
    ResultReceived,
    RoundAborted,
    RoundComplete,
    RoundOpened,
    TaskFailed,
    TaskId,
    TaskReturned,
    TaskSkipped,
    Tick,
    Waiting,
)
from master.dispatcher import Dispatcher


def tasks(count: int, round_number: int = 1, run: str = "r") -> tuple[TaskId, ...]:
    """The tasks of one round."""
    return tuple(TaskId(run, round_number, cohort) for cohort in range(count))


def opened(count: int, round_number: int = 1, run: str = "r") -> RoundOpened:
    """The event that opens a round of `count` tasks."""
    return RoundOpened(run, round_number, tasks(count, round_number, run))


def dispatcher_with(**slots: int) -> Dispatcher:
    """One executor a name, without prefetch."""
    dispatcher = Dispatcher()
    for name, count in slots.items():
        assert dispatcher.handle(ExecutorJoined(name, count, count)) == []
    return dispatcher


def test_tasks_go_round_robin_to_free_slots_and_then_to_prefetch() -> None:
    """Slots fill in turn; only when none is free does a remote executor get its prefetch."""
    dispatcher = Dispatcher()
    dispatcher.handle(ExecutorJoined("local", 2, 2))
    dispatcher.handle(ExecutorJoined("remote", 1, 2))
    commands = dispatcher.handle(opened(6))
    t = tasks(6)
    assert commands == [
        Assign("local", t[0], 1),
        Assign("remote", t[1], 1),
        Assign("local", t[2], 1),
        Assign("remote", t[3], 1),
    ]
    assert dispatcher.queued == 2


def test_a_freed_credit_takes_the_next_task_and_the_last_result_ends_the_round() -> None:
    """A result is accepted, its credit is used at once, and the round ends with the last one."""
    dispatcher = dispatcher_with(a=1)
    first, second = tasks(2)
    assert dispatcher.handle(opened(2)) == [Assign("a", first, 1)]
    assert dispatcher.handle(ResultReceived("a", first, 1)) == [Accept("a", first, 1), Assign("a", second, 1)]
    assert dispatcher.handle(ResultReceived("a", second, 1)) == [
        Accept("a", second, 1),
        RoundComplete("r", 1, accepted=2, skipped=0, discarded=0, retried=0, copied=0),
    ]


def test_tasks_of_a_lost_executor_run_first_and_in_order_with_the_next_attempt() -> None:
    """What was lost goes before what waited; its late result is discarded and counted."""
    dispatcher = dispatcher_with(a=2)
    t = tasks(3)
    dispatcher.handle(opened(3))
    assert dispatcher.handle(ExecutorLost("a")) == [Waiting(3)]
    assert dispatcher.handle(ExecutorJoined("a2", 3, 3)) == [
        Assign("a2", t[0], 2),
        Assign("a2", t[1], 2),
        Assign("a2", t[2], 1),
    ]
    assert dispatcher.handle(ResultReceived("a", t[0], 1)) == [Discard("a", t[0], 1)]
    assert dispatcher.handle(ResultReceived("a2", t[0], 1)) == [Discard("a2", t[0], 1)]
    for task, attempt in zip(t, (2, 2, 1), strict=True):
        last = dispatcher.handle(ResultReceived("a2", task, attempt))
    assert last[-1] == RoundComplete("r", 1, accepted=3, skipped=0, discarded=2, retried=2, copied=0)
    assert dispatcher.handle(ResultReceived("a2", t[0], 2)) == [Discard("a2", t[0], 2)]
    assert dispatcher.discarded == 3


def test_a_task_that_loses_three_executors_is_poison() -> None:
    """The third loss names the executors and stops trying; a skip lets the round end."""
    dispatcher = Dispatcher()
    (task,) = tasks(1)
    dispatcher.handle(opened(1))
    assert dispatcher.handle(ExecutorJoined("w1", 1, 1)) == [Assign("w1", task, 1)]
    assert dispatcher.handle(ExecutorLost("w1")) == [Waiting(1)]
    assert dispatcher.handle(ExecutorJoined("w2", 1, 1)) == [Assign("w2", task, 2)]
    assert dispatcher.handle(ExecutorLost("w2")) == []
    assert dispatcher.handle(Tick(1.0)) == []
    assert dispatcher.handle(Tick(2.0)) == [Waiting(1)]
    assert dispatcher.handle(ExecutorJoined("w3", 1, 1)) == [Assign("w3", task, 3)]
    assert dispatcher.handle(ExecutorLost("w3")) == [Poisoned(task, ("w1", "w2", "w3"))]
    assert dispatcher.handle(ExecutorJoined("w4", 1, 1)) == []
    assert dispatcher.handle(TaskSkipped(task)) == [
        RoundComplete("r", 1, accepted=0, skipped=1, discarded=0, retried=2, copied=0)
    ]


def test_a_task_is_no_poison_because_all_machines_go_down_at_once() -> None:
    """Their losses are noticed one after the other: it moves on once, then rests until two ticks have passed."""
    dispatcher = dispatcher_with(a=1, b=1, c=1, d=1)
    (task,) = tasks(1)
    assert dispatcher.handle(opened(1)) == [Assign("a", task, 1)]
    assert dispatcher.handle(ExecutorLost("a")) == [Assign("b", task, 2)]
    for name in "bcd":
        assert dispatcher.handle(ExecutorLost(name)) == []
    assert dispatcher.resting == 1
    assert dispatcher.handle(Tick(1.0)) == []
    assert dispatcher.handle(ExecutorJoined("a2", 1, 1)) == []
    assert dispatcher.handle(Tick(2.0)) == [Assign("a2", task, 3)]
    assert dispatcher.handle(ResultReceived("a2", task, 3))[0] == Accept("a2", task, 3)


def test_a_round_that_is_given_up_takes_its_resting_tasks_along() -> None:
    """They are not handed out later."""
    dispatcher = dispatcher_with(a=1, b=1)
    dispatcher.handle(opened(1))
    dispatcher.handle(ExecutorLost("a"))
    dispatcher.handle(ExecutorLost("b"))
    dispatcher.handle(RoundAborted("r", 1))
    assert dispatcher.resting == 0
    assert dispatcher.handle(ExecutorJoined("c", 1, 1)) == []
    assert dispatcher.handle(Tick(9.0)) == []


def test_a_prefetched_task_is_not_blamed_for_a_loss() -> None:
    """Only the oldest `slots` tasks ran, so a task behind them survives any number of losses."""
    dispatcher = Dispatcher()
    killer, bystander = tasks(2)
    dispatcher.handle(opened(2))
    for number in (1, 2, 3):
        dispatcher.handle(Tick(10.0 * number))
        dispatcher.handle(Tick(10.0 * number + 1))
        dispatcher.handle(ExecutorJoined(f"w{number}", 1, 2))
        said = dispatcher.handle(ExecutorLost(f"w{number}"))
    assert said == [Poisoned(killer, ("w1", "w2", "w3")), Waiting(1)]
    assert dispatcher.handle(ExecutorJoined("w4", 1, 2)) == [Assign("w4", bystander, 4)]


def test_a_user_error_is_never_retried() -> None:
    """Fail carries the report once; the task goes nowhere until the round is aborted."""
    dispatcher = dispatcher_with(a=1, b=1)
    first, second = tasks(2)
    dispatcher.handle(opened(2))
    assert dispatcher.handle(TaskFailed("a", first, 1, "my.py:3")) == [Fail("a", first, "my.py:3")]
    assert dispatcher.handle(RoundAborted("r", 1)) == [Cancel("b", second, 1)]
    assert dispatcher.handle(RoundAborted("r", 1)) == []
    assert dispatcher.handle(ResultReceived("b", second, 1)) == [Discard("b", second, 1)]


def test_credit_that_grows_is_used_at_once_and_credit_that_shrinks_takes_nothing_back() -> None:
    """Of one who runs short tasks more are held; what it holds already it keeps, and it always may use its slots."""
    dispatcher = dispatcher_with(a=1)
    assert len(dispatcher.handle(opened(8))) == 1
    assert dispatcher.handle(CreditChanged("a", 5)) == [Assign("a", task, 1) for task in tasks(8)[1:5]]
    assert dispatcher.handle(CreditChanged("a", 0)) == []
    assert dispatcher.held("a") == 5
    for number, task in enumerate(tasks(8)[:5]):
        handed = [c for c in dispatcher.handle(ResultReceived("a", task, 1)) if isinstance(c, Assign)]
        assert len(handed) == (number == 4)
    assert dispatcher.handle(CreditChanged("nobody", 3)) == []


def test_an_abort_frees_only_its_own_run_and_credit_waits_for_the_answer() -> None:
    """Two runs share one executor: the cancelled task holds its credit until the executor lets go."""
    dispatcher = dispatcher_with(a=1)
    dispatcher.handle(opened(2, run="x"))
    assert dispatcher.handle(opened(1, run="y")) == []
    assert dispatcher.handle(RoundAborted("x", 1)) == [Cancel("a", TaskId("x", 1, 0), 1)]
    assert dispatcher.queued == 1
    assert dispatcher.handle(TaskReturned("a", TaskId("x", 1, 0), 1)) == [Assign("a", TaskId("y", 1, 0), 1)]


def test_a_draining_executor_hands_back_and_gets_nothing() -> None:
    """What it returns goes to the front for others; a return is no loss."""
    dispatcher = dispatcher_with(a=1, b=1)
    t = tasks(3)
    dispatcher.handle(opened(3))
    assert dispatcher.handle(ExecutorDraining("a")) == []
    assert dispatcher.handle(TaskReturned("a", t[0], 1)) == []
    assert dispatcher.handle(ResultReceived("b", t[1], 1)) == [Accept("b", t[1], 1), Assign("b", t[0], 2)]
    assert dispatcher.handle(ExecutorDraining("b")) == [Waiting(1)]


def test_a_straggler_gets_one_copy_and_the_first_result_counts() -> None:
    """Queue empty, age over 5 s and over twice the median: one copy elsewhere, the slower is cancelled."""
    dispatcher = dispatcher_with(slow=1, fast=1)
    slow, quick = tasks(2)
    dispatcher.handle(opened(2))
    assert dispatcher.handle(Tick(100.0)) == []
    dispatcher.handle(ResultReceived("fast", quick, 1))
    assert dispatcher.handle(Tick(105.0)) == []
    assert dispatcher.handle(Tick(105.1)) == [Assign("fast", slow, 2)]
    assert dispatcher.handle(Tick(200.0)) == []
    assert dispatcher.handle(ResultReceived("fast", slow, 2)) == [
        Accept("fast", slow, 2),
        Cancel("slow", slow, 1),
        RoundComplete("r", 1, accepted=2, skipped=0, discarded=0, retried=0, copied=1),
    ]
    assert dispatcher.held("slow") == 1
    assert dispatcher.handle(ResultReceived("slow", slow, 1)) == [Discard("slow", slow, 1)]
    assert dispatcher.held("slow") == 0


def test_a_lost_copy_leaves_the_other_one_running() -> None:
    """The loss of one of two copies neither queues the task again nor loses it."""
    dispatcher = dispatcher_with(slow=1, fast=1)
    slow, quick = tasks(2)
    dispatcher.handle(opened(2))
    dispatcher.handle(Tick(0.0))
    dispatcher.handle(ResultReceived("fast", quick, 1))
    dispatcher.handle(Tick(60.0))
    assert dispatcher.handle(ExecutorLost("slow")) == []
    assert dispatcher.queued == 0
    assert dispatcher.handle(ResultReceived("fast", slow, 2)) == [
        Accept("fast", slow, 2),
        RoundComplete("r", 1, accepted=2, skipped=0, discarded=0, retried=0, copied=1),
    ]


def test_a_pause_holds_back_new_tasks_only() -> None:
    """While paused nothing is assigned; on resume everything goes on."""
    dispatcher = dispatcher_with(a=1)
    first, second = tasks(2)
    dispatcher.handle(opened(2))
    assert dispatcher.handle(DispatchPaused()) == []
    assert dispatcher.handle(ResultReceived("a", first, 1)) == [Accept("a", first, 1)]
    assert dispatcher.handle(DispatchResumed()) == [Assign("a", second, 1)]


def test_a_round_without_tasks_is_over_at_once() -> None:
    """Poisson sampling may draw nobody."""
    assert dispatcher_with(a=1).handle(opened(0)) == [
        RoundComplete("r", 1, accepted=0, skipped=0, discarded=0, retried=0, copied=0)
    ]


@pytest.mark.parametrize(
    "impossible",
    [
        opened(1),
        RoundOpened("r", 2, tasks(1, round_number=3)),
        RoundOpened("r", 2, tasks(1, 2) * 2),
        ExecutorJoined("a", 1, 1),
        ExecutorJoined("b", 0, 1),
        ExecutorJoined("b", 2, 1),
        TaskSkipped(TaskId("r", 1, 0)),
        TaskSkipped(TaskId("r", 9, 0)),
    ],
)
def test_an_impossible_event_is_refused_and_changes_nothing(impossible: Event) -> None:
    """A bug of the caller is a ValueError, and the round still ends as it would have."""
    dispatcher = dispatcher_with(a=1)
    dispatcher.handle(opened(1))
    with pytest.raises(ValueError):
        dispatcher.handle(impossible)
    commands = dispatcher.handle(ResultReceived("a", TaskId("r", 1, 0), 1))
    assert commands[-1] == RoundComplete("r", 1, accepted=1, skipped=0, discarded=0, retried=0, copied=0)


class Histories(RuleBasedStateMachine):
    """Executors come, go and answer as they like; a model beside the dispatcher checks what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatcher = Dispatcher()
        self.credit: dict[str, int] = {}
        self.draining: set[str] = set()
        self.held: dict[str, list[tuple[TaskId, int]]] = {}
        self.answered: list[tuple[str, TaskId, int]] = []  # could come again, or late
        self.open: dict[tuple[str, int], int] = {}  # tasks of each round
        self.accepted: set[TaskId] = set()
        self.stuck: set[TaskId] = set()  # failed or poisoned, in open rounds
        self.skipped: set[TaskId] = set()
        self.attempts: dict[TaskId, int] = {}
        self.cancelled: set[tuple[str, TaskId, int]] = set()
        self.discarded = 0
        self.rounds = 0
        self.joined = 0
        self.now_s = 0.0
        self.paused = False

    def tell(self, event: Event) -> list[Command]:
        commands = self.dispatcher.handle(event)
        for command in commands:
            self.check(command)
        return commands

    def check(self, command: Command) -> None:
        match command:
            case Assign(executor, task, attempt):
                assert executor not in self.draining
                assert not self.paused
                assert (task.run, task.round) in self.open
                assert task not in self.accepted | self.stuck | self.skipped
                assert attempt == self.attempts.get(task, 0) + 1
                self.attempts[task] = attempt
                self.held[executor].append((task, attempt))
                assert len(self.held[executor]) <= self.credit[executor]
            case Accept(_, task, _):
                assert task not in self.accepted
                self.accepted.add(task)
            case Cancel(executor, task, attempt):
                assert (task, attempt) in self.held[executor]
                self.cancelled.add((executor, task, attempt))
            case Discard():
                self.discarded += 1
            case Fail(_, task, _) | Poisoned(task, _):
                assert task not in self.stuck | self.accepted
                self.stuck.add(task)
            case RoundComplete(run, number, accepted, skipped):
                mine = [t for t in self.accepted | self.skipped if (t.run, t.round) == (run, number)]
                assert len(mine) == accepted + skipped == self.open.pop((run, number))

    # what may happen

    @rule(slots=st.integers(1, 3), prefetch=st.integers(0, 2))
    def an_executor_joins(self, slots: int, prefetch: int) -> None:
        self.joined += 1
        name = f"w{self.joined}"
        self.credit[name], self.held[name] = slots + prefetch, []
        self.tell(ExecutorJoined(name, slots, slots + prefetch))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def an_executor_is_lost(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        self.answered += [(name, task, attempt) for task, attempt in self.held.pop(name)]
        self.draining.discard(name)
        self.tell(ExecutorLost(name))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def an_executor_drains(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        self.draining.add(name)
        self.tell(ExecutorDraining(name))

    @rule(count=st.integers(0, 6), run=st.sampled_from("xy"))
    def a_round_opens(self, count: int, run: str) -> None:
        self.rounds += 1
        self.open[run, self.rounds] = count
        self.tell(opened(count, self.rounds, run))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def a_round_is_aborted(self, data: st.DataObject) -> None:
        run, number = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[run, number]
        self.stuck = {task for task in self.stuck if (task.run, task.round) != (run, number)}
        self.tell(RoundAborted(run, number))

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), how=st.sampled_from(["result", "result", "result", "failure", "return"]))
    def an_executor_answers(self, data: st.DataObject, how: str) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, held in self.held.items() if held)))
        task, attempt = data.draw(st.sampled_from(self.held[name]))
        self.answer(name, task, attempt, how)

    def answer(self, name: str, task: TaskId, attempt: int, how: str) -> None:
        self.held[name].remove((task, attempt))
        self.answered.append((name, task, attempt))
        live = (task.run, task.round) in self.open and (name, task, attempt) not in self.cancelled
        before = self.discarded
        if how == "return":
            self.tell(TaskReturned(name, task, attempt))
            assert self.discarded == before
        elif how == "failure":
            commands = self.tell(TaskFailed(name, task, attempt, "line 1"))
            assert (Fail(name, task, "line 1") in commands) == live
            assert self.discarded == before + (not live)
        else:
            commands = self.tell(ResultReceived(name, task, attempt))
            assert (Accept(name, task, attempt) in commands) == live
            assert self.discarded == before + (not live)

    @precondition(lambda self: self.answered)
    @rule(data=st.data(), failed=st.booleans())
    def an_answer_comes_again_or_late(self, data: st.DataObject, failed: bool) -> None:
        name, task, attempt = data.draw(st.sampled_from(self.answered))
        late = TaskFailed(name, task, attempt, "") if failed else ResultReceived(name, task, attempt)
        before = self.discarded
        assert self.tell(late)[0] == Discard(name, task, attempt)
        assert self.discarded == before + 1

    @precondition(lambda self: self.stuck)
    @rule(data=st.data())
    def a_stuck_task_is_skipped(self, data: st.DataObject) -> None:
        self.skip(data.draw(st.sampled_from(sorted(self.stuck))))

    def skip(self, task: TaskId) -> None:
        self.stuck.remove(task)
        self.skipped.add(task)
        self.tell(TaskSkipped(task))

    @rule(seconds_s=st.sampled_from([0.5, 4.0, 20.0]))
    def time_passes(self, seconds_s: float) -> None:
        self.now_s += seconds_s
        self.tell(Tick(self.now_s))

    @rule()
    def the_dispatch_is_paused_or_resumed(self) -> None:
        self.paused = not self.paused
        self.tell(DispatchPaused() if self.paused else DispatchResumed())

    # what always holds

    @invariant()
    def credit_is_kept_and_used(self) -> None:
        """Nobody holds more than its credit, and nothing is queued while somebody could take it."""
        for name, held in self.held.items():
            assert len(held) == self.dispatcher.held(name) <= self.credit[name]
        if self.dispatcher.queued and not self.paused:
            able = [n for n in self.held if n not in self.draining and len(self.held[n]) < self.credit[n]]
            assert able == []

    @invariant()
    def every_discard_is_counted(self) -> None:
        assert self.dispatcher.discarded == self.discarded

    def teardown(self) -> None:
        """Every round ends once one executor lives and answers."""
        if self.paused:
            self.the_dispatch_is_paused_or_resumed()
        self.an_executor_joins(1, 1)
        for task in sorted(self.stuck):
            self.skip(task)
        while any(self.held.values()) or self.dispatcher.resting:
            if not any(self.held.values()):
                self.time_passes(0.5)
                continue
            name = next(name for name, held in self.held.items() if held)
            self.answer(name, *self.held[name][0], "result")
        assert self.open == {}
        assert self.dispatcher.queued == 0


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
