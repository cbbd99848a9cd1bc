"""A device needs no torch, no network and no POSIX, and help comes at once."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import ROOT, process, python, typed

from skinedge.parity.pictures import make_picture

SOURCES = sorted((ROOT / "skinedge").rglob("*.py"))
HEAVY = ("torch", "transformers", "peft", "accelerate", "torchvision")

# A blocked library is not to be found, as if it were not installed.
BLOCK = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked!r} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""

# A bundle at work neither calls anybody nor waits to be called: Python's own sockets fail, and the operating
# system is asked for those that C++ code might have opened.
OFFLINE = """
import psutil

def refuse(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "socket.sendmsg", "urllib.Request"):
        raise RuntimeError(f"the network was used: {event} {arguments}")

sys.addaudithook(refuse)

def check():
    found = psutil.Process().net_connections(kind="inet")
    assert not found, found
"""

RUN = """
from pathlib import Path
from skinedge.runtime.pipeline import Ask, open_pipeline

bundle, photograph = map(Path, sys.argv[1:])
pieces = []
with open_pipeline(bundle, threads=1) as pipeline:
    for request in (Ask(question="What is a macule?"), Ask((photograph,))):
        request.overrides.update(max_new_tokens=4)
        answer = pipeline.run(request, on_text=lambda piece: (pieces.append(piece), check()))
    assert answer.transcript.biased
    check()
heavy = sorted(set(sys.modules) & {heavy!r})
assert not heavy, heavy
print("answered")
"""


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photograph") / "lesion.png"
    make_picture(84, 61, 0).save(path)
    return path


@pytest.fixture(scope="module", params=[("onnx", "int4"), ("gguf", "q8_0")], ids=["onnx", "gguf"])
def bundle(request: pytest.FixtureRequest, tiny_model: Path, tiny_branch: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target, scheme = request.param
    pytest.importorskip("gguf" if target == "gguf" else "onnx_ir")
    out = tmp_path_factory.mktemp("portable") / target
    done = typed("export", "--model", tiny_model, "--adapter", tiny_branch, "-t", target, "-s", scheme, "--out", out)
    assert done.code == 0, done.err
    return out


# --- no torch, no network -----------------------------------------------------------------------------------------------


def test_importing_skinedge_imports_nothing_else() -> None:
    script = "import sys\nbefore = set(sys.modules)\nimport skinedge\nprint(sorted(set(sys.modules) - before))"
    assert python(script).out in ("['skinedge']\n", "['__future__', 'skinedge']\n")


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from skinedge.cli import main
try:
    main()
except SystemExit:
    pass
print(sorted({m.partition(".")[0] for m in sys.modules} & set(%r)))
"""
    heavy = (
        *HEAVY,
        "numpy",
        "onnx",
        "onnx_ir",
        "onnxruntime",
        "gguf",
        "xllamacpp",
        "pydantic",
        "PIL",
        "tokenizers",
        "rich.progress",
    )
    done = python(script % (heavy,), "--help")
    assert done.out.endswith("\n[]\n"), done.out + done.err


def test_a_bundle_runs_without_torch_and_without_a_network(bundle: Path, photograph: Path) -> None:
    script = BLOCK.format(blocked=HEAVY) + OFFLINE + RUN.replace("{heavy!r}", repr(set(HEAVY)))
    done = python(script, bundle, photograph)
    assert (done.code, done.out) == (0, "answered\n"), done.err


def test_the_network_guard_would_notice(photograph: Path) -> None:
    """The check above can fail: a listening socket trips it."""
    script = "import sys\n" + OFFLINE + "import socket\nsocket.socket().bind(('127.0.0.1', 0))"
    assert "the network was used: socket.bind" in python(script).err


def test_every_other_command_does_without_torch(tmp_path: Path) -> None:
    script = BLOCK.format(blocked=HEAVY) + "from skinedge.cli import main\nmain()"
    out = tmp_path / "b"
    for command in (("export", "-s", "int4", "--out", out), ("verify", out), ("show", out), ("doctor",), ("targets",)):
        done = python(script, *command)
        assert done.code == 0, done.err
    done = python(script, "parity", out)
    assert done.code == 1
    assert "Install it: pip install 'skinedge[train]'." in done.err
    assert "Traceback" not in done.err


def test_help_comes_at_once() -> None:
    """At most 0.3 s of a core: the best of several, because a shared machine only ever adds."""

    def spent() -> float:
        times = os.times()
        return times.children_user + times.children_system

    process("--help")
    took = []
    for _ in range(12):
        begin = spent()
        assert process("--help").code == 0
        took.append(spent() - begin)
        if took[-1] <= 0.3:
            return
    pytest.fail(f"skinedge --help took {min(took):.2f} s of a core at best")


# --- what is missing is named -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("libraries", "command", "error", "extra"),
    [
        (("onnx_ir",), ("export", "-t", "onnx"), "exporting a graph needs onnx-ir.", "onnx"),
        (("onnx_ir",), ("export", "-t", "onnx", "--dry-run"), "exporting a graph needs onnx-ir.", "onnx"),
        (("onnxruntime",), ("run", "{onnx}", "-q", "x"), "running an ONNX graph needs onnxruntime.", "onnx"),
        (("gguf",), ("export", "-t", "gguf"), "writing GGUF needs the gguf library.", "gguf"),
        (("xllamacpp", "llama_cpp"), ("export", "-t", "gguf"), "the GGUF target needs llama.cpp.", "gguf"),
        (("xllamacpp", "llama_cpp"), ("run", "{gguf}", "-q", "x"), "llama.cpp", "gguf"),
        (("tensorrt_rtx", "tensorrt_rtx_bindings", "tensorrt"), ("export", "-t", "trt"), "TensorRT", "trt"),
        (("torch",), ("parity", "{onnx}"), "torch", "train"),
        (("transformers",), ("parity", "{onnx}"), "transformers", "train"),
    ],
)
def test_a_missing_library_names_its_extra(
    libraries: tuple[str, ...], command: tuple[str, ...], error: str, extra: str, bundles: dict[str, Path], tmp_path: Path
) -> None:
    script = BLOCK.format(blocked=libraries) + "from skinedge.cli import main\nmain()"
    words = [word.format(**bundles) for word in command]
    done = python(script, *words, *(("--out", tmp_path / "b") if command[0] == "export" else ()))
    assert done.code == 1, done.out + done.err
    assert "Traceback" not in done.err
    sentence, _, hint = done.err[done.err.index("error: ") :].partition("\n")
    assert error in sentence
    assert f"pip install 'skinedge[{extra}]'" in hint
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("onnx_ir")
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("bundles")
    for target, scheme in (("onnx", "int4"), ("gguf", "q8_0")):
        assert typed("export", "-t", target, "-s", scheme, "--out", folder / target).code == 0
    return {target: folder / target for target in ("onnx", "gguf")}


# --- the source ---------------------------------------------------------------------------------------------------------

POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "crypt", "readline"}
POSIX_CALLS = {
    "os": {
        "fork", "forkpty", "wait", "waitpid", "getuid", "geteuid", "getgid", "setuid", "getppgid", "killpg", "setsid", "uname",
        "sched_getaffinity", "sched_setaffinity", "statvfs", "sysconf", "nice", "mkfifo", "chown", "getloadavg", "pread",
        "posix_fadvise", "O_DIRECT", "sync",
    },
    "signal": {"SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "alarm", "setitimer", "pause"},
    "mmap": {"MAP_SHARED", "MAP_PRIVATE", "PROT_READ", "MADV_DONTNEED"},
    "multiprocessing": {"set_start_method"},
    "time": {"tzset", "clock_gettime"},
}  # fmt: skip
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml", "xml", "telnetlib"}
UNSAFE_NAMES = {"eval", "exec", "__import__"}
UNSAFE_CALLS = {"torch": {"load"}, "os": {"system", "popen", "execv", "execvp"}, "subprocess": {"getoutput", "getstatusoutput"}}
# Telemetry reads what each operating system has of its own.
TELEMETRY = ROOT / "skinedge" / "measure"


def nodes() -> Iterator[tuple[str, ast.AST]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield f"{path.relative_to(ROOT).as_posix()}:{getattr(node, 'lineno', 0)}", node


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module.partition(".")[0]


def used(node: ast.AST) -> tuple[str, str]:
    """``module.name`` of an attribute, or of a name that is imported from its module."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.value.id, node.attr
    return "", ""


def found(modules: set[str], calls: dict[str, set[str]], node: ast.AST) -> bool:
    if modules & set(imported(node)):
        return True
    module, name = used(node)
    if name in calls.get(module, set()):
        return True
    return isinstance(node, ast.ImportFrom) and bool({a.name for a in node.names} & calls.get(node.module or "", set()))


def test_no_posix_only_call_outside_telemetry() -> None:
    telemetry = TELEMETRY.relative_to(ROOT).as_posix()
    # Files are locked in one place, which has a branch for Windows beside that of POSIX.
    allowed = (telemetry, "skinedge/clinic/locks.py")
    bad = [where for where, node in nodes() if found(POSIX_MODULES, POSIX_CALLS, node) and not where.startswith(allowed)]
    assert bad == []
    assert "msvcrt.locking" in (ROOT / "skinedge" / "clinic" / "locks.py").read_text(encoding="utf-8")


def test_nothing_that_runs_code_from_a_file() -> None:
    bad = [where for where, node in nodes() if found(UNSAFE_MODULES, UNSAFE_CALLS, node)]
    bad += [
        where
        for where, node in nodes()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in UNSAFE_NAMES
    ]
    bad += [
        where
        for where, node in nodes()
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell", "trust_remote_code")
        if not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert bad == []


@pytest.mark.parametrize("line", ["import fcntl", "import os\nos.fork()", "from os import fork", "from signal import SIGKILL"])
def test_the_search_finds_what_it_is_for(line: str) -> None:
    assert any(found(POSIX_MODULES, POSIX_CALLS, node) for node in ast.walk(ast.parse(line)))


def test_text_files_have_an_encoding() -> None:
    """Without one Windows reads and writes a code page of its own."""
    bad = []
    for where, node in nodes():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        modes = [a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)]
        binary = any(isinstance(m, str) and "b" in m and len(m) < 4 for m in modes)
        opens = name in ("read_text", "write_text") or (name == "open" and not binary and own_file(node))
        if opens and not any(k.arg == "encoding" for k in node.keywords):
            bad.append(where)
    assert bad == []


def own_file(node: ast.Call) -> bool:
    """Whether ``open`` is Python's or a path's: a device or an image library is given what to open, a path only how."""
    return isinstance(node.func, ast.Name) or all(isinstance(a, ast.Constant) for a in node.args)


def test_every_module_parses_on_the_oldest_python() -> None:
    for path in SOURCES:
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))
    assert sys.version_info >= (3, 11)
