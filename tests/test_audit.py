"""The audit log: whatever is changed in it is found, and a sudden stop costs nothing that was written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from command_line import environment, process, typed
from hypothesis import given
from hypothesis import strategies as st

from skinedge.clinic import audit as audit_module
from skinedge.clinic.audit import AuditLog, Verified, records, verify_log
from skinedge.clinic.chain import HEAD_FILE, LOCK_FILE, LOG_FILE, Head, seal, unseal
from skinedge.clinic.locks import FileLock, is_held
from skinedge.clinic.places import audit_folder, people_file, state_folder
from skinedge.errors import AuditError, UsageError

CHANGES = 1000


def filled(folder: Path, count: int = 30) -> Path:
    with AuditLog(folder) as log:
        for n in range(count):
            log.append("answer", texts={"question": f"q{n}", "answer": "ä\n" * n}, seconds=n / 7, operator="Dr Zhou", tokens=n)
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("audit") / "log")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


def refused(folder: Path) -> str:
    """Verifying and opening both refuse it; the words of the first."""
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(AuditError) as error:
        verify_log(folder)
    with pytest.raises(AuditError):
        AuditLog(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before, "a damaged log must stay as evidence"
    assert error.value.hint
    return error.value.message


def test_what_is_written_is_read_again(written: Path) -> None:
    found = verify_log(written)
    assert found.count == 33  # genesis, opened, closed
    rows = list(records(written))
    assert [r.event for r in rows] == ["genesis", "opened", *["answer"] * 30, "closed"]
    assert [r.seq for r in rows] == list(range(33))
    assert (found.first, found.last, found.hash) == (rows[0].time, rows[-1].time, rows[-1].hash)
    assert found.log == rows[0].fields["log"]
    assert rows[0].fields["version"] == 1
    assert rows[5].fields == {
        "question_sha256": hashlib.sha256(b"q3").hexdigest(),
        "answer_sha256": hashlib.sha256("ä\n".encode() * 3).hexdigest(),
        "seconds": 3 / 7,
        "operator": "Dr Zhou",
        "tokens": 3,
    }
    assert not found.unsealed
    assert time.strptime(found.first[:19], "%Y-%m-%dT%H:%M:%S")


def test_a_hash_is_the_sha256_of_the_line_without_it(written: Path) -> None:
    """By hand, as somebody without skinedge would check it."""
    prev = "0" * 64
    for line in (written / LOG_FILE).read_text(encoding="ascii").splitlines():
        value = json.loads(line)
        digest = value.pop("hash")
        assert value["prev"] == prev
        prev = hashlib.sha256(line.replace(f',"hash":"{digest}"', "").encode()).hexdigest()
        assert prev == digest


def test_words_are_kept_only_where_it_is_switched_on(tmp_path: Path) -> None:
    for keep in (False, True):
        with AuditLog(tmp_path / str(keep), keep_text=keep) as log:
            row = log.append("answer", texts={"question": "Is it \ud800 itching?"}, model="m")
        assert row.fields.get("question") == ("Is it \ud800 itching?" if keep else None)
        assert len(str(row.fields["question_sha256"])) == 64
        assert (b"itching" in (tmp_path / str(keep) / LOG_FILE).read_bytes()) == keep
        assert verify_log(tmp_path / str(keep)).count == 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights")
def test_nobody_else_may_read_it(written: Path) -> None:
    assert written.stat().st_mode & 0o77 == 0
    assert all(p.stat().st_mode & 0o77 == 0 for p in written.iterdir())


# --- nothing can be changed ---------------------------------------------------------------------------------------------


def test_a_thousand_changed_bytes_are_found(folder: Path) -> None:
    rng, found = random.Random(7), 0
    files = {name: (folder / name).read_bytes() for name in (LOG_FILE, HEAD_FILE)}
    places = [(name, at) for name, content in files.items() for at in range(len(content))]
    # Every byte of the head, every line end, and others at random.
    ends = [(LOG_FILE, at) for at, byte in enumerate(files[LOG_FILE]) if byte == 10]
    always = [p for p in places if p[0] == HEAD_FILE] + ends
    for name, at in always + rng.choices(places, k=CHANGES - len(always)):
        content = bytearray(files[name])
        content[at] = (content[at] + rng.randrange(1, 256)) % 256
        (folder / name).write_bytes(content)
        with pytest.raises(AuditError):
            verify_log(folder)
        found += 1
        (folder / name).write_bytes(files[name])
    assert found == CHANGES
    verify_log(folder)


def test_a_thousand_changed_bytes_are_found_when_it_is_opened(folder: Path) -> None:
    """Also by the server itself, which repairs what a stop leaves and must not take a change for one."""
    rng = random.Random(8)
    files = {name: (folder / name).read_bytes() for name in (LOG_FILE, HEAD_FILE)}
    for n in range(CHANGES):
        name = LOG_FILE if n % 4 else HEAD_FILE
        content = bytearray(files[name])
        at = rng.randrange(len(content)) if n % 8 else -1
        content[at] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(content)
        with pytest.raises(AuditError):
            AuditLog(folder)
        assert (folder / name).read_bytes() == bytes(content)
        (folder / name).write_bytes(files[name])


@given(data=st.data())
def test_any_other_bytes_are_found(written: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Deleted, inserted, repeated and moved pieces of any length, in either file."""
    copy = tmp_path_factory.mktemp("any") / "log"
    shutil.copytree(written, copy)
    path = copy / data.draw(st.sampled_from([LOG_FILE, HEAD_FILE]))
    raw = path.read_bytes()
    a, b = sorted(data.draw(st.tuples(*[st.integers(0, len(raw))] * 2)))
    new = data.draw(st.one_of(st.binary(max_size=40), st.just(raw[a:b] * 2), st.just(b"\n"), st.just(b" ")))
    changed = raw[:a] + new + raw[b:]
    if changed != raw:
        path.write_bytes(changed)
        with pytest.raises(AuditError):
            verify_log(copy)
    shutil.rmtree(copy)


def lines_of(folder: Path) -> list[bytes]:
    return (folder / LOG_FILE).read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[:5] + x[6:], "record 5, does not follow from the one before"),
        (lambda x: [*x[:5], x[6], x[5], *x[7:]], "record 5, does not follow"),
        (lambda x: [*x[:5], x[5], x[5], *x[6:]], "record 6, does not follow"),
        (lambda x: [*x, x[-1]], "record 33, does not follow"),
        (lambda x: x[:-1], "cut off: 1 of its 33 records are missing"),
        (lambda x: x[:3], "cut off: 30 of its 33 records are missing"),
        (lambda x: x[1:], "record 0, does not follow"),
        (lambda x: [], "holds no whole record"),
        (lambda x: [*x[:-1], x[-1][:-9]], "cut off: 1 of its 33"),
        (lambda x: [*x, b'{"event":"ans'], "ends in the middle of a record"),
        (lambda x: [*x[:4], x[4].replace(b",", b", "), *x[5:]], "record 4, is not as it was written"),
        (lambda x: [b"\n", *x], "record 0, is not as it was written"),
        (lambda x: [line.replace(b"\n", b"\r\n") for line in x], "record 0, is not as it was written"),
    ],
)
def test_lines_taken_out_put_in_moved_repeated_or_cut_are_found(
    folder: Path, change: Callable[[list[bytes]], list[bytes]], words: str
) -> None:
    (folder / LOG_FILE).write_bytes(b"".join(change(lines_of(folder))))
    with pytest.raises(AuditError, match=words) as error:
        verify_log(folder)
    assert str(folder / LOG_FILE) in error.value.message
    if "middle of a record" not in words:  # that is what a stop leaves
        refused(folder)


def test_a_line_spelled_otherwise_is_found_although_its_hash_is_right(folder: Path) -> None:
    """As a forger would who can compute hashes but writes JSON with spaces, or a key twice, or nested without end."""
    lines = lines_of(folder)
    for body in (
        lines[3][:-76].replace(b'":', b'": ', 1) + b"}",
        lines[3][:-76] + b',"seq":3}',
        b"[" * 100_000 + b"}",
        b'{"seq":NaN}',
        b'"text"}',
    ):
        digest = hashlib.sha256(body).hexdigest().encode()
        (folder / LOG_FILE).write_bytes(b"".join([*lines[:3], body[:-1] + b',"hash":"' + digest + b'"}\n', *lines[4:]]))
        assert "record 3, was written by something else: it is not spelled as skinedge spells it" in refused(folder)


def test_records_of_another_kind_are_found(folder: Path) -> None:
    lines = lines_of(folder)
    for value in ({"a": 1}, {**unseal(lines[3], "")[0], "more": 1}, {**unseal(lines[3], "")[0], "fields": []}):
        (folder / LOG_FILE).write_bytes(b"".join([*lines[:3], seal(value)[0], *lines[4:]]))
        assert "record 3, was written by something else: it is no record" in refused(folder)


def test_heads_that_are_lost_or_of_another_log_are_found(folder: Path, tmp_path: Path) -> None:
    other = filled(tmp_path / "other")
    shutil.copy(other / HEAD_FILE, folder / HEAD_FILE)
    assert "is not the log whose head lies beside it: record 32 is another" in refused(folder)
    (folder / HEAD_FILE).write_bytes(seal({"count": 0, "last": "", "log": ""})[0])
    assert "it is not the head of a log" in refused(folder)
    (folder / HEAD_FILE).unlink()
    assert "audit.head.json is missing: whether the log is whole cannot be known" in refused(folder)
    (folder / HEAD_FILE).write_bytes((other / HEAD_FILE).read_bytes())
    (folder / LOG_FILE).unlink()
    assert "there is no audit log here" in refused(folder)


def test_a_head_far_behind_is_found(folder: Path) -> None:
    rows = list(records(folder))
    (folder / HEAD_FILE).write_bytes(seal({"count": 31, "last": rows[30].hash, "log": rows[0].fields["log"]})[0])
    assert "holds 2 records more than its head says" in refused(folder)


def test_a_line_without_end_does_not_fill_the_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skinedge.clinic import chain

    monkeypatch.setattr(chain, "MAX_LINE", 4096)
    monkeypatch.setattr(audit_module, "MAX_LINE", 4096)
    with AuditLog(folder) as log, pytest.raises(AuditError, match="is more than an audit log takes"):
        log.append("answer", text="x" * 4096)
    with (folder / LOG_FILE).open("ab") as file:
        file.write(b"x" * 10_000)
    assert "is longer than any record can be" in refused(folder)


def test_a_log_written_anew_is_found_by_a_hash_noted_elsewhere(folder: Path, tmp_path: Path) -> None:
    noted = list(records(folder))[20].hash
    assert verify_log(folder, noted).count == 33
    assert verify_log(folder, f" {noted[:16].upper()}\n").count == 33
    forged = filled(tmp_path / "forged")
    assert verify_log(forged).count == 33
    with pytest.raises(AuditError, match=f"does not hold the hash {noted}: it is another log, or was written anew"):
        verify_log(forged, noted)
    for wrong in ("", "abc", noted[:15], "g" * 64, noted + "0"):
        with pytest.raises(UsageError, match="is no hash of a record"):
            verify_log(folder, wrong)


# --- a sudden stop ------------------------------------------------------------------------------------------------------


def test_a_record_that_the_head_does_not_know_yet_is_taken_into_it(folder: Path, tmp_path: Path) -> None:
    head = (folder / HEAD_FILE).read_bytes()
    with AuditLog(folder) as log:
        log.append("answer")
    (folder / LOG_FILE).write_bytes(b"".join(lines_of(folder)[:34]))
    (folder / HEAD_FILE).write_bytes(head)
    found = verify_log(folder)
    assert (found.count, found.unsealed) == (34, True)
    with AuditLog(folder):
        assert verify_log(folder).count == 35
        assert not verify_log(folder).unsealed


@given(cut=st.integers(1, 200))
def test_a_torn_last_line_is_cut_off_and_recorded(written: Path, tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    copy = Path(shutil.copytree(written, tmp_path_factory.mktemp("torn") / "log"))
    head = json.loads((copy / HEAD_FILE).read_text())
    line, _ = seal({"seq": 33, "time": "2026-01-01T00:00:00.000Z", "event": "answer", "fields": {}, "prev": head["last"]})
    torn = line[: min(cut, len(line) - 1)]
    with (copy / LOG_FILE).open("ab") as file:
        file.write(torn)
    with AuditLog(copy) as log:
        log.append("answer")
    rows = list(records(copy))[33:]
    assert [r.event for r in rows] == ["tail-recovered", "opened", "answer", "closed"]
    assert rows[0].fields == {"nbytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}
    assert verify_log(copy).count == 37
    shutil.rmtree(copy)


def test_a_stop_between_the_first_record_and_its_head_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "log"
    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "_write_head", stopped)
        with pytest.raises(KeyboardInterrupt):
            AuditLog(folder)
    assert (folder / LOG_FILE).is_file()
    assert not (folder / HEAD_FILE).exists()
    with AuditLog(folder):
        pass
    assert [r.event for r in records(folder)] == ["genesis", "opened", "closed"]


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_interrupts_a_record_ends_the_log_until_it_is_opened_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(folder)
    with monkeypatch.context() as patch:
        patch.setattr(log, "_write_head", stopped)
        with pytest.raises(KeyboardInterrupt):
            log.append("answer", n=1)
    with pytest.raises(AuditError, match="takes no more records: it was interrupted while it wrote"):
        log.append("answer", n=2)
    log.close()
    with AuditLog(folder):
        pass
    assert [r.fields.get("n") for r in records(folder) if r.seq > 32 and r.event == "answer"] == [1]


def test_a_write_that_was_cut_short_is_no_record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short:
        """A file that takes half of what it is given, as a disk does that is nearly full."""

        def __init__(self, file: FileIO) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def write(self, line: bytes) -> int:
            return self._file.write(line[: len(line) // 2])

    with AuditLog(folder) as log:
        count = log.head().count
        with monkeypatch.context() as patch:
            patch.setattr(log, "_file", Short(log._file))
            with pytest.raises(AuditError, match="could not be written: No space left on device"):
                log.append("answer")
        assert verify_log(folder).count == log.head().count == count
        log.append("answer", n=1)
    with AuditLog(folder):
        pass
    assert verify_log(folder).count == count + 4  # the answer, closed, opened, closed


def test_a_full_disk_loses_the_record_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with AuditLog(folder) as log:
        count = log.head().count
        for where, name in ((audit_module, "_write_whole"), (audit_module.os, "fsync")):
            with monkeypatch.context() as patch:
                patch.setattr(where, name, full)
                with pytest.raises(AuditError, match="could not be written: No space left on device"):
                    log.append("answer")
            if name == "_write_whole":
                assert verify_log(folder).count == log.head().count == count
                log.append("answer")
                count += 1
        with pytest.raises(AuditError, match="takes no more records: what failed could not be taken back"):
            log.append("answer")
    with AuditLog(folder):
        pass
    assert verify_log(folder).count == count + 2  # opened, closed


KILLED = """
import sys
from pathlib import Path
from skinedge.clinic.audit import AuditLog
log = AuditLog(Path(sys.argv[1]))
for n in range(10**6):
    log.append("answer", n=n, padding="x" * (n % 700))
    print(n, flush=True)
"""


def test_killed_at_any_moment_no_record_that_was_acknowledged_is_lost(tmp_path: Path) -> None:
    rng, folder = random.Random(3), tmp_path / "log"
    told: list[int] = []
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder)], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert writer.stdout
        assert writer.stdout.readline() == b"0\n"
        time.sleep(rng.random() / 4)
        writer.kill()
        rest, words = writer.communicate()
        assert not words, words.decode()
        told.append(1 + rest.count(b"\n"))
    with AuditLog(folder):
        pass
    verify_log(folder)
    runs: list[int] = []
    for record in records(folder):
        if record.event == "opened":
            runs.append(0)
        elif record.event == "answer":
            assert record.fields["n"] == runs[-1]
            runs[-1] += 1
    assert runs.pop() == 0
    assert all(kept - acknowledged in (0, 1) for kept, acknowledged in zip(runs, told, strict=True))


# --- several at once ----------------------------------------------------------------------------------------------------


def test_threads_append_one_after_the_other_while_others_verify(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    with AuditLog(folder) as log, ThreadPoolExecutor(8) as pool:
        written = [pool.submit(log.append, "answer", n=n) for n in range(200)]
        checked = [pool.submit(verify_log, folder) for _ in range(40)]
        assert all(isinstance(f.result(), Verified) for f in checked)
        assert sorted(f.result().seq for f in written) == list(range(2, 202))
    assert sorted(r.fields["n"] for r in records(folder) if r.event == "answer") == list(range(200))  # type: ignore[type-var]
    assert verify_log(folder).count == 203


def test_only_one_process_writes_it(folder: Path) -> None:
    with AuditLog(folder):
        with pytest.raises(AuditError, match=r"copy: another skinedge serve writes this audit log\."):
            AuditLog(folder)
        script = f"from pathlib import Path; from skinedge.clinic.audit import AuditLog; AuditLog(Path({str(folder)!r}))"
        done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=False)
        assert "another skinedge serve writes this audit log" in done.stderr
    with AuditLog(folder) as log:
        log.close()
        log.close()
        with pytest.raises(AuditError, match="takes no more records: it is closed"):
            log.append("answer")


def test_a_lock_goes_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    assert not is_held(path)
    first, second = FileLock(path), FileLock(path)
    assert first.take()
    assert is_held(path)
    assert not second.take()
    first.release()
    first.release()
    assert second.take()
    script = f"from pathlib import Path; from skinedge.clinic.locks import FileLock; import os; l = FileLock(Path({str(path)!r}))"
    second.release()
    subprocess.run([sys.executable, "-c", f"{script}; assert l.take(); os._exit(9)"], env=environment(), check=False)
    assert not is_held(path)


def test_what_was_written_before_a_verifier_read_the_head_is_checked_and_what_comes_after_may_be_torn(folder: Path) -> None:
    """A server writes: the verifier sees half a line behind the head."""
    with AuditLog(folder), (folder / LOG_FILE).open("ab") as file:
        file.write(b'{"event":"answer"')
        file.flush()
        assert verify_log(folder).count == 34
    lines = lines_of(folder)
    (folder / LOG_FILE).write_bytes(b"".join(lines[:30]))
    lock = FileLock(folder / LOCK_FILE)
    assert lock.take()
    with pytest.raises(AuditError, match="cut off"):
        verify_log(folder)
    lock.release()


# --- the command --------------------------------------------------------------------------------------------------------


def test_the_command_verifies_and_shows(folder: Path) -> None:
    done = typed("audit", "verify", folder)
    assert done.code == 0
    assert f"{folder}: 33 records from 20" in done.out
    assert "Note this hash somewhere else" in done.err
    last = typed("audit", "verify", folder, "--json").json
    assert last["verified"] is True
    assert last["hash"] in done.out
    assert typed("audit", "verify", folder, "--head", last["hash"]).code == 0
    assert typed("audit", "verify", folder, "--head", "0" * 64).code == 1
    assert typed("audit", "verify", folder, "--head", "zz").code == 2
    shown = typed("audit", "show", folder, "--last", "2").out.splitlines()
    assert len(shown) == 2
    assert "answer" in shown[0]
    assert "operator=Dr Zhou" in shown[0]
    assert [r["seq"] for r in typed("audit", "show", folder, "--last", "3", "--json").json["records"]] == [30, 31, 32]


def test_the_command_says_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    raw = (folder / LOG_FILE).read_bytes()
    (folder / LOG_FILE).write_bytes(raw.replace(b'"tokens":7', b'"tokens":8'))
    done = typed("audit", "verify", folder)
    assert done.code == 1
    assert "record 9, is not as it was written: its hash is that of other bytes." in done.err
    assert "keep it as evidence" in done.err
    assert typed("audit", "show", folder, "--json").json["kind"] == "AuditError"
    done = typed("audit", "verify", tmp_path / "nowhere")
    assert done.code == 1
    assert "there is no audit log here" in done.err


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "log") as log:
        log.append("answer", operator="a\x1b[2Jb\nc")
    shown = typed("audit", "show", tmp_path / "log")
    assert "a\ufffd[2Jb c" in shown.out
    assert len(shown.out.splitlines()) == 4


def test_it_lies_in_the_persons_own_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "skinedge" / "audit", 1)
    assert process("audit", "verify", XDG_STATE_HOME=str(tmp_path)).code == 0
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("LOCALAPPDATA", "relative")
    homes = {"linux": ".local/state", "darwin": "Library/Application Support", "win32": "AppData/Local"}
    for platform, place in homes.items():
        monkeypatch.setattr(sys, "platform", platform)
        assert state_folder() == Path.home() / place / "skinedge"
    assert (audit_folder().name, people_file().name) == ("audit", "people.json")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert state_folder() == tmp_path / "skinedge"


def test_a_head_says_what_is_worth_noting(folder: Path) -> None:
    with AuditLog(folder) as log:
        head = log.head()
        assert isinstance(head, Head)
        assert verify_log(folder, head.last).count == head.count == 34


@pytest.mark.skipif(not Path("/proc").is_dir() or os.name != "posix", reason="needs a folder that cannot be made")
def test_a_place_that_cannot_be_written_is_named() -> None:
    with pytest.raises(AuditError, match=r"/proc/nothing/audit could not be written: "):
        AuditLog(Path("/proc/nothing/audit"))
