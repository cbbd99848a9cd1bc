"""The workstation over HTTP, as its three kinds of client see it; the engine and the bundle are real."""

from __future__ import annotations

import base64
import io
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2 as httpx
import pytest
from clinic import events, until, visit, workstation
from command_line import typed
from PIL import Image

from skinedge.bundle import export
from skinedge.clinic.audit import records, verify_log
from skinedge.clinic.engine import EngineSettings
from skinedge.clinic.guard import HEADERS
from skinedge.clinic.page_api import ASSETS
from skinedge.clinic.people import People, person
from skinedge.clinic.serve import ServeSettings, Serving, open_server
from skinedge.errors import BundleError, UsageError
from skinedge.parity.pictures import make_picture
from skinedge.parity.served import Served, ServedCase
from skinedge.runtime.generate import GenerateOptions
from skinedge.runtime.pipeline import open_pipeline
from skinedge.targets._contract import ExportOptions

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
QUESTION = "What is it?"


def picture(size: tuple[int, int] = (140, 112), seed: int = 1, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    make_picture(*size, seed).save(data, kind)
    return data.getvalue()


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def chat(text: str = QUESTION, *pictures: bytes, **more: object) -> dict[str, object]:
    parts = [*({"type": "image_url", "image_url": {"url": data_url(p)}} for p in pictures), {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 5, **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workstation")


@pytest.fixture(scope="module")
def station(bundles: dict[str, Path], folder: Path) -> Iterator[tuple[httpx.Client, Serving]]:
    with workstation(bundles["f32"], audit=folder / "audit") as (client, serving):
        yield client, serving


@pytest.fixture
def client(station: tuple[httpx.Client, Serving]) -> httpx.Client:
    station[0].cookies.clear()
    return station[0]


def said(bundle: Path, words: str, data: bytes, new: int, side: str | None = None) -> tuple[list[int], str]:
    """What a session of its own says: the truth that every answer over HTTP is held against."""
    with open_pipeline(bundle, side=side, threads=1, context=1024) as pipeline:
        path = bundle.parent / "asked.png"
        path.write_bytes(data)
        generation = pipeline.start(
            [pipeline.session.encode_image(pipeline.pixels(path))], words, GenerateOptions(max_new_tokens=new)
        )
        list(generation)
        return list(generation.transcript.token_ids), generation.transcript.text


# --- OpenAI -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "scheme", "side"), [("onnx", "f32", None), ("gguf", "f16", None), ("onnx", "int4", None)])
def test_answers_are_those_of_the_session_token_by_token(
    source: object, tmp_path: Path, target: str, scheme: str, side: str | None
) -> None:
    bundle = export(source, target, ExportOptions(scheme, context=1024), tmp_path / "b").path  # type: ignore[arg-type]
    asked = {seed: picture((140 + 28 * seed, 112), seed) for seed in range(3)}
    with workstation(bundle, EngineSettings(bundle, side=side, threads=1, context=1024)) as (client, _):
        for data in asked.values():
            tokens, text = said(bundle, QUESTION, data, 24, side)
            body = chat(QUESTION, data, max_tokens=24, return_token_ids=True)
            choice = client.post("/v1/chat/completions", json=body).json()["choices"][0]
            assert (choice["token_ids"], choice["message"]["content"]) == (tokens, text)
            pieces = events(client.post("/v1/chat/completions", json={**body, "stream": True}))
            deltas = [piece["choices"][0] for _, piece in pieces]
            assert [t for d in deltas for t in d.get("token_ids", [])] == tokens
            assert "".join(d["delta"].get("content", "") for d in deltas) == text


def test_parity_holds_the_api_against_the_bundle(client: httpx.Client, bundles: dict[str, Path], tmp_path: Path) -> None:
    url = str(client.base_url)
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(picture(seed=seed))
    short = ("--images", tmp_path, "--threads", "1", "--max-new-tokens", "24")
    done = typed("parity", bundles["f32"], "--served", url, *short)
    assert done.code == 0, done.err
    assert "served: 3 of 3 narratives are the session's, token by token" in done.out
    other = typed("parity", bundles["int4"], "--served", url, *short)
    assert other.code == 1
    assert "serves another bundle" in other.err
    away = typed("parity", bundles["f32"], "--served", "http://example.com/")
    assert away.code == 2
    assert "is no address of this machine, and photographs are sent to it" in away.err
    nobody = typed("parity", bundles["f32"], "--served", "http://127.0.0.1:9/", *short)
    assert nobody.code == 1
    assert "does not answer" in nobody.err
    found = Served((ServedCase("a.png", 9, None), ServedCase("b.png", 7, 3)))
    assert not found.passed
    assert list(found.lines()) == [
        "served: 1 of 2 narratives are the session's, token by token (16 tokens)", "  b.png: another token at 3 of 7",
    ]  # fmt: skip


def test_the_openai_package_is_answered(client: httpx.Client) -> None:
    openai = pytest.importorskip("openai")
    theirs = openai.OpenAI(base_url=f"{client.base_url}v1", api_key="none", max_retries=0)
    (model,) = theirs.models.list().data
    messages = chat(QUESTION, picture())["messages"]
    whole = theirs.chat.completions.create(model=model.id, messages=messages, max_tokens=8, seed=3)
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    stream = theirs.chat.completions.create(
        model=model.id, messages=messages, max_tokens=8, stream=True, stream_options={"include_usage": True}
    )
    pieces = list(stream)
    assert "".join(p.choices[0].delta.content or "" for p in pieces if p.choices) == whole.choices[0].message.content
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens
    stop = whole.choices[0].message.content[1:3]
    cut = theirs.chat.completions.create(model=model.id, messages=messages, max_tokens=8, stop=[stop])
    assert cut.choices[0].message.content == whole.choices[0].message.content.split(stop)[0]
    assert cut.choices[0].finish_reason == "stop"
    with pytest.raises(openai.NotFoundError, match="no model 'gpt' is served here"):
        theirs.chat.completions.create(model="gpt", messages=messages)
    theirs.close()


@pytest.mark.parametrize(
    ("change", "status", "code", "words"),
    [
        ({"n": 2}, 400, "unsupported", "'n' cannot be honoured: one answer is given"),
        ({"tools": [{"type": "function"}]}, 400, "unsupported", "the model calls no tools"),
        ({"logprobs": True}, 400, "unsupported", "log-probabilities are not given out"),
        ({"response_format": {"type": "json_object"}}, 400, "unsupported", "answers in its own form"),
        ({"messages": []}, 422, "bad_request", "'messages': List should have at least 1 item"),
        ({"temperature": "hot"}, 422, "bad_request", "'temperature': Input should be a valid number"),
        ({"max_tokens": 0}, 422, "bad_request", "greater than or equal to 1"),
        (chat("<|im_end|>"), 400, "bad_prompt", "holds the special token <|im_end|>"),
        (chat("word " * 5000), 400, "too_long", "the model's context holds 1024"),
        (chat("x", b"not a picture"), 415, "not_a_photograph", "is not a photograph: it holds text"),
        (chat("x", picture()[:-200]), 422, "unreadable_photograph", "is damaged or cut short"),
        (chat("x", *[picture()] * 9), 400, "too_many_pictures", "9 photographs are too many"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_says_why(
    client: httpx.Client, change: dict[str, object], status: int, code: str, words: str
) -> None:
    for stream in (False, True):
        response = client.post("/v1/chat/completions", json={**chat(), **change, "stream": stream})
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (status, code)
        assert words in error["message"]


@pytest.mark.parametrize(
    ("url", "code"),
    [("http://example.com/a.png", "no_outgoing_connection"), ("file:///etc/passwd", "no_outgoing_connection"),
     ("data:image/png;base64,%%%", "bad_data_url"), ("data:image/png,abc", "bad_data_url")],
)  # fmt: skip
def test_pictures_come_with_the_request_only(client: httpx.Client, url: str, code: str) -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}
    response = client.post("/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)


# --- SkinGPT-R1's own -----------------------------------------------------------------------------------------------------


def test_the_clients_of_skingpt_r1_go_on_working(client: httpx.Client) -> None:
    health = client.get("/health").json()
    assert (health["status"], health["model_loaded"]) == ("healthy", True)
    uploaded = client.post("/v1/upload/s1", files={"file": ("a.png", picture())}, data={"survey": "x"})
    assert uploaded.json()["message"] == "Image uploaded successfully"
    first = client.post("/v1/predict/s1", json={"message": QUESTION}).json()["message"]
    second = client.post("/v1/predict/s1", json={"message": "Why?"}).json()["message"]
    assert first
    assert second
    assert client.post("/v1/reset/s1").json() == {"message": "Chat history reset"}
    without = client.post("/v1/predict/s1", json={"message": "Why?"}).json()["message"]
    assert without != second, "the photograph and the history are forgotten"
    assert client.post("/v1/predict/s1", json={"message": ""}).status_code == 422
    assert client.post("/v1/upload/s1", files={"file": ("a.png", b"<svg>")}).status_code == 415


@pytest.mark.parametrize(("language", "words"), [("zh", "诊断完成"), ("en", "Diagnosis completed"), ("fr", "诊断完成")])
def test_diagnose_stream(client: httpx.Client, language: str, words: str) -> None:
    form = {"text": QUESTION, "language": language}
    told = [data for _, data in events(client.post("/diagnose/stream", data=form, files={"image": ("a.png", picture())}))]
    assert {d["type"] for d in told} == {"delta", "final"}
    final = told[-1]["result"]
    assert isinstance(final, dict)
    assert final["raw"] == "".join(str(d["text"]) for d in told[:-1])
    assert (final["message"], final["success"], final["refined_by_deepseek"]) == (words, True, False)


# --- the page's ------------------------------------------------------------------------------------------------------------


def test_a_visit(client: httpx.Client, station: tuple[httpx.Client, Serving], folder: Path) -> None:
    mine = visit(client)
    model = client.get("/api/model").json()
    assert model["certificate"] is None
    assert model["lineage"][0]["kind"] == "adapter-checkpoint"
    taken = client.post("/api/pictures", content=picture(), headers=mine)
    assert taken.status_code == 201
    name = taken.json()["id"]
    assert (taken.json()["width"], taken.json()["height"]) == (140, 112)
    first = {"role": "user", "content": [{"type": "picture", "id": name}]}
    told = events(client.post("/api/ask", json={"messages": [first], "max_new_tokens": 6}, headers=mine))
    assert [e for e, _ in told][:2] == ["queued", "started"]
    done = dict(told)["done"]
    assert done["finish_reason"] == "length"
    assert done["tokens"] == 6
    seconds = done["seconds"]
    assert isinstance(seconds, dict)
    assert seconds["total"] >= seconds["decode"] > 0
    assert [d["text"] for e, d in told if e == "text"]
    again = [first, {"role": "assistant", "content": done["text"]}, {"role": "user", "content": "Why?"}]
    follow = dict(events(client.post("/api/ask", json={"messages": again, "max_new_tokens": 4}, headers=mine)))
    assert follow["done"]["tokens"] == 4
    exchange = {"question": QUESTION, "pictures": [name], "raw": done["text"], "time": done["time"], "seconds": 1.5}
    report = client.post("/api/report", json={"language": "zh", "reference": "<b>7", "exchanges": [exchange]}, headers=mine)
    assert report.headers["content-disposition"].startswith("attachment; filename=")
    assert "&lt;b&gt;7" in report.text
    assert model["digest"][:12] in report.text
    assert client.delete(f"/api/pictures/{name}", headers=mine).status_code == 204
    gone = client.post("/api/ask", json={"messages": [first]}, headers=mine)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "picture_gone")
    written = list(records(folder / "audit"))
    answers = [r for r in written if r.event == "answer"]
    assert answers[-1].fields["pictures"] == [name]
    text = (folder / "audit" / "audit.jsonl").read_text() if (folder / "audit" / "audit.jsonl").exists() else ""
    assert QUESTION not in text
    assert verify_log(folder / "audit").count == len(written)


def test_a_visit_is_its_own(client: httpx.Client) -> None:
    mine = visit(client)
    name = client.post("/api/pictures", content=picture(), headers=mine).json()["id"]
    ask = {"messages": [{"role": "user", "content": [{"type": "picture", "id": name}]}]}
    client.cookies.clear()
    assert client.post("/api/ask", json=ask, headers=mine).json()["error"]["code"] == "session_needed"
    other = visit(client)
    assert client.post("/api/ask", json=ask, headers=mine).json()["error"]["code"] == "csrf"
    assert client.post("/api/ask", json=ask, headers=other).json()["error"]["code"] == "picture_gone"


def test_leaving_stops_the_answer(client: httpx.Client, station: tuple[httpx.Client, Serving]) -> None:
    mine = visit(client)
    ask = {"messages": [{"role": "user", "content": "tell me"}], "max_new_tokens": 900}
    with client.stream("POST", "/api/ask", json=ask, headers=mine) as response:
        next(response.iter_text())
    until(lambda: client.get("/api/status").json()["state"] == "ready", 10)
    metrics = client.get("/metrics").text
    assert re.search(r'skinedge_answers_total\{end="(left|cancelled)"\} [1-9]', metrics)


def test_the_self_test(client: httpx.Client) -> None:
    told = events(client.post("/api/selftest", headers=visit(client)))
    checks = {str(d["name"]): d for e, d in told if e == "check"}
    assert list(checks) == ["bundle", "golden", "audit", "engine", "network"]
    assert {n: c["passed"] for n, c in checks.items()} == {
        "bundle": True,
        "golden": None,
        "audit": True,
        "engine": True,
        "network": True,
    }
    assert told[-1] == ("done", {"passed": True})


# --- the guard -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/health", "/api/session", "/nowhere", "/v1/models", "/openapi.json", "/metrics"])
def test_every_answer_carries_the_headers(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert {n.lower() for n in HEADERS} <= {n.lower() for n in response.headers}
    assert "server" not in response.headers
    assert "default-src 'none'" in response.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1"])
def test_another_name_is_not_answered(client: httpx.Client, host: str) -> None:
    response = client.get("/health", headers={"Host": host})
    assert response.status_code in (400, 421)


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://127.0.0.1:1"}],
)
def test_a_page_of_another_site_is_not_answered(client: httpx.Client, headers: dict[str, str]) -> None:
    for method, path in (("POST", "/v1/chat/completions"), ("POST", "/api/ask"), ("GET", "/api/model")):
        response = client.request(method, path, headers=headers, **({"json": chat()} if method == "POST" else {}))
        assert (response.status_code, response.json()["error"]["code"]) == (403, "wrong_origin")
    same = {"Origin": str(client.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert client.post("/v1/chat/completions", json=chat(), headers=same).status_code == 200


def test_too_large_a_body_is_refused_before_it_is_read(client: httpx.Client, station: tuple[httpx.Client, Serving]) -> None:
    host, port = station[1].socket.getsockname()[:2]
    mine = visit(client)
    with socket.create_connection((host, port), timeout=10) as raw:
        raw.sendall(b"POST /api/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n")
        assert b"413" in raw.recv(4096).split(b"\r\n")[0]

    with socket.create_connection((host, port), timeout=10) as raw:  # one that does not say how long it is
        raw.sendall(b"POST /api/pictures HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n")
        raw.sendall(f"Cookie: skinedge_session={client.cookies['skinedge_session']}\r\n".encode())
        raw.sendall("".join(f"{n}: {v}\r\n" for n, v in mine.items()).encode() + b"\r\n")
        answer = b""
        for _ in range(200):
            try:
                raw.sendall(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")
            except OSError:
                break
            raw.setblocking(False)
            with suppress(BlockingIOError):
                answer += raw.recv(4096)
            raw.settimeout(10)
            if answer:
                break
        assert b" 413 " in answer.split(b"\r\n")[0]


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "unreadable_photograph"), (b"GIF89a", 422, "unreadable_photograph"), (b"<svg/>", 415, "not_a_photograph"),
        (b"%PDF-1.7", 415, "not_a_photograph"), (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, 422, "unreadable_photograph"),
    ],
)  # fmt: skip
def test_what_is_no_photograph(client: httpx.Client, data: bytes, status: int, code: str) -> None:
    response = client.post("/api/pictures", content=data, headers=visit(client))
    assert response.json()["error"]["code"] in (code, "not_a_photograph")
    assert response.status_code in (status, 415)


def test_exif_does_not_come_in(client: httpx.Client, station: tuple[httpx.Client, Serving]) -> None:
    image, exif = make_picture(140, 112, 3), Image.Exif()
    exif[0x010F], exif[0x0112] = "SecretCamera", 6
    data = io.BytesIO()
    image.save(data, "JPEG", exif=exif)
    mine = visit(client)
    taken = client.post("/api/pictures", content=data.getvalue(), headers=mine).json()
    assert (taken["width"], taken["height"]) == (112, 140)  # upright
    exchange = {"question": "", "pictures": [taken["id"]], "raw": "x", "time": "2026-01-01T00:00:00Z", "seconds": 0}
    report = client.post("/api/report", json={"exchanges": [exchange]}, headers=mine).text
    (jpeg,) = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", report)
    assert b"SecretCamera" not in base64.b64decode(jpeg)


# --- who may ------------------------------------------------------------------------------------------------------------


def test_operators_log_in_and_programs_have_a_key(bundles: dict[str, Path], tmp_path: Path) -> None:
    people, key = tmp_path / "people.json", tmp_path / "key"
    key.write_text("k" * 32 + "\n")
    asha, otto = person("asha", "clinician", "a long passphrase"), person("otto", "auditor", "another passphrase")
    People().having(asha).having(otto).save(people)
    with workstation(bundles["f32"], people=people, key_file=key, audit=tmp_path / "audit") as (client, _):
        session = client.get("/api/session").json()
        assert (session["login"], session["operator"]) == ("needed", None)
        mine = {"X-Skinedge-CSRF": session["csrf"]}
        assert client.get("/api/model", headers=mine).json()["error"]["code"] == "login_needed"
        wrong = client.post("/api/login", json={"name": "asha", "passphrase": "not this one"}, headers=mine)
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "wrong_passphrase")
        assert (
            client.post("/api/login", json={"name": "asha", "passphrase": "a long passphrase"}).json()["error"]["code"] == "csrf"
        )
        before = client.cookies["skinedge_session"]
        done = client.post("/api/login", json={"name": "asha", "passphrase": "a long passphrase"}, headers=mine).json()
        assert (done["login"], done["operator"], done["role"]) == ("done", "asha", "clinician")
        assert client.cookies["skinedge_session"] != before
        mine = {"X-Skinedge-CSRF": done["csrf"]}
        ask = {"messages": [{"role": "user", "content": "hello"}], "max_new_tokens": 2}
        assert client.post("/api/ask", json=ask, headers=mine).status_code == 200
        People().having(otto).save(people)  # she was taken off the list
        assert client.post("/api/ask", json=ask, headers=mine).json()["error"]["code"] == "login_needed"
        assert client.post("/api/logout", headers=mine).json()["error"]["code"] == "session_needed", "and her visit has ended"
        mine = visit(client)
        done = client.post("/api/login", json={"name": "otto", "passphrase": "another passphrase"}, headers=mine).json()
        mine = {"X-Skinedge-CSRF": done["csrf"]}
        assert client.post("/api/ask", json=ask, headers=mine).json()["error"]["code"] == "not_allowed"
        assert client.get("/api/model").json()["digest"], "an auditor sees what is served"
        assert client.get("/api/certificate").json()["error"]["code"] == "not_found", "and would see its certificate"
        assert client.post("/v1/chat/completions", json=chat()).status_code == 401
        bearer = {"Authorization": f"Bearer {'k' * 32}"}
        assert client.post("/v1/chat/completions", json=chat(), headers=bearer).status_code == 200
        for path, body in (("/v1/predict/x", {"message": "a"}), ("/v1/reset/x", {})):
            assert client.post(path, json=body).status_code == 401
    assert next(r.fields.get("operator") for r in records(tmp_path / "audit") if r.event == "answer") == "asha"
    assert [r.event for r in records(tmp_path / "audit")].count("login") == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"host": "0.0.0.0"}, "can be reached from other machines, and a photograph would cross"),
        ({"host": "0.0.0.0", "expose": True}, "nobody would have to say who they are"),
        ({"expose": True}, "nobody would have to say who they are"),
        ({"expose": True, "key_file": True}, "nobody would have to say who they are"),
        ({"host": "nowhere"}, "'nowhere' is no address"),
    ],
)
def test_only_this_machine_unless_said_otherwise(
    bundles: dict[str, Path], settings: dict[str, object], words: str, tmp_path: Path
) -> None:
    if settings.get("key_file"):
        settings = {**settings, "key_file": tmp_path / "key"}
        (tmp_path / "key").write_text("k" * 32)
    with pytest.raises(UsageError, match=words):
        open_server(ServeSettings(EngineSettings(bundles["f32"]), port=0, **settings))  # type: ignore[arg-type]


def test_behind_a_proxy_with_tls(bundles: dict[str, Path], tmp_path: Path) -> None:
    People().having(person("Asha", "clinician", "a long passphrase")).save(tmp_path / "people.json")
    with workstation(bundles["f32"], expose=True, people=tmp_path / "people.json", names=("Skin.Clinic",)) as (client, _):
        assert "Secure" not in client.get("/api/session").headers["set-cookie"]
        page = {"Host": "skin.clinic", "Origin": "https://skin.clinic"}
        refused = client.get("/api/session", headers=page)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "wrong_origin")
        assert "X-Forwarded-Proto" in refused.json()["error"]["hint"]
        passed = client.get("/api/session", headers={**page, "X-Forwarded-Proto": "https"})
        assert passed.status_code == 200
        assert "Secure" in passed.headers["set-cookie"]


def test_a_short_key_and_a_taken_port_are_refused(
    bundles: dict[str, Path], station: tuple[httpx.Client, Serving], tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("short")
    with pytest.raises(UsageError, match="its key has 5 characters and could be guessed"):
        open_server(ServeSettings(EngineSettings(bundles["f32"]), port=0, key_file=tmp_path / "key"))
    port = station[1].socket.getsockname()[1]
    with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 cannot be used"):
        open_server(ServeSettings(EngineSettings(bundles["f32"]), port=port))


def test_a_changed_bundle_is_not_served(bundles: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(bundles["int4"], tmp_path / "b"))
    data = bytearray((copy / "head.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "head.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"'head\.onnx' was changed"):
        open_server(ServeSettings(EngineSettings(copy), port=0))


def test_the_pages_files_say_what_they_are(client: httpx.Client) -> None:
    for path in sorted(ASSETS.iterdir()):
        kind = client.get(f"/assets/{path.name}").headers["content-type"].split(";")[0]
        assert kind == {".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".svg": "image/svg+xml"}.get(
            path.suffix, "text/html"
        )
    for name in ("nothing.js", "..%2Fapp.py", "%2e%2e/app.py"):
        assert client.get(f"/assets/{name}").status_code == 404


def test_metrics_and_the_document(client: httpx.Client) -> None:
    client.post("/v1/chat/completions", json=chat())
    assert re.search(r"skinedge_generated_tokens_total [1-9]", client.get("/metrics").text)
    document = client.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/v1/models", "/v1/predict/{state_id}", "/diagnose/stream", "/health", "/api/ask"} <= set(
        document["paths"]
    )
    assert client.get("/docs").status_code == 404, "its page would load scripts from elsewhere"
