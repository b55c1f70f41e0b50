"""The real trackers, offline: what was handed on is read back from what they wrote; none can stop a run."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mathgrpo.errors import UserError
from mathgrpo.runs import trackers as all_trackers
from mathgrpo.runs.tracker_kinds import COLUMNS, TrackedRun, Tracker, table_rows, wandb_mode
from mathgrpo.runs.trackers import Trackers, require_trackers

TEXT = "<script>alert(1)</script>\n# not a heading\x1b[31m"
LINE = {
    "step": 1, "problem_id": "a", "question": "What is 1 + 1?", "gold": "2", "prompt_tokens": 5,
    "completions": [{"text": TEXT, "tokens": 3, "finish_reason": "eos", "verdict": "wrong", "reward": 0.1,
                     "reward_parts": {}, "advantage": -0.5, "logprob_mean": -0.3}],
}  # fmt: skip


class Told:
    """A run before its first step, and the lines it was asked to show."""

    step = 0

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, moment: str, line: str) -> None:
        assert moment == "told"
        self.lines.append(line)


EVALUATION: Any = SimpleNamespace(summary=lambda: {"name": "before-templates", "accuracy": 0.25, "problems": 4})
BOTH_SESSIONS = [(1, 1.0), (2, 2.0), (2, 2.5), (3, 3.5)]
"""Step and reward as `write_two_sessions` logs them."""


def step_metrics(step: int, reward: float) -> dict[str, Any]:
    return {"step": step, "reward": reward, "time/rollout": 2.0, "mfu/update": 0.1}


def tracked(folder: Path, step: int = 0) -> TrackedRun:
    return TrackedRun("sums", folder, "2026-01-01T00:00:00", {"run": {"seed": 3}, "rewards": {"correct": 1.0}}, step)


def write_two_sessions(name: str, folder: Path) -> None:
    """Two steps, a stop, and a resume after step 1 that takes step 2 again and step 3."""
    folder.mkdir(parents=True, exist_ok=True)
    run: Any = Told()
    for begin, steps in ((0, (1, 2)), (1, (2, 3))):
        trackers = Trackers([name], tracked(folder, begin), 4)
        trackers.begin(run)
        if not begin:
            trackers.evaluated(run, "before-templates", EVALUATION, 1.0)
        for step in steps:
            trackers.step(run, step_metrics(step, reward=step + begin / 2), [LINE])
        trackers.close(run, "interrupted")
    assert not run.lines


def in_a_process_of_its_own(name: str, folder: Path, **environment: str) -> str:
    """Return what a tracked run prints: a tracker reads its environment when it is imported, and starts threads."""
    code = f"from runs.trackers.test_trackers import *; write_two_sessions({name!r}, Path({str(folder)!r}))"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "TRACKIO_"))}
    paths = os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | {"PYTHONPATH": paths, "HOME": str(folder.parent)} | environment,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_tensorboard_holds_metrics_evaluations_and_completions(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write_two_sessions("tensorboard", tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rewards = [(event.step, event.value) for event in events.Scalars("reward")]
    assert rewards == [(1, 1.0), (2, 2.5), (3, 3.5)]  # step 2 of the first session is purged
    assert [event.value for event in events.Scalars("templates/accuracy")] == [0.25]
    tables = events.Tensors("completions/text_summary")
    texts = [event.tensor_proto.string_val[0].decode() for event in tables]
    assert {event.step for event in tables} == {
        1,
        2,
        3,
    } and "    <script>alert(1)</script>\n    # not a heading" in texts[0]
    assert all(line.startswith("    ") for line in texts[0].splitlines()) and "verdict wrong" in texts[0]
    assert b'"seed": 3' in events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0]


def test_trackio_holds_them_in_one_run_and_prints_nothing(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    out = in_a_process_of_its_own("trackio", tmp_path / "run", TRACKIO_DIR=str(tmp_path / "db"))
    assert "Trackio" not in out and "dashboard" not in out
    [database] = (tmp_path / "db").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select run_name, run_id, step, metrics from metrics order by id").fetchall()
    assert {name for name, *_ in rows} == {"run"} and len({run_id for _, run_id, *_ in rows}) == 1
    logged = [(step, json.loads(metrics)) for *_, step, metrics in rows]
    assert [(step, row["reward"]) for step, row in logged if "reward" in row] == [
        (1, 1.0),
        (2, 2.0),
        (2, 2.5),
        (3, 3.5),
    ]
    assert [row["templates/accuracy"] for _, row in logged if "templates/accuracy" in row] == [0.25]
    tables = [row["completions"] for _, row in logged if "completions" in row]
    assert len(tables) == 4 and tables[0]["_value"][0]["completion"] == TEXT
    assert list(tables[0]["_value"][0]) == list(COLUMNS)


def test_wandb_without_a_key_writes_offline_and_asks_nothing(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    out = in_a_process_of_its_own("wandb", tmp_path / "run")
    assert "wandb" not in out.lower() and "api key" not in out.lower()
    sessions = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    run_id = tracked(tmp_path / "run").id
    assert len(sessions) >= 1 and all(folder.name.endswith(run_id) for folder in sessions)
    records = [row for folder in sessions for row in wandb_history(folder)]
    assert [(row["step"], row["reward"]) for row in records if "reward" in row] == [
        (1, 1.0),
        (2, 2.0),
        (2, 2.5),
        (3, 3.5),
    ]
    assert [row["templates/accuracy"] for row in records if "templates/accuracy" in row] == [0.25]
    tables = [json.loads(path.read_text()) for folder in sessions for path in folder.rglob("*.table.json")]
    assert len(tables) == 4 and tables[0]["columns"] == list(COLUMNS)
    assert tables[0]["data"][0][COLUMNS.index("completion")] == TEXT


def wandb_history(folder: Path) -> list[dict[str, Any]]:
    """Rows of an offline run's log."""
    from wandb.proto import wandb_internal_pb2

    [path] = folder.glob("run-*.wandb")
    rows = []
    for data in leveldb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def leveldb_records(data: bytes, block: int = 32_768, file_header: int = 7) -> list[bytes]:
    """Records of a LevelDB log: blocks of parts with checksum (4 bytes), length (2) and kind (1 whole, 4 last)."""
    records, part, at = [], b"", file_header
    while at + 7 <= len(data):
        if block - at % block < 7:  # the rest of a block is too short for a part
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            records.append(part)
            part = b""
    return records


def test_wandb_is_online_only_for_who_has_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(wandb, "login", lambda *, prompt, verify: prompt)
    assert wandb_mode() == "offline"
    monkeypatch.setattr(wandb, "login", lambda *, prompt, verify: not prompt and not verify)
    assert wandb_mode() == "online"
    for named in ("offline", "dryrun"):
        monkeypatch.setenv("WANDB_MODE", named)
        assert wandb_mode() == "offline"


def test_a_misspelt_mode_is_told_and_an_empty_one_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(UserError, match=r"cannot be opened \(WANDB_MODE=ofline; allowed: online, offline, disabled\)"):
        Trackers(["wandb"], tracked(tmp_path), 4).begin(Told())  # type: ignore[arg-type]
    out = in_a_process_of_its_own("wandb", tmp_path / "run", WANDB_MODE="")
    assert "wandb" not in out.lower() and list((tmp_path / "run" / "wandb").glob("offline-run-*"))


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_trackers, "find_spec", lambda name: None if name == "wandb" else name)
    require_trackers(["trackio", "tensorboard"])
    with pytest.raises(UserError, match=r"^training\.trackers=wandb: .* pip install 'mathgrpo\[wandb\]'$"):
        require_trackers(["trackio", "wandb"])


class Breaking(Tracker):
    """Works for one step."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.seen.append(f"log {step}")
        if step == 2:
            raise ConnectionError("the server\nis gone")

    def completions(self, step: int, rows: Sequence[Sequence[Any]]) -> None:
        self.seen.append(f"rows {step}")

    def close(self, status: str) -> None:
        self.seen.append(status)


class Steady(Breaking):
    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.seen.append(f"log {step} {sorted(metrics)[0]}")


def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run: Any = Told()
    broken, steady = Breaking(), Steady()
    monkeypatch.setattr(all_trackers, "KINDS", {"broken": lambda run: broken, "steady": lambda run: steady})
    trackers = Trackers(["broken", "steady", "broken"], tracked(Path("run")), 4)
    trackers.begin(run)
    for step in (1, 2, 3):
        trackers.step(run, step_metrics(step, 0.5), [LINE] if step < 3 else [])
    trackers.close(run, "finished")
    assert run.lines == ["note: broken failed (the server); the run goes on without it"]
    assert broken.seen == ["log 1", "rows 1", "log 2"]
    assert steady.seen == ["log 1 mfu/update", "rows 1", "log 2 mfu/update", "rows 2", "log 3 mfu/update", "finished"]


def test_one_that_cannot_be_opened_stops_the_run_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = Told()
    steady = Steady()

    def unreachable(run: TrackedRun) -> Steady:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(all_trackers, "KINDS", {"trackio": lambda run: steady, "wandb": unreachable})
    trackers = Trackers(["trackio", "wandb"], tracked(tmp_path), 4)
    with pytest.raises(UserError, match=r"^training\.trackers=wandb: .*no route to host.*WANDB_MODE=offline"):
        trackers.begin(run)
    trackers.close(run, "failed")
    assert steady.seen == ["failed"]  # what was open is closed


def test_a_resumed_run_has_its_name_and_id(tmp_path: Path) -> None:
    assert tracked(tmp_path / "a").id == tracked(tmp_path / "a", 5).id != tracked(tmp_path / "b").id
    assert tracked(tmp_path / "a").name == "a"
    assert table_rows([LINE])[0][0] == 1 and len(table_rows([LINE])[0]) == len(COLUMNS)
