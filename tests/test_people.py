"""Operators: what is kept of them, who is let in, and what the commands say."""

from __future__ import annotations

import io
import json
import stat
import sys
import time
from pathlib import Path

import pytest
from command_line import Result, process, typed
from hypothesis import given
from hypothesis import strategies as st

from skinedge.clinic import people as module
from skinedge.clinic.locks import FileLock
from skinedge.clinic.people import ROLES, People, changing, person
from skinedge.errors import PeopleError, UsageError

PASSPHRASE = "copper lantern seven rivers"


@pytest.fixture(scope="module")
def two() -> People:
    return People().having(person("Dr Zhou", "clinician", PASSPHRASE)).having(person("Wu", "auditor", "ten letters"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of little work, where the strength is not what is tested."""
    monkeypatch.setattr(module, "_N", 16)


def test_the_right_passphrase_of_the_right_name_is_let_in(two: People, tmp_path: Path) -> None:
    two.save(tmp_path / "people.json")
    for found in (two, People.load(tmp_path / "people.json")):
        zhou = found.check("Dr Zhou", PASSPHRASE)
        assert zhou is not None
        assert (zhou.name, zhou.role) == ("Dr Zhou", "clinician")
        assert found.check(" Dr Zhou ", PASSPHRASE) == zhou
        for name, passphrase in (
            ("Dr Zhou", PASSPHRASE + " "),
            ("Dr Zhou", ""),
            ("Wu", PASSPHRASE),
            ("dr zhou", PASSPHRASE),
            ("nobody", PASSPHRASE),
            ("", ""),
        ):
            assert found.check(name, passphrase) is None


def test_only_hashes_are_kept_and_each_has_its_own_salt(two: People, tmp_path: Path) -> None:
    path = tmp_path / "state" / "people.json"
    two.having(person("Li", "admin", PASSPHRASE)).save(path)
    text = path.read_text(encoding="ascii")
    assert "copper" not in text
    rows = json.loads(text)["people"]
    assert len({r["salt"] for r in rows}) == len({r["scrypt"] for r in rows}) == 3
    assert PASSPHRASE not in repr(two) + repr(two.people[0].scrypt)
    assert "scrypt" not in repr(two.people)
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["people.json"]


def test_it_is_scrypt_with_32_mebibytes() -> None:
    import hashlib

    made = person("a", "admin", PASSPHRASE)
    again = hashlib.scrypt(PASSPHRASE.encode(), salt=made.salt, n=2**15, r=8, p=1, maxmem=1 << 26, dklen=32)
    assert made.scrypt == again
    assert len(made.salt) == 16


def test_an_unknown_name_takes_as_long(two: People) -> None:
    def seconds(name: str) -> float:
        begin = time.perf_counter()
        assert two.check(name, "wrong wrong wrong") is None
        return time.perf_counter() - begin

    known, unknown = zip(*[(seconds("Wu"), seconds("nobody")) for _ in range(7)], strict=True)
    # The least of each, because a busy machine only ever adds; an answer without the work would come in a thousandth of it.
    assert 0.5 < min(unknown) / min(known) < 2


def test_letters_are_the_same_however_a_keyboard_composes_them(quick: None) -> None:
    found = People().having(person("Zoe\u0308", "admin", "geho\u0308rt dazu"))
    assert found.check("Zo\u00eb", "geh\u00f6rt dazu") is not None


@given(name=st.text(max_size=70), passphrase=st.text(max_size=40))
def test_any_name_and_passphrase_are_kept_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, name: str, passphrase: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_N", 16)
        path = tmp_path_factory.mktemp("any") / "people.json"
        try:
            made = person(name, "admin", passphrase)
        except PeopleError as e:
            refused = e.message
        else:
            refused = ""
        if refused:
            assert len(passphrase) < 10 or "is no name" in refused
            return
        People().having(made).save(path)
        assert People.load(path).check(name, passphrase) == made


@pytest.mark.parametrize(
    ("name", "role", "passphrase", "words"),
    [
        ("Li", "clinical", PASSPHRASE, "unknown role 'clinical'. Did you mean 'clinician'? Known: clinician, auditor, admin."),
        ("Li", "admin", "123456789", "the passphrase has fewer than 10 characters. Four or five words"),
        ("Li", "admin", "x" * 1025, "the passphrase has more than 1024 characters."),
        ("", "admin", PASSPHRASE, "'' is no name. 1 to 64 characters without control characters."),
        ("a\nb", "admin", PASSPHRASE, "'a\\nb' is no name."),
        ("a" * 65, "admin", PASSPHRASE, "is no name."),
        ("a\u202eb", "admin", PASSPHRASE, "is no name."),
    ],
)
def test_what_cannot_be_used_is_said(name: str, role: str, passphrase: str, words: str) -> None:
    with pytest.raises((PeopleError, UsageError)) as error:
        person(name, role, passphrase)
    assert words in str(error.value)


def test_roles() -> None:
    assert {r for r in ROLES if "ask" in ROLES[r]} == {"clinician", "admin"}
    assert {r for r in ROLES if {"lineage", "self-test"} <= ROLES[r]} == set(ROLES)
    made = person("a", "auditor", PASSPHRASE)
    assert made.may("lineage")
    assert not made.may("ask")
    assert not made.may("anything else")


def test_no_list_is_no_login_and_an_empty_one_lets_nobody_in(tmp_path: Path) -> None:
    assert not People.load(tmp_path / "people.json").needed
    People().save(tmp_path / "people.json")
    empty = People.load(tmp_path / "people.json")
    assert empty.needed
    assert empty.check("a", PASSPHRASE) is None


def row(**changed: object) -> bytes:
    usual = {"name": "a", "role": "admin", "salt": "A" * 22 + "==", "scrypt": "A" * 43 + "="}
    return json.dumps({"version": 1, "people": [{**usual, **changed}]}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"\xff", b'{"version":2,"people":[]}', b"[" * 10**5, b'{"version":1,"people":[]}' + b" " * 2**20,
        row(role="root"), row(salt="AA=="), row(scrypt=""), row(scrypt="!" * 43 + "="), row(name=""), row(name="a\n"),
        row(name=" a"), row(n=1), row(name=7),
        b'{"version":1,"people":[' + row()[27:-2] + b"," + row()[27:-2] + b"]}",
    ],
)  # fmt: skip
def test_a_damaged_list_lets_nobody_in(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "people.json"
    path.write_bytes(content)
    with pytest.raises(PeopleError, match=r"people\.json is not a list of operators as skinedge writes it\.") as error:
        People.load(path)
    assert "skinedge people add" in error.value.hint
    path.write_bytes(row())
    assert People.load(path).people[0].name == "a"


def test_two_commands_do_not_change_it_at_once(tmp_path: Path) -> None:
    path = tmp_path / "people.json"
    with changing(path), pytest.raises(PeopleError, match="is being changed by another command"), changing(path):
        pass
    with changing(path) as free:
        assert not free.needed
    lock = FileLock(tmp_path / ".people.json.lock")
    assert lock.take()
    lock.release()


# --- the commands -------------------------------------------------------------------------------------------------------


def add(path: Path, name: str, role: str, passphrase: str, monkeypatch: pytest.MonkeyPatch, *more: str) -> Result:
    monkeypatch.setattr(sys, "stdin", io.StringIO(passphrase + "\n"))
    return typed("people", "add", name, "--role", role, "--passphrase-stdin", "--file", path, *more)


def test_add_list_change_and_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    path = tmp_path / "people.json"
    assert f"No logins: there is no {path}." in typed("people", "list", "--file", path).out
    assert add(path, "Dr Zhou", "clinician", PASSPHRASE, monkeypatch).out == "Dr Zhou is added as clinician.\n"
    assert add(path, "Dr Zhou", "admin", "another one", monkeypatch).out == "Dr Zhou is changed as admin.\n"
    said = add(path, "Wu", "auditor", PASSPHRASE, monkeypatch, "--json").json
    assert said == {
        "file": str(path),
        "login": True,
        "people": [{"name": "Dr Zhou", "role": "admin"}, {"name": "Wu", "role": "auditor"}],
    }
    found = People.load(path)
    assert found.check("Dr Zhou", PASSPHRASE) is None
    assert found.check("Dr Zhou", "another one") is not None
    listed = typed("people", "list", "--file", path).out.splitlines()
    assert [line.split("  ")[0] for line in listed[2:]] == ["Dr Zhou", "Wu"]
    assert "lineage, self-test" in listed[3]
    assert typed("people", "remove", "Wu", "--file", path).out == "Wu is removed.\n"
    last = typed("people", "remove", "Dr Zhou", "--file", path)
    assert f"Nobody can log in now; delete {path} to do without logins." in last.err
    assert People.load(path).needed


def test_mistakes_are_said_and_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    path = tmp_path / "people.json"
    add(path, "Wu", "auditor", PASSPHRASE, monkeypatch)
    before = path.read_bytes()
    for done, code, words in (
        (add(path, "Li", "admin", "short", monkeypatch), 1, "the passphrase has fewer than 10 characters."),
        (add(path, "Li", "root", PASSPHRASE, monkeypatch), 2, "unknown role 'root'."),
        (typed("people", "remove", "Li", "--file", path), 1, "'Li' is not on the list of operators."),
    ):
        assert done.code == code
        assert words in done.err
    assert path.read_bytes() == before
    assert typed("people", "remove", "Li", "--file", path, "--json").json["hint"] == "On it: Wu."
    assert not [p for p in tmp_path.iterdir() if "new" in p.name or "partial" in p.name]


def test_a_passphrase_is_asked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    asked: list[dict[str, object]] = []

    def prompt(text: str, **how: object) -> str:
        asked.append({"text": text, **how})
        return PASSPHRASE

    monkeypatch.setattr("typer.prompt", prompt)
    assert typed("people", "add", "Li", "--file", tmp_path / "people.json").code == 0
    assert asked == [{"text": "Passphrase", "hide_input": True, "confirmation_prompt": True, "err": True}]
    assert People.load(tmp_path / "people.json").check("Li", PASSPHRASE) is not None


def test_it_lies_in_the_state_folder(tmp_path: Path) -> None:
    done = process("people", "list", "--json", XDG_STATE_HOME=str(tmp_path))
    assert done.json["file"] == str(tmp_path / "skinedge" / "people.json")
