"""The event log keeps whole events, finds them by decision, and survives a writer that was killed."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import threading
from pathlib import Path

import pytest

from outrider.errors import ConfigurationError
from outrider.telemetry import EventLog, RequestEvent, RequestOutcome
from outrider.types import BatchClass, Budgets, Candidates, Decision

DECISION = Decision(
    decision_id="dec-1",
    model="pro",
    replica="pro-0",
    depth_cap=5,
    batch_class=BatchClass("interactive", weight=2.0),
    policy_version="p1",
    objective="cost",
    predicted_ttft_s=0.1,
    predicted_tpot_s=0.02,
    predicted_cost_usd=0.003,
    tpot_target_s=None,
    max_tokens=64,
    candidates=Candidates(
        roads=(("pro", "pro-0"),),
        classes=("balanced",),
        depths=(0,),
        cost_usd=(0.003,),
        quality=(0.5,),
        columns={"score": b"\x00\x00\x00\x3f"},
        flags=b"\x00",
        closed=(("flash", "quality"),),
    ),
)
OUTCOME = RequestOutcome(status=200, finish_reason="stop", completion_tokens=7, rounds=((5, 3), (2, 2)))


def event(decision_id: str = "dec-1", **changes: object) -> RequestEvent:
    made = RequestEvent(
        time_s=1.0,
        request_id="req-1",
        decision_id=decision_id,
        tenant="acme",
        endpoint="chat",
        model="auto",
        policy_version="p1",
        stream=True,
        budgets=Budgets(ttft_s=0.2),
        outcome=OUTCOME,
        decision=DECISION,
        tags=("code",),
    )
    return dataclasses.replace(made, **changes)


def test_an_event_comes_back_as_it_went_in(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "deep" / "events.jsonl")
    log.append(event())
    log.append(event("dec-2", decision=None, outcome=RequestOutcome(status=429, error_code="no_feasible_route")))
    assert log.find("dec-1") == event()
    found = log.find("dec-2")
    assert found is not None
    assert found.decision is None
    assert log.find("dec-3") is None
    log.close()
    assert len((tmp_path / "deep" / "events.jsonl").read_text().splitlines()) == 2


def test_an_id_inside_another_field_is_not_a_match(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append(event("dec-2", tags=("dec-9",)))
    assert log.find("dec-9") is None


def test_torn_lines_are_skipped_and_the_next_writer_starts_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    first = EventLog(path)
    first.append(event())
    first.close()
    path.write_bytes(path.read_bytes() + b'{"time_s": 1.0, "tenant": "\xc3')
    assert [found.decision_id for found in EventLog(path).read()] == ["dec-1"]
    second = EventLog(path)
    second.append(event("dec-2"))
    second.close()
    assert [found.decision_id for found in second.read()] == ["dec-1", "dec-2"]


def test_a_missing_file_holds_no_events(tmp_path: Path) -> None:
    assert EventLog(tmp_path / "none.jsonl").find("dec-1") is None
    assert not (tmp_path / "none.jsonl").exists()


def test_many_threads_and_two_writers_leave_whole_lines(tmp_path: Path) -> None:
    logs = [EventLog(tmp_path / "events.jsonl") for _ in range(2)]
    threads = [
        threading.Thread(target=lambda log=log: [log.append(event()) for _ in range(300)]) for log in logs for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert len(lines) == 1200
    assert all(json.loads(line)["decision_id"] == "dec-1" for line in lines)


def test_a_disk_that_refuses_is_counted_and_blocks_nobody(tmp_path: Path) -> None:
    log = EventLog("/dev/full")
    log.append(event())
    log.flush()
    assert log.dropped == 1
    log.close()


def test_a_full_queue_drops_and_counts(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl", max_pending=0)
    log.append(event())
    log.close()
    assert log.dropped == 1
    assert log.find("dec-1") is None


def test_an_event_that_cannot_be_encoded_does_not_stop_the_writer(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.append(event("dec-0", decision=dataclasses.replace(DECISION, policy_version=object())))
    log.append(event())
    assert [found.decision_id for found in log.read()] == ["dec-1"]
    assert log.dropped == 1
    log.close()


def test_an_unwritable_path_is_the_operator_s_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        EventLog(tmp_path).start()


def test_events_have_no_field_for_text() -> None:
    names = {field.name for kind in (RequestEvent, RequestOutcome) for field in dataclasses.fields(kind)}
    assert not names & {"prompt", "messages", "text", "completion", "content", "stop", "tokens"}


def test_threads_that_append_at_once_start_one_writer(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    for attempt in range(30):
        log = EventLog(tmp_path / f"{attempt}.jsonl")
        ready = threading.Barrier(4)

        def append(log: EventLog = log, ready: threading.Barrier = ready) -> None:
            ready.wait()
            log.append(event())

        threads = [threading.Thread(target=append) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writers = [each for each in threading.enumerate() if each not in before and each.name == "outrider-events"]
        log.close()
        assert len(writers) == 1


def test_a_writer_that_starts_waits_for_a_line_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with path.open("ab", buffering=0) as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write(b'{"half')
        log = EventLog(path)
        log.append(event())
        log.flush(timeout_s=0.2)
        other.write(b'": 1}\n')
        fcntl.flock(other, fcntl.LOCK_UN)
    log.close()
    first, *rest = path.read_bytes().splitlines()
    assert first == b'{"half": 1}'
    assert [json.loads(line)["decision_id"] for line in rest] == ["dec-1"]
