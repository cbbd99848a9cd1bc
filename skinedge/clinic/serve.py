"""``skinedge serve``: everything opened, checked and put together; then uvicorn until somebody ends it."""

from __future__ import annotations

import ipaddress
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from skinedge.bundle import verify
from skinedge.clinic.engine import Engine, EngineSettings
from skinedge.errors import MissingDependencyError, UsageError
from skinedge.parity.certificate import FOLDER, read_certificate
from skinedge.runtime.image import read_processor_config

if TYPE_CHECKING:
    import uvicorn

    from skinedge.clinic.desk import Bundle

DEFAULT_PORT = 7890
MIN_KEY = 16


@dataclass(frozen=True)
class ServeSettings:
    """How a bundle is served.

    ``host`` is an address of this machine; another than loopback needs ``expose``, which needs operators on any address.
    ``names`` are further names in ``Host``.  ``audit`` is the log's folder, ``None`` for no log; ``people`` the list of
    operators.
    """

    engine: EngineSettings
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    expose: bool = False
    names: tuple[str, ...] = ()
    audit: Path | None = None
    keep_text: bool = False
    people: Path | None = None
    key_file: Path | None = None
    idle_s: float = 30 * 60.0


@dataclass
class Serving:
    """A server that is ready to run; ``close`` gives back what it holds."""

    server: uvicorn.Server
    socket: socket.socket
    bundle: Bundle
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM, either of which is an orderly end."""
        # uvicorn sends itself the signal again when it is done: the default of SIGTERM would then cut the log's last record off.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with suppress(KeyboardInterrupt):
                self.server.run([self.socket])
        finally:
            self.close()

    def close(self) -> None:
        """Close the log and the socket."""
        self.socket.close()
        self._stack.close()


def open_server(settings: ServeSettings, on_step: Callable[[str], None] = lambda _: None) -> Serving:
    """Verify the bundle, open log and list, bind the port; the engine starts when the server runs.

    Raises:
        BundleError: a byte of the bundle or of its certificate is not as it was written.
        AuditError: the log is damaged, or another server writes it.
        PeopleError: the list of operators is damaged.
        UsageError: an address that is not this machine's own, or no way to tell who comes from elsewhere.
        MissingDependencyError: the extra is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn
    except ImportError as e:
        raise MissingDependencyError(f"the workstation needs {e.name}.", hint="Install it: pip install 'skinedge[serve]'.") from e
    from skinedge.clinic.app import make_app
    from skinedge.clinic.audit import AuditLog
    from skinedge.clinic.desk import Bundle, Desk
    from skinedge.clinic.guard import LOOPBACK
    from skinedge.clinic.sessions import Sessions
    from skinedge.clinic.visitors import PeopleList, Visitors

    key = _key(settings.key_file)
    _check_address(settings, locked=PeopleList(settings.people).now().needed)
    folder = settings.engine.bundle
    on_step(f"reading every byte of {folder}")
    manifest = verify(folder)
    certificate = read_certificate(folder / FOLDER) if (folder / FOLDER).is_dir() else None
    bundle = Bundle(folder.resolve(), manifest, read_processor_config(folder), certificate)
    with ExitStack() as stack:
        audit = stack.enter_context(AuditLog(settings.audit, keep_text=settings.keep_text)) if settings.audit else None
        desk = Desk(bundle, Engine(settings.engine), audit)
        sessions = Sessions(idle=settings.idle_s, on_end=lambda session: desk.forget(session.id))
        people = PeopleList(settings.people, sessions.end_all_of)
        listening = stack.enter_context(_bound(settings.host, settings.port))
        hosts = {*LOOPBACK, *settings.names, settings.host}
        app = make_app(desk, Visitors(sessions, people=people, key=key), hosts)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=5, lifespan="on",
            timeout_keep_alive=30, ws="none", proxy_headers=settings.expose,
        )  # fmt: skip
        return Serving(uvicorn.Server(config), listening, bundle, stack.pop_all())


def new_key() -> str:
    """A key for programs."""
    return secrets.token_urlsafe(32)


def _key(path: Path | None) -> str | None:
    """The first line of a file.

    Raises:
        UsageError: it is missing, or what is in it could be guessed.
    """
    if path is None:
        return None
    try:
        key = path.read_text(encoding="utf-8").split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(
            f"{path}: the key of the programs cannot be read from it.", hint="Write one line of text into it."
        ) from e
    if len(key) < MIN_KEY:
        raise UsageError(
            f"{path}: its key has {len(key)} characters and could be guessed.", hint=f"Use {MIN_KEY} or more, such as {new_key()}"
        )
    return key


def _check_address(settings: ServeSettings, *, locked: bool) -> None:
    try:
        address = ipaddress.ip_address("127.0.0.1" if settings.host == "localhost" else settings.host)
    except ValueError as e:
        raise UsageError(f"'{settings.host}' is no address.", hint="Leave --host out: 127.0.0.1 is this machine only.") from e
    if not address.is_loopback and not settings.expose:
        raise UsageError(
            f"{settings.host} can be reached from other machines, and a photograph would cross the network unencrypted.",
            hint="Leave --host out, or say --expose if a proxy with TLS stands in front.",
        )
    if settings.expose and not locked:  # on loopback too: a proxy in front lets the others in; a key locks programs out alone
        raise UsageError(
            "--expose lets other machines in, and nobody would have to say who they are.",
            hint="Add operators: skinedge people add NAME --role clinician. Programs get in by a key: --api-key-file.",
        )


def _bound(host: str, port: int) -> socket.socket:
    """A listening socket: the port is ours before the bundle is loaded.

    Raises:
        UsageError: it is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows: SO_REUSEADDR would let another program share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
        listening.setblocking(False)
    except OSError as e:
        listening.close()
        raise UsageError(
            f"port {port} of {host} cannot be used: {e.strerror}.", hint="Another workstation may be running; choose --port."
        ) from e
    return listening
