"""``skinedge serve``: the workstation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skinedge.cli.options import AsJson, BundleDir, Context, Side, Threads, existing
from skinedge.console import emit, note, say


def serve(
    bundle: BundleDir,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7890,
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but this machine's own needs --expose.")
    ] = "127.0.0.1",
    expose: Annotated[bool, typer.Option("--expose", help="Let other machines in: behind a proxy with TLS only.")] = False,
    name: Annotated[list[str] | None, typer.Option(help="Another name it is reached under, with --expose.")] = None,
    audit: Annotated[Path | None, typer.Option(help="Folder of the audit log; by default one of this user's.")] = None,
    no_audit: Annotated[bool, typer.Option("--no-audit", help="Keep no log.")] = False,
    keep_text: Annotated[
        bool, typer.Option("--keep-text", help="Write questions and answers into the log, not only their digests.")
    ] = False,
    people: Annotated[Path | None, typer.Option(help="List of operators; by default this user's, if there is one.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File with the key that other programs must send.")] = None,
    idle_minutes: Annotated[float, typer.Option(min=1, help="A visit ends after so long without a request.")] = 30,
    waiting: Annotated[int, typer.Option(min=1, max=10_000, help="Questions that may wait; more are refused with 429.")] = 64,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds an answer may take.")] = 900,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in this machine's browser.")] = False,
    side: Side = None,
    threads: Threads = None,
    context: Context = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check bundle, log, operators and port, and serve nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Serve a bundle to the clinician at this machine, and to programs that speak OpenAI's API; nothing leaves the machine.

    Example: skinedge serve bundle/ --open
    """
    from skinedge.clinic.engine import EngineSettings
    from skinedge.clinic.places import audit_folder, people_file
    from skinedge.clinic.serve import ServeSettings, open_server

    existing(bundle, *([people] if people else []), *([api_key_file] if api_key_file else []))
    engine = EngineSettings(
        bundle, side, threads, context, device, waiting=waiting, waiting_per_client=max(1, waiting // 4), answer_s=timeout
    )
    settings = ServeSettings(
        engine, host, port, expose, tuple(name or ()), None if no_audit else audit or audit_folder(), keep_text,
        people or people_file(), api_key_file, idle_minutes * 60,
    )  # fmt: skip
    serving = open_server(settings, (lambda _: None) if as_json else note)
    if as_json:
        emit({"url": serving.url, "bundle": serving.bundle.manifest.digest, "audit": str(settings.audit or "") or None})
    else:
        certificate = serving.bundle.certificate
        note(f"parity: {certificate.summary if certificate else 'this bundle was not compared with its original'}")
        note(f"log: {settings.audit or 'none'}")
        say(f"{serving.url}   ({'it would be served there' if dry_run else 'the model is being loaded; Ctrl+C ends it'})")
    if dry_run:
        serving.close()
        return
    if open_page:
        import webbrowser

        webbrowser.open(serving.url)
    serving.run()
