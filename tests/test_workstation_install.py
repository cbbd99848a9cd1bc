"""The workstation's installation: its own program in a home of its own, with a systemd that starts real processes."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from clinic import until
from command_line import ROOT, typed

from skinedge.clinic.audit import verify_log
from skinedge.clinic.locks import FileLock
from skinedge.clinic.people import People, person
from skinedge.devices import read_device
from skinedge.kit import make
from skinedge.kit.install import InstallError
from skinedge.kit.make import make_kit, plan_kit
from skinedge.kit.platforms import platform_of
from skinedge.kit.workstation import texts
from skinedge.kit.workstation.place import prune, venv_name
from skinedge.kit.workstation.places import PROGRAM, UNIT, Places, user_places
from skinedge.kit.workstation.pointer import Pointer, Release, read_pointer, release_to_run, write_pointer
from skinedge.kit.workstation.service import last_words
from skinedge.manifest import FileRecord, read_manifest
from skinedge.weights.checkpoint import file_digest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the service of this test is a systemd of its own")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
THREADS = ("--threads", "1", "--context", "1024")


@pytest.fixture(scope="module")
def kit(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit without wheels, in a folder whose name has a space, as that of a memory stick may."""
    out = tmp_path_factory.mktemp("a stick") / "kit"
    device = "this-machine"
    plan = plan_kit(bundles["f32"], read_device(device), platform_of(device, None), None, HERE, workstation=True)

    def no_wheels(plan: object, kit: Path, *rest: object) -> tuple[()]:
        (kit / "wheels").mkdir()
        (kit / "requirements.txt").write_text("")
        return ()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "_add_wheels", no_wheels)
        make_kit(plan, out, None, 1, told=lambda what: None)
    return out


@dataclass
class Home:
    """A person's folders and what can be typed there."""

    folder: Path
    port: int
    systemd: bool = True
    before: list[str] = field(default_factory=list)

    @property
    def app(self) -> Path:
        return self.folder / ".local" / "share" / "skinedge-workstation"

    @property
    def state(self) -> Path:
        return self.folder / ".local" / "state" / "skinedge"

    @property
    def memory(self) -> Path:
        return self.folder.parent / "systemd"

    @property
    def environment(self) -> dict[str, str]:
        # The interpreter is given by its path, so nothing else has to be found.
        path = str(self.folder.parent / "bin") if self.systemd else ""
        return {"HOME": str(self.folder), "PATH": path, "FAKE_SYSTEMD": str(self.memory), "PYTHONWARNINGS": ""}

    def type(self, program: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(program), *map(str, words)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=180, check=False)

    def do(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """With the installed program, by its own script."""
        command = ["/bin/sh", str(self.app / "workstation.sh"), *map(str, words)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=180, check=False)

    def install(self, kit: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
        self.give_venv(kit)
        return self.type(kit / PROGRAM, "install", "--port", str(self.port), *words, "--", *THREADS)

    def give_venv(self, kit: Path) -> None:
        """An environment that is installed already: it runs this test's own interpreter and skinedge."""
        venv = self.app / "venvs" / venv_name(kit, json.loads((kit / "kit.json").read_text()))
        (venv / "bin").mkdir(parents=True, exist_ok=True)
        script = f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} "$@"\n'
        (venv / "bin" / "python").write_text(script)
        (venv / "bin" / "python").chmod(0o755)
        (venv / "installed").touch()

    def get(self, path: str) -> dict[str, object]:
        return self.ask("GET", path)

    def ask(self, method: str, path: str, body: object = None) -> dict[str, object]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = None if body is None else json.dumps(body)
        connection.request(method, path, sent, {"Content-Type": "application/json"})
        said = connection.getresponse().read()
        connection.close()
        return dict(json.loads(said))

    def left(self) -> list[str]:
        """What was not there before, but for the folders that ``give_venv`` made before the installation could."""
        return sorted(set(self.listing()) - {*self.before, ".local", ".local/share"})

    def listing(self) -> list[str]:
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*"))


def make_home(folder: Path, *, systemd: bool = True) -> Home:
    home, tools = folder / "a home", folder / "bin"
    (home / ".config").mkdir(parents=True)
    (home / "notes.txt").write_text("mine")
    (folder / "systemd").mkdir()
    tools.mkdir()
    for name in ("systemctl", "journalctl"):
        # A link would do if env were on the PATH; this finds the interpreter by itself.
        script = f"#!{sys.executable}\nimport sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        (tools / name).write_text(script + "import fake_systemctl; sys.exit(fake_systemctl.main(sys.argv[1:]))\n")
        (tools / name).chmod(0o755)
    found = Home(home, free_port(), systemd)
    found.before = found.listing()
    return found


def free_port() -> int:
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def home(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """One that runs the f32 bundle; a test that changes that puts it back."""
    home = make_home(tmp_path_factory.mktemp("installed"))
    done = home.install(kit)
    try:
        assert done.returncode == 0, done.stderr
        yield home
    finally:
        gone = home.do("uninstall", "--purge-log")
    assert gone.returncode == 0, gone.stderr
    assert home.left() == []


@pytest.fixture(scope="module")
def digests(bundles: dict[str, Path]) -> dict[str, str]:
    return {scheme: read_manifest(bundle).digest for scheme, bundle in bundles.items()}


# --- with systemd -------------------------------------------------------------------------------------------------------


def test_what_is_installed_answers(home: Home, kit: Path, digests: dict[str, str]) -> None:
    assert home.get("/health")["bundle"] == digests["f32"]
    model = home.get("/v1/models")["data"][0]["id"]  # type: ignore[index]
    words = {"model": model, "messages": [{"role": "user", "content": "What is a macule?"}], "max_tokens": 3}
    answer = home.ask("POST", "/v1/chat/completions", words)
    assert answer["usage"]["completion_tokens"] == 3  # type: ignore[index]
    said = home.do("status", "--json")
    assert said.returncode == 0, said.stderr
    status = json.loads(said.stdout)
    assert status["running"]
    assert (status["service"], status["sandbox"], status["previous"]) == ("systemd", "full", None)
    assert status["current"]["digest"] == digests["f32"]
    assert tuple(status["current"]["options"]) == THREADS
    unit = home.folder / ".config/systemd/user" / UNIT
    assert f'ReadWritePaths="{home.state}"' in unit.read_text()
    assert (unit.parent / "default.target.wants" / UNIT).is_symlink()
    entry = (home.folder / ".local/share/applications/skinedge-workstation.desktop").read_text()
    assert f'"{home.app / PROGRAM}" open' in entry
    assert (home.app / "icon.svg").read_bytes().lstrip().startswith(b"<")
    assert verify_log(home.state / "audit").count >= 3
    assert oct(home.state.stat().st_mode & 0o777) == "0o700"


def test_the_same_command_again_changes_nothing(home: Home, kit: Path) -> None:
    def restarts() -> int:
        return (home.memory / "asked").read_text().count("restart ")

    before, listed = restarts(), home.listing()
    done = home.install(kit)
    assert done.returncode == 0, done.stderr
    assert "starting the model" not in done.stderr
    assert restarts() == before
    assert home.listing() == listed


def test_skinedges_own_commands_are_there(home: Home) -> None:
    said = home.do("skinedge", "people", "list", "--json")
    assert json.loads(said.stdout) == {"file": str(home.state / "people.json"), "login": False, "people": []}


def test_an_update_and_back(home: Home, bundles: dict[str, Path], digests: dict[str, str]) -> None:
    done = home.do("update", bundles["int4"])
    assert done.returncode == 0, done.stderr
    assert home.get("/health")["bundle"] == digests["int4"]
    assert len(list((home.app / "bundles").iterdir())) == 2
    back = home.do("rollback")
    assert back.returncode == 0, back.stderr
    assert f"rolled back: onnx f32, digest {digests['f32'][:16]}" in back.stdout
    assert home.get("/health")["bundle"] == digests["f32"]
    assert json.loads(home.do("status", "--json").stdout)["previous"]["digest"] == digests["int4"]


def test_a_damaged_bundle_is_refused(home: Home, bundles: dict[str, Path], digests: dict[str, str], tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(bundles["int4"], tmp_path / "damaged"))
    (damaged / "chat_template.jinja").write_bytes(b"x" + (damaged / "chat_template.jinja").read_bytes()[1:])
    # Of another name than what is there, so that it is really copied.
    manifest = read_manifest(damaged)
    (damaged / "skinedge.json").write_text(manifest.model_copy(update={"licence": "another"}).to_json())
    asked = (home.memory / "asked").read_text()
    listed = home.listing()
    done = home.do("update", damaged)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: {damaged}: 'chat_template.jinja'.* Copy the bundle again\.", done.stderr.splitlines()[-1])
    assert (home.memory / "asked").read_text().removeprefix(asked) == "show-environment \n", "what runs was not even restarted"
    assert home.listing() == listed
    assert home.get("/health")["bundle"] == digests["f32"]


def test_a_bundle_whose_engine_fails_is_rolled_back(
    home: Home, bundles: dict[str, Path], digests: dict[str, str], tmp_path: Path
) -> None:
    """Every byte is as it was written, and what was written is no model."""
    broken = Path(shutil.copytree(bundles["int4"], tmp_path / "broken"))
    (broken / "decoder.onnx").write_bytes(b"no graph")
    manifest = read_manifest(broken)
    record = FileRecord(path="decoder.onnx", nbytes=8, sha256=file_digest(broken / "decoder.onnx"))
    files = tuple(record if f.path == "decoder.onnx" else f for f in manifest.files)
    (broken / "skinedge.json").write_text(manifest.model_copy(update={"files": files}).to_json())
    before = json.loads(home.do("status", "--json").stdout)
    done = home.do("update", broken)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("error: the model does not start: ")
    assert said.endswith(
        f"Rolled back: onnx f32, digest {digests['f32'][:16]}, skinedge {before['current']['skinedge']}, runs as before."
    )
    after = json.loads(home.do("status", "--json").stdout)
    assert after["running"]
    assert after["health"]["engine"] == "ready"
    assert (after["current"], after["previous"]) == (before["current"], before["previous"])
    assert len(list((home.app / "bundles").iterdir())) == len(
        {before["current"]["bundle"], (before["previous"] or before["current"])["bundle"]}
    )


def test_options_that_serve_refuses_change_nothing(home: Home, kit: Path, digests: dict[str, str]) -> None:
    done = home.type(kit / PROGRAM, "install", "--", "--threads", "many")
    assert done.returncode == 1
    assert "error: Invalid value for '--threads': " in done.stderr
    assert "See: workstation.sh skinedge serve --help" in done.stderr
    assert home.get("/health")["bundle"] == digests["f32"]
    assert tuple(json.loads(home.do("status", "--json").stdout)["current"]["options"]) == THREADS


def test_a_port_that_is_taken_is_rolled_back(home: Home, kit: Path, digests: dict[str, str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = home.type(kit / PROGRAM, "install", "--port", str(port))
    assert done.returncode == 1
    assert f"the server ended: port {port} of 127.0.0.1 cannot be used" in done.stderr
    assert "runs as before" in done.stderr
    assert home.get("/health")["bundle"] == digests["f32"]


def test_stop_and_start(home: Home) -> None:
    assert home.do("stop").returncode == 0
    said = home.do("status")
    assert said.returncode == 1
    assert said.stdout.startswith("does not run")
    done = home.do("start")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"http://127.0.0.1:{home.port}/\n"
    assert home.get("/health")["status"] == "healthy"


@pytest.mark.parametrize("words", [("uninstall",), ("update", "int4"), ("stop",), ("status",)])
@pytest.mark.parametrize("how", ["no bus", "no systemctl"])
def test_from_where_systemd_cannot_be_reached_nothing_is_changed(
    home: Home, bundles: dict[str, Path], words: tuple[str, ...], how: str
) -> None:
    listed, away = home.listing(), home.memory / "away"
    away.touch()
    try:
        done = replace(home, systemd=how == "no bus").do(*(bundles.get(word, word) for word in words))
    finally:
        away.unlink()
    assert done.returncode == 1
    why = "Failed to connect to bus: No medium found" if how == "no bus" else "there is no systemctl"
    assert f"cannot be reached from here: {why}. Log in at the PC itself, or type: export XDG_RUNTIME_DIR=" in done.stderr
    assert home.listing() == listed
    assert home.get("/health")["status"] == "healthy"


def test_where_namespaces_are_refused_the_rest_of_the_sandbox_stays(kit: Path, tmp_path: Path) -> None:
    home = make_home(tmp_path)
    (home.memory / "refuses").touch()
    people = tmp_path / "people.json"
    People().having(person("Dr Zhou", "clinician", "four unrelated words here")).save(people)
    done = home.install(kit, "--people", people)
    assert done.returncode == 0, done.stderr
    assert "does not let its users have a mount namespace of their own: going on with a sandbox that needs none" in done.stderr
    unit = (home.folder / ".config/systemd/user" / UNIT).read_text()
    assert "PrivateUsers" not in unit
    assert "NoNewPrivileges=yes" in unit
    assert home.get("/api/session")["login"] == "needed"
    gone = home.do("uninstall")
    assert gone.returncode == 0, gone.stderr
    kept = re.search(r"audit log is now in (.*)\.\n", gone.stdout)
    assert kept
    assert verify_log(Path(kept[1])).count >= 3
    assert Path(kept[1]).parent == home.folder
    shutil.rmtree(kept[1])
    assert home.left() == []
    with pytest.raises(ConnectionError):
        home.get("/health")


# --- without ------------------------------------------------------------------------------------------------------------


def test_without_systemd_a_keeper_does_it(kit: Path, tmp_path: Path) -> None:
    home = make_home(tmp_path, systemd=False)
    (home.state).mkdir(parents=True)
    (home.state / "theirs.txt").touch()
    done = home.install(kit)
    try:
        assert done.returncode == 0, done.stderr
        status = json.loads(home.do("status", "--json").stdout)
        assert (status["running"], status["service"]) == (True, "keeper")
        server = next(p for p in processes() if str(home.app) in p[1] and "-m skinedge serve" in p[1])
        os.kill(server[0], signal.SIGKILL)
        until(lambda: not (Path("/proc") / str(server[0])).exists(), 10)
        until(lambda: json.loads(home.do("status", "--json").stdout)["running"], 60)
        home.systemd = True  # there is one now, and the keeper still keeps
        assert json.loads(home.do("status", "--json").stdout)["service"] == "keeper"
        again = home.type(home.app / PROGRAM, "keep")
        assert again.returncode == 1
        assert "runs already" in again.stderr
    finally:
        gone = home.do("uninstall", "--keep-log", home.folder / "kept")
    assert gone.returncode == 0, gone.stderr
    assert "theirs.txt" in gone.stderr
    assert verify_log(home.folder / "kept").count >= 3
    theirs = [".local/state", ".local/state/skinedge", ".local/state/skinedge/theirs.txt"]
    assert [p for p in home.left() if not p.startswith("kept")] == theirs
    assert not [p for p in processes() if str(home.app) in p[1]]


def processes() -> list[tuple[int, str]]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()))
        except OSError:
            continue
    return found


def test_a_first_model_that_does_not_start_leaves_nothing_running(kit: Path, tmp_path: Path) -> None:
    home = make_home(tmp_path)
    done = (
        home.type(kit / PROGRAM, "install", "--port", str(home.port), "--wait", "0.01") if home.give_venv(kit) is None else None
    )
    assert done is not None
    assert done.returncode == 1
    assert "the model did not answer within 0 s. Nothing runs now; when that is put right, type the same again." in done.stderr
    assert not (home.folder / ".config/systemd/user" / UNIT).exists()
    assert not (home.folder / ".local/share/applications/skinedge-workstation.desktop").exists()
    assert "No audit log" in home.do("uninstall", "--purge-log").stdout
    assert home.left() == []


# --- what is written ----------------------------------------------------------------------------------------------------


def places(folder: Path) -> Places:
    app = folder / 'an "app" 100%'
    return Places(app, folder / "state $HOME", folder / UNIT, folder / "l.desktop", None, Path("/usr/bin/python3"))


def release(name: str = "b") -> Release:
    return Release(name, "v", "0" * 64, "onnx", "int4", False, "0.1.0", 7890)


def test_the_unit_says_what_systemd_understands(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze on this machine")
    for sandbox in ("full", "basic"):
        simple = replace(places(tmp_path), python=Path(sys.executable))
        simple.state.mkdir(exist_ok=True)
        (tmp_path / UNIT).write_text(texts.unit(simple, sandbox))
        command = ["systemd-analyze", "--user", "verify", str(tmp_path / UNIT)]
        done = subprocess.run(
            command, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}, capture_output=True, text=True, check=False
        )
        complaints = [line for line in done.stderr.splitlines() if UNIT in line]
        assert (done.returncode, complaints) == (0, []), done.stderr


@pytest.mark.parametrize("sandbox", ["full", "basic"])
def test_an_engine_that_the_kernel_kills_does_not_end_the_unit(sandbox: str) -> None:
    service = texts.unit(places(Path("/p")), sandbox).partition("[Service]")[2].partition("[Install]")[0]
    assert "OOMPolicy=continue" in service.splitlines()


def test_names_are_quoted_as_each_reader_wants(tmp_path: Path) -> None:
    unit = texts.unit(places(Path("/p")), "full").splitlines()
    assert r'ExecStart="/usr/bin/python3" "/p/an \"app\" 100%%/workstation.pyz" serve' in unit
    assert 'ReadWritePaths="/p/state $HOME"' in unit
    entry = texts.desktop_entry(places(Path("/p"))).splitlines()
    assert r'Exec="/usr/bin/python3" "/p/an \\"app\\" 100%%/workstation.pyz" open' in entry
    windows = replace(places(Path("/p")), app=Path("/50% off"), startup=Path("/s.cmd"), python=Path("/py/python.exe"))
    assert '"/py/pythonw.exe" "/50%% off/workstation.pyz" keep' in texts.cmd_script(windows, "keep", window=False)
    assert texts.cmd_script(windows, "%*", window=True).endswith('"/py/python.exe" "/50%% off/workstation.pyz" %*\r\n')


def test_windows_has_places_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "Roaming"))
    found = user_places()
    assert found.app == tmp_path / "Local" / "skinedge-workstation"
    assert found.state == tmp_path / "Local" / "skinedge"
    menu = tmp_path / "Roaming/Microsoft/Windows/Start Menu/Programs"
    assert (found.launcher, found.startup) == (menu / "skinedge-workstation.cmd", menu / "Startup/skinedge-workstation.cmd")


def test_what_is_on_trial_runs_only_while_it_is_tried(tmp_path: Path) -> None:
    here = places(tmp_path)
    for folder in (here.app, here.state):
        folder.mkdir()
    with pytest.raises(InstallError, match=r"no bundle is installed here\. Install the kit"):
        release_to_run(here)
    write_pointer(here, Pointer(release("old"), candidate=release("new")))
    assert release_to_run(here).bundle == "old", "the power went away on the way"
    lock = FileLock(here.lock)
    assert lock.take()
    assert release_to_run(here).bundle == "new"
    lock.release()
    here.pointer.write_text("{")
    with pytest.raises(InstallError, match=r"is damaged\. Delete it and install again"):
        read_pointer(here)


def test_damaged_places_are_said_and_made_anew(empty: Home, kit: Path) -> None:
    empty.app.mkdir(parents=True)
    (empty.app / "places.json").write_text("[")
    done = empty.type(kit / PROGRAM, "status")
    assert re.fullmatch(r"error: .*places.json is damaged. Delete it and install again from the kit.\n", done.stderr)
    (empty.app / "places.json").unlink()
    assert empty.type(kit / PROGRAM, "uninstall").stdout == "removed. No audit log is left.\n"
    assert not empty.app.exists()


def test_only_what_can_run_stays(tmp_path: Path) -> None:
    here = places(tmp_path)
    for name in ("old", "new", "older", ".half.partial"):
        (here.bundles / name).mkdir(parents=True)
    (here.venvs / "v").mkdir(parents=True)
    (here.venvs / "w").mkdir()
    prune(here, Pointer(release("new"), release("old")))
    assert sorted(p.name for p in here.bundles.iterdir()) == ["new", "old"]
    assert [p.name for p in here.venvs.iterdir()] == ["v"]


def test_going_back_twice_goes_forth() -> None:
    one, two = release("one"), release("two")
    pointer = Pointer().proven(one).proven(two)
    assert (pointer.current, pointer.previous) == (two, one)
    back = pointer.proven(one)
    assert (back.current, back.previous) == (one, two)
    assert back.proven(one) == back


def test_the_last_error_of_a_log_is_the_reason() -> None:
    assert last_words("a\nerror: port 1 is taken.\nHint: another\n\n") == "port 1 is taken"
    assert last_words("one\ntwo\n") == "two"
    assert last_words("") == ""


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("empty"))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("status",), 1, "no workstation is installed here. Install it from a kit: ./workstation.sh install"),
        (("update", "nowhere"), 1, "no workstation is installed here"),
        (("rollback",), 1, "no workstation is installed here"),
        (("uninstall",), 1, "no workstation is installed here, so there is nothing to remove"),
        (("uninstall", "--keep-log", "x", "--purge-log"), 2, "not allowed with argument"),
        (("install", "--port", "80"), 2, "80 is not between 1024 and 65535"),
        (("install", "--", "--host=0.0.0.0"), 2, "--host=0.0.0.0 cannot be given to an installed workstation"),
        (("install", "--people", "nobody.json"), 1, "nobody.json: no such file. Make it: skinedge people add NAME --file"),
    ],
)
def test_what_cannot_be_done_is_said(empty: Home, kit: Path, words: tuple[str, ...], code: int, message: str) -> None:
    done = empty.type(kit / PROGRAM, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert empty.left() == []


def test_a_changed_or_other_kit_is_refused(empty: Home, kit: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(kit, tmp_path / "changed"))
    (changed / "README.txt").write_text("x")
    assert "error: README.txt is not as it was written. Copy the kit again." in empty.type(changed / PROGRAM, "install").stderr
    settings = json.loads((changed / "kit.json").read_text())
    for update, words in (
        (
            {"workstation": False},
            "this kit brings no workstation. Make it again: skinedge kit BUNDLE --device NAME --workstation",
        ),
        ({"machine": "riscv64"}, "this kit is for Linux riscv64 and this machine is"),
        ({"python": "3.99"}, "this kit is for Python 3.99 and this is"),
    ):
        (changed / "kit.json").write_text(json.dumps(settings | update))
        done = empty.type(changed / PROGRAM, "install")
        assert done.returncode == 1
        assert words in done.stderr
    alone = tmp_path / "alone" / PROGRAM
    alone.parent.mkdir()
    shutil.copyfile(kit / PROGRAM, alone)
    assert "is no kit. Run the workstation.sh of a kit" in empty.type(alone, "install").stderr


def test_the_program_needs_nothing_but_python(kit: Path) -> None:
    done = subprocess.run([sys.executable, "-I", "-S", kit / PROGRAM, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "uninstall" in done.stdout


def test_a_kit_says_that_it_brings_the_workstation(bundles: dict[str, Path], kit: Path, tmp_path: Path) -> None:
    command = ("kit", bundles["f32"], "--device", "rtx-4090", "--workstation", "--dry-run", "--json", "--out", tmp_path / "k")
    settings = typed(*command).json["settings"]
    assert settings["workstation"]
    assert settings["extras"] == ["onnx-gpu", "gpu-telemetry", "serve"]
    assert "workstation.sh install" in (kit / "README.txt").read_text()
    assert os.access(kit / "workstation.sh", os.X_OK)
    assert b"\r\n" in (kit / "workstation.cmd").read_bytes()


@pytest.mark.slow
def test_a_real_kit_without_a_network(bundles: dict[str, Path], tmp_path: Path) -> None:
    """Wheels from the index, a real environment, and a network namespace in which only loopback is up."""
    unshare, ip = shutil.which("unshare"), shutil.which("ip")
    if not unshare or not ip or subprocess.run([unshare, "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace can be made here")
    made = typed("kit", bundles["int4"], "--device", "this-machine", "--workstation", "--out", tmp_path / "kit", "--threads", "1")
    if "cannot be reached" in made.err:
        pytest.skip("the package index cannot be reached")
    assert made.code == 0, made.err
    home = make_home(tmp_path, systemd=False)
    program, app = shlex.quote(str(tmp_path / "kit" / PROGRAM)), shlex.quote(str(home.app / PROGRAM))
    python = shlex.quote(sys.executable)
    ask = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{home.port}/health').read())"
    script = f"""
        {ip} link set lo up || exit 3
        {python} {program} install --port {home.port} -- {" ".join(THREADS)} || exit 4
        {python} -c {shlex.quote(ask)}
        {python} {app} uninstall --purge-log
    """
    begin = time.monotonic()
    done = subprocess.run(
        [unshare, "--net", "/bin/sh", "-c", script],
        env=home.environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr, time.monotonic() - begin)
    assert '"status":"healthy"' in done.stdout
    assert home.listing() == home.before
