"""The corpus builder against a server that is rude in the ways servers are; it speaks HTTP over a real socket."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
from command_line import Result
from corpus_command import command, free_port, make_cases, rejected_of, typed
from served import Handler, serving

from train.corpus.records import read_corpus

pytest.importorskip("httpx2")


Reply = tuple[int, dict[str, str], bytes]


def good(n: int) -> Reply:
    """The n-th answer, unlike all others."""
    text = f"A brown macule of {n} mm."
    return 200, {}, json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    return make_cases(tmp_path)


@contextmanager
def rude(replies: Callable[[int, str], Reply]) -> Iterator[tuple[str, list[float]]]:
    """A server whose n-th reply is ``replies(n, authorization)``; yields its address and when each request came."""
    times: list[float] = []

    class Rude(Handler):
        def do_POST(self) -> None:
            self.sent()
            times.append(time.monotonic())
            status, headers, body = replies(len(times) - 1, self.headers.get("Authorization", ""))
            self.reply(status, body, headers)

    with serving(Rude) as url:
        yield url, times


@pytest.fixture
def one_case(cases: Path) -> Path:
    cases.write_text("\n".join(cases.read_text(encoding="utf-8").splitlines()[:2]) + "\n", encoding="utf-8")
    return cases


def ask(cases: Path, url: str, tmp_path: Path, *more: str) -> Result:
    return typed(*command(cases, url, tmp_path / "out", *more, "--concurrency", "2"))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 529])
def test_a_busy_server_is_asked_again_when_it_says(one_case: Path, tmp_path: Path, status: int) -> None:
    with rude(lambda n, _: (status, {"Retry-After": "0.4"}, b"busy") if n == 0 else good(n)) as (url, times):
        done = ask(one_case, url, tmp_path, "--retries", "1")
    assert done.json["asked"] == {"describe": 1, "reason": 1, "standardise": 1}
    assert times[1] - times[0] >= 0.4


def test_retry_after_may_be_a_date(one_case: Path, tmp_path: Path) -> None:
    def replies(n: int, _: str) -> Reply:
        return (503, {"Retry-After": formatdate(time.time() + 2, usegmt=True)}, b"") if n == 0 else good(n)

    with rude(replies) as (url, times):
        ask(one_case, url, tmp_path, "--retries", "1")
    assert times[1] - times[0] >= 0.9


def test_without_advice_the_pauses_grow(one_case: Path, tmp_path: Path) -> None:
    with rude(lambda n, _: (503, {}, b"") if n < 2 else good(n)) as (url, times):
        ask(one_case, url, tmp_path, "--retries", "2")
    assert times[1] - times[0] >= 0.5
    assert times[2] - times[1] >= 1.0


def test_all_workers_wait_when_one_is_told_to(cases: Path, tmp_path: Path) -> None:
    with rude(lambda n, _: (429, {"Retry-After": "2"}, b"") if n == 0 else good(n)) as (url, times):
        ask(cases, url, tmp_path, "--retries", "1")
    quiet = [t for t in times if times[0] + 0.7 < t < times[0] + 1.95]
    assert quiet == [], "only what was already under way may arrive in that time"


def test_requests_are_spaced(cases: Path, tmp_path: Path) -> None:
    with rude(lambda n, _: good(n)) as (url, times):
        ask(cases, url, tmp_path, "--per-minute", "600")
    assert len(times) == 18
    assert times[-1] - times[0] >= 17 * 0.1 * 0.95


@pytest.mark.parametrize(
    ("reply", "error", "asked"),
    [
        ((403, {}, b'{"error": {"message": "not yours"}}'), "the key does not allow it; it answers 403: not yours.", 1),
        ((404, {}, b'{"error": "model \\u001b[31mx"}'), "it knows no such model or path; it answers 404: model \ufffd[31mx.", 1),
        ((200, {}, b"<html>Welcome</html>"), "does not answer like an OpenAI-compatible endpoint.", 1),
        ((200, {}, b'{"choices": []}'), "does not answer like an OpenAI-compatible endpoint.", 1),
        ((429, {"Retry-After": "0.1"}, b"quota of key-123 used up."), "answers 429: quota of (key) used up.", 3),
    ],
)  # fmt: skip
def test_an_endpoint_that_will_not_serve_stops_the_run(
    one_case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: Reply, error: str, asked: int
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "key-123")
    heard: list[str] = []

    def replies(n: int, authorization: str) -> Reply:
        heard.append(authorization)
        return reply

    with rude(replies) as (url, times):
        done = ask(one_case, url, tmp_path, "--retries", "2", "--key-variable", "TEACHER_KEY")
    assert (done.code, done.json["kind"]) == (1, "EndpointError")
    assert error in done.json["error"]
    assert "key-123" not in done.out + done.err
    assert heard == ["Bearer key-123"] * asked == ["Bearer key-123"] * len(times)
    assert not (tmp_path / "out").exists()


def test_a_request_that_is_refused_costs_its_case_and_no_other(cases: Path, tmp_path: Path) -> None:
    with rude(lambda n, _: (400, {}, b'{"error": {"message": "flagged"}}') if n == 3 else good(n)) as (url, _):
        done = ask(cases, url, tmp_path, "--retries", "3")
        assert done.json["rejected"] == {"refused by the teacher": 1, "unparseable narrative": 5}
        again = typed(*command(cases, url, tmp_path / "two", "--journal", str(tmp_path / "out.journal.jsonl")))
    assert again.json["rejected"] == {"unparseable narrative": 6}, "a refusal is not an answer: the next run asks again"


def test_a_server_that_never_answers_is_given_up(one_case: Path, tmp_path: Path) -> None:
    release = threading.Event()

    def replies(n: int, _: str) -> Reply:
        release.wait(10)
        return good(n)

    with rude(replies) as (url, times):
        done = ask(one_case, url, tmp_path, "--timeout", "1", "--retries", "1")
        release.set()
    assert done.json["rejected"] == {"refused by the teacher": 1}
    assert read_corpus(tmp_path / "out").rejected[0].detail == "describe: no answer within 1 s."
    assert len(times) == 2


def test_the_same_question_is_not_asked_twice_at_once(cases: Path, tmp_path: Path) -> None:
    """Six cases with one description and one label have one reasoning between them."""
    lines = cases.read_text(encoding="utf-8").splitlines()
    cases.write_text(
        "\n".join([lines[0] + ",description", *(f"{line},A macule." for line in lines[1:])]) + "\n", encoding="utf-8"
    )

    def slow(n: int, _: str) -> Reply:
        time.sleep(0.1)
        return good(n)

    with rude(slow) as (url, times):
        done = typed(*command(cases, url, tmp_path / "out", "--no-pictures", "--concurrency", "6"))
    assert done.json["asked"] == {"reason": 1, "standardise": 1}
    assert len(times) == 2


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("localhost:8000", "'localhost:8000' is not an address."),
        ("http://", "is not an address"),
        ("http://host:99999/v1", "is not an address"),
        ("ftp://host/v1", "is not an address"),
        ("http://host/v1?key=1", "is not an address"),
        ("https://me:secret@host/v1", "an address with a password in it would end up in logs."),
    ],
)
def test_an_address_that_is_none(cases: Path, tmp_path: Path, url: str, why: str) -> None:
    done = typed(*command(cases, url, tmp_path / "out"))
    assert done.code == 2
    assert why in done.json["error"]
    assert "secret" not in done.out + done.err


def test_a_damaged_journal_is_named_and_nothing_is_asked(cases: Path, tmp_path: Path) -> None:
    with rude(lambda n, _: good(n)) as (url, times):
        ask(cases, url, tmp_path)
        journal = tmp_path / "out.journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join([lines[0], b"x" + lines[1], *lines[2:]]))
        done = typed(*command(cases, url, tmp_path / "two", "--journal", str(journal)))
    assert done.code == 1
    assert done.json["error"] == f"{journal}, line 2: it is damaged."
    assert len(times) == 18


def test_what_fell_out_before_a_question_was_asked_is_kept_too(cases: Path, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    (tmp_path / "3.png").unlink()
    with rude(lambda n, _: good(n)) as (url, times):
        ask(cases, url, tmp_path)
    assert rejected_of(tmp_path / "out") == [
        ("0", "unparseable narrative"), ("1", "unreadable image"), ("2", "duplicate image"), ("3", "missing image"),
        ("4", "unparseable narrative"), ("5", "unparseable narrative"),
    ]  # fmt: skip
    assert len(times) == 9
    for n in range(6):
        (tmp_path / f"{n}.png").unlink(missing_ok=True)
    none = typed(*command(cases, url, tmp_path / "two"))
    assert (none.code, none.json["error"]) == (1, "not one of 6 pictures can be read: 0.png")


def test_a_remote_endpoint_is_announced(cases: Path, tmp_path: Path) -> None:
    words = [word for word in command(cases, "http://teacher.example/v1", tmp_path / "out", "--dry-run") if word != "--json"]
    assert "note: pictures and labels go to teacher.example, unencrypted." in typed(*words).err
    assert "requests at most" in typed(*words).out


def test_without_a_server_the_run_stops_and_says_so(cases: Path, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    done = typed(*command(cases, url, tmp_path / "out"))
    assert done.code == 1
    assert done.json["error"] == f"{url} cannot be reached: All connection attempts failed."
    assert done.json["hint"] == "What was answered is in the journal: the same command goes on from there."
    assert sorted(p.name for p in tmp_path.iterdir()) == [*(f"{n}.png" for n in range(6)), "cases.csv"]
