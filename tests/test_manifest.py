"""``skinedge.json`` is data from outside: whatever it holds, it is read or refused, and never crashes the reader."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import typed
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from skinedge.bundle import check_files, verify
from skinedge.errors import BundleError, SkinedgeError
from skinedge.manifest import MANIFEST_FILE, _digest, _text, read_manifest

pytest.importorskip("onnx_ir")

Place = tuple[str | int, ...]

STRANGE = [
    None, True, False, 0, -1, 2**31, 2**63, 10**30, 1e308, -0.0, float("nan"), float("inf"), "", " ", "\0", "\ud800", "../x",
    "/etc/passwd", "C:\\x", "NUL", "a" * 5000, [], {}, [[]], [None], {"": {}}, {"path": "x"},
]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(STRANGE),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("manifest") / "b"
    assert typed("export", "-t", "onnx", "-s", "int4", "--out", out).code == 0
    return out


@pytest.fixture(scope="module")
def original(pristine: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((pristine / MANIFEST_FILE).read_text(encoding="utf-8"))
    # One of many tensors is enough, so that a mutation meets the rest of the page as often.
    manifest["applied"] = dict(list(manifest["applied"].items())[:2])
    return manifest


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every place in a JSON value."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*at, key))


def mutated(manifest: dict[str, Any], place: Place, change: str, value: Any) -> Any:
    """``manifest`` with the value at ``place`` replaced, removed, doubled or joined by a new one."""
    if not place:
        return value
    changed = copy.deepcopy(manifest)
    parent = changed
    for key in place[:-1]:
        parent = parent[key]  # type: ignore[index]
    key = place[-1]
    if change == "remove":
        del parent[key]  # type: ignore[arg-type]
    elif change == "double":
        parent[key] = [parent[key], parent[key]]  # type: ignore[index]
    elif change == "join" and isinstance(parent, dict):
        parent[str(value)[:40]] = value
    else:
        parent[key] = value  # type: ignore[index]
    return changed


def read_or_refuse(folder: Path, text: bytes) -> None:
    """Read a manifest, and all that the commands do with one that is accepted."""
    (folder / MANIFEST_FILE).write_bytes(text)
    refused = None
    try:
        manifest = read_manifest(folder)
    except BundleError as e:
        refused = e
    if refused:
        assert refused.message
        assert refused.hint
        return
    assert manifest.digest
    assert manifest.architecture.config()
    assert not any(".." in record.path.split("/") or record.path.startswith("/") for record in manifest.files)
    assert typed("show", folder).code == 0
    for check in (check_files, verify):
        with pytest.raises(SkinedgeError):  # the files are not here
            check(folder)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_a_mutated_manifest_is_read_or_refused(original: dict[str, Any], scratch: Path, data: st.DataObject) -> None:
    manifest = original
    for _ in range(data.draw(st.integers(1, 3))):
        if not isinstance(manifest, dict):
            break
        place = data.draw(st.sampled_from(list(places(manifest))))
        change = data.draw(st.sampled_from(["replace", "remove", "double", "join"]))
        manifest = mutated(manifest, place, change, data.draw(VALUES))
    if isinstance(manifest, dict) and data.draw(st.booleans()):
        manifest = sealed(manifest)
    read_or_refuse(scratch, json.dumps(manifest).encode())


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """``manifest`` with the digest it then has, as whoever changes one on purpose would do."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    try:
        return {**rest, "digest": _digest(rest)}
    except UnicodeEncodeError:  # half a character has no bytes
        return manifest


def test_a_changed_number_is_found_unless_sealed(original: dict[str, Any], scratch: Path) -> None:
    """It would be another model, or another way of decoding, and every file would still be right."""
    (scratch / MANIFEST_FILE).write_bytes(_text(sealed(original)).encode())
    read_manifest(scratch)
    numbers = [
        p for p in places(original) if isinstance(value_at(original, p), int | float) and p[0] in ("architecture", "decoding")
    ]
    assert len(numbers) > 20
    for place in numbers:
        changed = mutated(sealed(original), place, "replace", value_at(original, place) + 1)
        (scratch / MANIFEST_FILE).write_bytes(_text(changed).encode())
        with pytest.raises(BundleError, match=r"was changed since it was written|less than or equal"):
            read_manifest(scratch)
    for text in (_text(sealed(original)) + " ", json.dumps(sealed(original)), _text(sealed(original)).replace("\n", "\r\n")):
        (scratch / MANIFEST_FILE).write_bytes(text.encode())
        with pytest.raises(BundleError, match="was changed since it was written"):
            read_manifest(scratch)


def value_at(value: Any, place: Place) -> Any:
    for key in place:
        value = value[key]
    return value


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(start=st.integers(0, 10**6), drop=st.integers(0, 40), put=st.binary(max_size=12))
@example(start=0, drop=10**6, put=b"[" * 12)
def test_a_damaged_file_is_read_or_refused(original: dict[str, Any], scratch: Path, start: int, drop: int, put: bytes) -> None:
    text = json.dumps(original).encode()
    start %= len(text)
    read_or_refuse(scratch, text[:start] + put + text[start + drop :])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"1" * 10_000,
        b"\xef\xbb\xbf{}",
        b'{"schema_version": 1e400}',
    ],
)
def test_what_is_no_manifest_at_all(scratch: Path, text: bytes) -> None:
    (scratch / MANIFEST_FILE).write_bytes(text)
    with pytest.raises(BundleError):
        read_manifest(scratch)


def test_a_manifest_that_is_a_folder_or_too_large(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).mkdir()
    with pytest.raises(BundleError, match=r"it has no skinedge.json"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST_FILE).rmdir()
    with (tmp_path / MANIFEST_FILE).open("wb") as f:
        f.truncate(65 << 20)
    with pytest.raises(BundleError, match="is too large for a manifest"):
        read_manifest(tmp_path)
