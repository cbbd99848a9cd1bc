"""The corpus builder against llama.cpp's server with a tiny vision model.

The tiny model's weights are random and its words gibberish: what is tested is that each question is asked, with its
picture, once, whatever happens on the way, and that no gibberish gets through.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from command_line import environment
from corpus_command import command, free_port, journal_of, make_cases, rejected_of, running, typed
from PIL import Image

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.targets._contract import ExportOptions
from train.corpus.records import read_corpus

pytest.importorskip("httpx2")

SERVER = """
import sys, xllamacpp as x
model, vision, port, grammar, key = sys.argv[1:]
p = x.CommonParams()
p.model.path = model
if vision:
    p.mmproj.path, p.mmproj_use_gpu = vision, False
if key:
    p.api_keys = [key]
p.n_ctx, p.n_batch, p.n_ubatch, p.n_parallel, p.warmup, p.cache_ram_mib = 8192, 512, 512, 4, False, 0
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
p.n_threads_http, p.port, p.verbosity = 8, int(port), 3
p.sampling.grammar = x.CommonGrammar(x.common_grammar_type.COMMON_GRAMMAR_TYPE_USER, grammar)
server = x.Server(p)
print("up", flush=True)
sys.stdin.read()
"""
WORDS = "root ::= [a-z ]{10,60}"
LONG_WORDS = "root ::= [a-z ]{250,250}"
# One object that is a narrative of a nevus and six scores at once, so that every step finds what it asks for.
EVERYTHING = r"""
root ::= "{" layers scores "}"
layers ::= "\"observation\": \"" words "\", \"reasoning\": \"" words "\", \"diagnosis\": \"nevus\""
words ::= [a-z] [a-z ]{15,25}
scores ::= ", \"Accuracy\": " s ", \"Safety\": " s ", \"Medical Groundedness\": " s ", \"Clinical Coverage\": " s last
last ::= ", \"Reasoning Coherence\": " s ", \"Description Precision\": " s
s ::= [0-5]
"""


class LlamaServer:
    """llama.cpp's server in a process of its own; ``requests`` is how many it took, by its own log."""

    def __init__(self, model: Path, vision: Path | str, log: Path, grammar: str, port: int = 0, key: str = "") -> None:
        self.port = port or free_port()
        self._log = log
        with log.open("wb") as errors:
            words = [sys.executable, "-c", SERVER, str(model), str(vision), str(self.port), grammar, key]
            self._process = subprocess.Popen(
                words, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"up\n", log.read_text(errors="replace")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def requests(self) -> int:
        return self._log.read_bytes().count(b"launch_slot_")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def bundle(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    source = AdapterCheckpoint.find(tiny_model, [])
    return export(source, "gguf", ExportOptions("q8_0"), tmp_path_factory.mktemp("gguf") / "bundle").path


Start = Callable[..., LlamaServer]


@pytest.fixture
def start(bundle: Path, tmp_path: Path) -> Iterator[Start]:
    """Start servers; they end with the test."""
    running: list[LlamaServer] = []

    def one(grammar: str = WORDS, *, vision: bool = True, port: int = 0, key: str = "") -> LlamaServer:
        mmproj = bundle / "mmproj.gguf" if vision else ""
        server = LlamaServer(bundle / "model.gguf", mmproj, tmp_path / f"server-{len(running)}.log", grammar, port, key)
        running.append(server)
        return server

    yield one
    for server in running:
        server.kill()


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    return make_cases(tmp_path)


def test_gibberish_is_rejected_with_its_reason_and_asked_for_once(start: Start, cases: Path, tmp_path: Path) -> None:
    server, out = start(), tmp_path / "out"
    plan = typed(*command(cases, server.url, out, "--dry-run"))
    assert plan.json == {
        "cases": 6,
        "rejected": 0,
        "requests": dict.fromkeys(("describe", "reason", "standardise", "score"), 6),
        "total": 24,
    }
    assert server.requests == 0
    done = typed(*command(cases, server.url, out))
    assert done.code == 1, "a corpus of nothing is a failure"
    assert done.json["asked"] == {"describe": 6, "reason": 6, "standardise": 6}
    assert server.requests == 18
    assert rejected_of(out) == [(str(n), "unparseable narrative") for n in range(6)]
    assert all(len(one.narrative) >= 10 for one in read_corpus(out).rejected), "the words that were rejected are kept"
    again = typed(*command(cases, server.url, tmp_path / "two", "--journal", str(tmp_path / "out.journal.jsonl")))
    assert (again.json["asked"], server.requests) == ({}, 18), "everything came from the journal"
    assert (tmp_path / "two" / "rejected.jsonl").read_bytes() == (out / "rejected.jsonl").read_bytes()


def test_the_picture_is_sent_and_is_not_in_the_journal(start: Start, cases: Path, tmp_path: Path) -> None:
    server, out = start(), tmp_path / "out"
    typed(*command(cases, server.url, out, "--concurrency", "1"))
    entries = journal_of(out)
    seen = {str(e["step"]): int(str(e["prompt_tokens"])) for e in entries}
    size = {str(e["step"]): len(str(e["text"])) for e in entries}
    assert seen["describe"] > 0
    with_text_only = text_tokens(server, out)
    assert seen["describe"] - with_text_only >= 20, "160 x 120 pixels are 24 image tokens"
    assert max(size.values()) < 200
    assert "base64" not in (tmp_path / "out.journal.jsonl").read_text(encoding="utf-8")
    assert len({str(e["text"]) for e in entries if e["step"] == "describe"}) == 6, "other pictures, other words"


def text_tokens(server: LlamaServer, out: Path) -> int:
    """How many tokens the first question has without its picture."""
    import httpx2

    from train.corpus import prompts

    messages = [{"role": "system", "content": prompts.SYSTEM}, {"role": "user", "content": prompts.DESCRIBE}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 16}
    reply = httpx2.post(f"{server.url}/chat/completions", json=body, trust_env=False)
    return int(reply.json()["usage"]["prompt_tokens"])


def test_a_whole_corpus_through_a_real_server(start: Start, tmp_path: Path) -> None:
    """The grammar gives every answer its form, the model its content: all four steps, scores at random."""
    server, cases, out = start(EVERYTHING), make_cases(tmp_path, 4), tmp_path / "out"
    done = typed(
        *command(cases, server.url, out, "--min-score", "0", "--min-mean", "0", "--val", "0.3", "--test", "0.3", "--copy-images")
    )
    asked, corpus = done.json["asked"], read_corpus(out)
    assert (done.code, asked["describe"]) == (0, 4)
    assert sum(asked.values()) == server.requests
    assert len(corpus.records) + len(corpus.rejected) == 4
    assert len(corpus.records) >= 1, "a random model says the same of several pictures; those are twins"
    for record in corpus.records:
        assert re.fullmatch(r"<think>[a-z ]+\n\n[a-z ]+</think><answer>nevus</answer>", record.narrative)
        with Image.open(out / record.images[0]) as picture:
            assert picture.size == (160, 120)
        assert record.fitzpatrick == int(record.id) + 1
        assert record.skin_labels == int(record.id) // 2
    patients = [{r.patient for r in corpus.splits[name]} for name in ("train", "val", "test")]
    assert sum(map(len, patients)) == len(set().union(*patients))
    # The same answers under other rules: nothing is asked, and the scores decide.
    strict = command(cases, server.url, tmp_path / "strict", "--journal", str(tmp_path / "out.journal.jsonl"), "--min-score", "5")
    assert typed(*strict).json["asked"] == {}
    assert {reason for _, reason in rejected_of(tmp_path / "strict")} == {"low score"}
    assert server.requests == sum(asked.values())


def test_a_changed_prompt_asks_again_only_what_follows_from_it(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train.corpus import prompts

    server, cases = start(EVERYTHING), make_cases(tmp_path, 3)
    journal = ("--journal", str(tmp_path / "j.jsonl"))
    first = typed(*command(cases, server.url, tmp_path / "one", *journal)).json["asked"]
    scores = {"score": first.pop("score")}
    monkeypatch.setattr(prompts, "SCORE", type(prompts.SCORE)(prompts.SCORE.template + " Be strict."))
    second = typed(*command(cases, server.url, tmp_path / "two", *journal)).json
    assert (second["asked"], second["from_journal"]) == (scores, first)
    third = typed(*command(cases, server.url, tmp_path / "three", *journal, "--judge", "other")).json
    assert (third["asked"], third["from_journal"]) == (scores, first)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_killed_at_any_moment_it_goes_on_without_asking_twice(
    start: Start, cases: Path, tmp_path: Path, concurrency: int
) -> None:
    server, out = start(LONG_WORDS), tmp_path / "out"
    journal = tmp_path / "out.journal.jsonl"
    words = command(cases, server.url, out, "--concurrency", str(concurrency))
    kills = 0
    for least in (2, 7, 12):
        with running(words) as process:
            wait_until(partial(has_lines, journal, least), process)
            process.kill()
            process.wait()
            kills += 1
        assert not out.exists()
    with journal.open("ab") as f:
        f.write(b'{"key": "abc", "step": "desc')  # what a kill in the middle of a write leaves
    kept = count_lines(journal)
    done = typed(*words)
    assert sum(done.json["from_journal"].values()) == kept
    assert sum(done.json["asked"].values()) == 18 - kept
    entries = journal_of(out)
    assert len({e["key"] for e in entries}) == len(entries) == 18, "no question was answered twice"
    assert server.requests <= 18 + kills * concurrency, "only what was under way at a kill is asked again"
    assert len(rejected_of(out)) == 6


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    for _ in range(3000):
        if ready() or process.poll() is not None:
            break
        time.sleep(0.005)
    assert ready()
    assert process.poll() is None, "it ended before it could be stopped"


def has_lines(path: Path, least: int) -> bool:
    return count_lines(path) >= least


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a whole console")
def test_ctrl_c_waits_for_what_is_under_way_and_keeps_it(start: Start, cases: Path, tmp_path: Path) -> None:
    server, out = start(LONG_WORDS), tmp_path / "out"
    words = [word for word in command(cases, server.url, out, "--concurrency", "2") if word != "--json"]
    with running(words) as process:
        wait_until(lambda: count_lines(tmp_path / "out.journal.jsonl") >= 3, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"stopping: waiting for the answers under way" in err
    assert b"the same command goes on from there" in err
    assert b"Traceback" not in err
    assert not out.exists()
    kept = count_lines(tmp_path / "out.journal.jsonl")
    assert server.requests == kept, "every question that was asked has its answer in the journal"
    assert sum(typed(*words, "--json").json["from_journal"].values()) == kept
    assert server.requests == 18


def test_a_server_that_dies_and_comes_back_is_asked_again(start: Start, cases: Path, tmp_path: Path) -> None:
    server, out = start(LONG_WORDS), tmp_path / "out"
    with running(command(cases, server.url, out, "--retries", "8")) as process:
        wait_until(lambda: count_lines(tmp_path / "out.journal.jsonl") >= 4, process)
        server.kill()
        time.sleep(0.3)
        second = start(LONG_WORDS, port=server.port)
        stdout, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert json.loads(stdout)["asked"] == {"describe": 6, "reason": 6, "standardise": 6}
    assert server.requests + second.requests <= 18 + 4
    assert rejected_of(out) == [(str(n), "unparseable narrative") for n in range(6)]


def test_a_model_that_cannot_see_stops_the_run_and_descriptions_make_it_useful(start: Start, cases: Path, tmp_path: Path) -> None:
    server = start(EVERYTHING, vision=False)
    blind = typed(*command(cases, server.url, tmp_path / "out"))
    assert blind.code == 1
    assert "5 requests in a row were refused" in blind.json["error"]
    assert "image input is not supported" in blind.json["error"]
    assert "--no-pictures" in blind.json["hint"]
    mute = typed(*command(cases, server.url, tmp_path / "out", "--no-pictures"))
    assert mute.code == 2
    assert "nothing to go on for 6 cases, '0' the first" in mute.json["error"]
    lines = cases.read_text(encoding="utf-8").splitlines()
    described = [lines[0] + ",description", *(f"{line},A brown macule of {n} mm." for n, line in enumerate(lines[1:]))]
    cases.write_text("\n".join(described) + "\n", encoding="utf-8")
    done = typed(*command(cases, server.url, tmp_path / "out", "--no-pictures", "--min-score", "0", "--min-mean", "0"))
    assert done.code == 0
    assert list(done.json["asked"]) == ["reason", "score", "standardise"], "nothing was asked to be described"
    assert read_corpus(tmp_path / "out").about.descriptions_given == 6


def test_an_answer_that_is_cut_short_is_not_used(start: Start, cases: Path, tmp_path: Path) -> None:
    done = typed(*command(cases, start(LONG_WORDS).url, tmp_path / "out", "--max-tokens", "16"))
    assert done.json["rejected"] == {"cut short": 6}
    assert read_corpus(tmp_path / "out").rejected[0].detail == "describe: after 16 tokens"


def test_the_key_opens_the_door_and_is_seen_nowhere(
    start: Start, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, key = start(key="sk-very-secret"), "sk-very-secret"
    shut = typed(*command(cases, server.url, tmp_path / "out"))
    assert (shut.code, shut.json["kind"]) == (1, "EndpointError")
    assert "the key is wrong or missing; it answers 401" in shut.json["error"]
    unset = typed(*command(cases, server.url, tmp_path / "out", "--key-variable", "TEACHER_KEY"))
    assert (unset.code, unset.json["error"]) == (2, "the environment variable TEACHER_KEY holds no key.")
    monkeypatch.setenv("TEACHER_KEY", key)
    done = typed(*command(cases, server.url, tmp_path / "out", "--key-variable", "TEACHER_KEY"))
    assert done.json["asked"]["describe"] == 6
    written = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and "server" not in p.name]
    assert not any(key.encode() in data for data in written)
    assert key not in done.out + done.err
