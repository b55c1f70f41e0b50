"""What becomes of questions when the processes that grade are killed, stand still, eat memory or do not start."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from mathgrpo.answers import killable
from mathgrpo.answers.killable import KillableGrader, Reply, worker_count
from mathgrpo.answers.side_by_side import side_by_side

ENDLESS = "\\sum_{{k=1}}^{{10^9}} k^{{{}}}\\sin k"
QUICK = {"first_s": 0.3, "second_s": 0.5, "hurried_s": 0.15, "slow_s": 0.7}


@pytest.fixture(scope="module")
def grader() -> Iterator[KillableGrader]:
    own = KillableGrader(workers=2, memory_mib=700, **QUICK)
    own.ask(gold="1", answer="1")
    yield own
    own.close()


def supervisor(grader: KillableGrader) -> psutil.Process:
    assert grader._process is not None
    return psutil.Process(grader._process.pid)


def worker(grader: KillableGrader) -> psutil.Process:
    return supervisor(grader).children()[0]


FRESH = iter(range(1000))


def right(grader: KillableGrader) -> Reply:
    """The verdict on a right answer that has not been asked for yet."""
    return grader.ask(gold="\\sqrt{12}", answer=f"2\\sqrt{{3}}+{(n := next(FRESH))}-{n}")


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("whom", [supervisor, worker])
def test_a_process_killed_or_stopped_from_outside_costs_no_verdict(
    grader: KillableGrader, monkeypatch: pytest.MonkeyPatch, whom: Callable[..., psutil.Process], sign: signal.Signals
) -> None:
    monkeypatch.setattr(killable, "STALL_S", 0.8)
    assert right(grader) == Reply("correct")
    before = grader.mishaps.total()
    whom(grader).send_signal(sign)
    assert right(grader) == Reply("correct")
    assert grader.mishaps.total() == before + 1


def test_what_has_no_end_is_given_up_counted_and_asked_again_the_next_time(grader: KillableGrader) -> None:
    asked, timeouts, start = grader.asked, grader.mishaps["timeout"], time.perf_counter()
    first = grader.ask(gold="\\sqrt{2}", answer=ENDLESS.format(9))
    assert first.verdict == "timeout" and "no verdict within" in first.why and time.perf_counter() - start < 2.0
    assert grader.ask(gold="\\sqrt{2}", answer=ENDLESS.format(9)).verdict == "timeout"
    assert grader.asked == asked + 2 and grader.mishaps["timeout"] == timeouts + 2
    assert right(grader) == right(grader) == Reply("correct")


def test_a_verdict_is_kept(grader: KillableGrader) -> None:
    replies = [grader.ask(gold="x", answer="y"), grader.ask(gold="2x", answer="x+x")]
    asked = grader.asked
    assert [grader.ask(gold="x", answer="y"), grader.ask(gold="2x", answer="x+x")] == replies
    assert [reply.verdict for reply in replies] == ["wrong", "correct"] and grader.asked == asked


def test_a_group_of_hostile_answers_holds_up_neither_the_others_nor_the_step(grader: KillableGrader) -> None:
    answers = [ENDLESS.format(n) for n in range(10, 20)] + ["2\\sqrt{3}", "\\sqrt{11}"]
    start = time.perf_counter()
    threads = [threading.Thread(target=grader.ask, kwargs={"gold": "\\sqrt{12}", "answer": a}) for a in answers]
    for thread in threads:
        thread.start()
    assert grader.ask(gold="\\sqrt{12}", answer="\\sqrt{3}2").verdict == "correct"
    assert time.perf_counter() - start < 4.0
    for thread in threads:
        thread.join()
    assert time.perf_counter() - start < 6.0
    assert grader.ask(gold="\\sqrt{12}", answer="2\\sqrt{3}") == Reply("correct")


def test_a_worker_that_needs_too_much_memory_has_no_verdict_and_one_that_has_grown_is_replaced() -> None:
    starved, grown = KillableGrader(workers=1, memory_mib=40), KillableGrader(workers=1, grown_mib=1)
    reply = starved.ask(gold="x", answer="2x")
    assert reply.verdict == "error" and reply.why and starved.mishaps == {"error": 1}
    first, second = (right(grown) and worker_pids(grown) for _ in range(2))
    assert first != second and grown.mishaps.total() == 0
    starved.close()
    grown.close()


def worker_pids(grader: KillableGrader) -> list[int]:
    return [child.pid for child in supervisor(grader).children()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the limits of a process from /proc")
def test_memory_is_capped(grader: KillableGrader) -> None:
    right(grader)
    assert worker(grader).rlimit(psutil.RLIMIT_AS) == (700 << 20, 700 << 20)


def test_a_process_that_dies_at_its_start_is_an_error_that_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    own = KillableGrader(workers=1)
    monkeypatch.setattr(killable.sys, "executable", "/bin/false")
    dead = own.ask(gold="x", answer="x")
    assert dead == Reply("error", "the grader's process did not start, the next one did not start")
    start = time.perf_counter()
    assert own.ask(gold="x", answer="x").verdict == "error" and time.perf_counter() - start < 0.1
    assert own.mishaps == {"did not start": 2, "error": 2}
    monkeypatch.undo()
    own._paused_until = 0.0
    monkeypatch.setattr(subprocess, "Popen", _no_process_more)
    assert own.ask(gold="x", answer="x") == Reply("error", "the grader's process does not start (try again)")
    monkeypatch.undo()
    assert own.ask(gold="x", answer="x") == Reply("correct")
    own.close()


def _no_process_more(*arguments: object, **options: object) -> None:
    raise OSError(errno.EAGAIN, "try again")


def test_a_fork_has_processes_of_its_own(grader: KillableGrader) -> None:
    pid = os.fork()
    if pid == 0:
        told = right(grader) == Reply("correct")
        grader.close()
        os._exit(0 if told else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert right(grader) == Reply("correct")


def test_nothing_is_left_when_the_trainer_ends_or_is_killed() -> None:
    code = (
        "import os, sys, psutil; from mathgrpo.answers.latex import grader\n"
        "print(grader.ask(gold='x', answer='x').verdict, grader._process.pid, flush=True)\n"
        "os.kill(os.getpid(), int(sys.argv[1])) if sys.argv[1] != '0' else None"
    )
    env = {"PYTHONPATH": ":".join(sys.path)}
    both = [
        subprocess.Popen([sys.executable, "-c", code, sign], env=env, stdout=subprocess.PIPE, text=True)
        for sign in ("0", str(int(signal.SIGKILL)))
    ]
    for process in both:
        verdict, pid = process.communicate()[0].split()
        until = time.monotonic() + 5
        while (alive := is_alive(int(pid))) and time.monotonic() < until:
            time.sleep(0.01)
        assert verdict == "correct" and not alive


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_interruption_reaches_the_caller_and_mixes_up_no_replies(grader: KillableGrader) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            grader.ask(gold="\\sqrt{2}", answer=ENDLESS.format(99))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert right(grader) == Reply("correct") and grader.ask(gold="\\sqrt{2}", answer="2\\sqrt{2}") == Reply("wrong")


def test_a_run_of_several_processes_shares_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert worker_count() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert worker_count() == 1


def test_side_by_side_keeps_the_order_and_starts_threads_only_behind_a_question(
    grader: KillableGrader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mathgrpo.answers.side_by_side.grader", grader)
    threads: dict[int, str] = {}

    def graded(number: int) -> int:
        threads[number] = threading.current_thread().name
        if number == 3:
            right(grader)
        return number * number

    assert side_by_side(graded, range(9)) == [n * n for n in range(9)]
    assert {threads[n] for n in range(4)} == {threading.current_thread().name}
    assert threading.current_thread().name not in {threads[n] for n in range(4, 9)}
    assert side_by_side(graded, []) == []
