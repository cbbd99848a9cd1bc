"""``skinedge run`` and ``verify``: a bundle asked, and checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skinedge.cli.options import AsJson, BundleDir, Context, Side, Threads, existing
from skinedge.console import emit, note, printable, say, size

if TYPE_CHECKING:
    from skinedge.console import Json
    from skinedge.manifest import Manifest
    from skinedge.parity.recheck import Recheck


def run(
    bundle: BundleDir,
    images: Annotated[list[Path] | None, typer.Argument(help="Photographs, in order; none for a text-only question.")] = None,
    question: Annotated[str | None, typer.Option("--question", "-q", help="What to ask; by default a full description.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Stop after this many tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 is greedy: the most likely token each time.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Sample from the most likely tokens of this total share.")
    ] = None,
    repetition_penalty: Annotated[float | None, typer.Option(min=0, help="Above 1 discourages repetition.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(metavar="<str>", help="Stop before this text; may be repeated.")] = None,
    bias: Annotated[str | None, typer.Option(help="The adapter's bias: every-step or off.")] = None,
    side: Side = None,
    threads: Threads = None,
    context: Context = None,
    as_json: AsJson = False,
) -> None:
    """Ask a bundle about photographs; the answer streams as it is made.

    Example: skinedge run bundle/ lesion.jpg --max-new-tokens 400
    """
    from skinedge.manifest import read_manifest
    from skinedge.runtime.pipeline import Ask, decoding_options, open_pipeline, question_of

    overrides = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p,
        "repetition_penalty": repetition_penalty, "bias": bias,
    }  # fmt: skip
    request = Ask(tuple(images or ()), question, seed, tuple(stop or ()), {k: v for k, v in overrides.items() if v is not None})
    # What can be judged without the model is judged before it is loaded, which takes a while.
    existing(bundle, *request.photographs)
    manifest = read_manifest(bundle)
    question_of(request, manifest.prompt.question)
    decoding_options(manifest.decoding, request)
    with open_pipeline(bundle, side=side, threads=threads, context=context) as pipeline:
        answer = pipeline.run(request, on_text=None if as_json else lambda piece: say(printable(piece), end=""))
    if as_json:
        emit(answer.to_json())
    else:
        say()
        note(answer.summary())


def verify(
    bundle: BundleDir,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Ask its golden cases again: after an update of drivers, libraries or the system.")
    ] = False,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte of a bundle against its manifest; with --recheck also that it still says what it said.

    Example: skinedge verify bundle/ --recheck
    """
    from skinedge.bundle import verify as verify_bundle
    from skinedge.parity.certificate import verify_certificate

    existing(bundle)
    manifest = verify_bundle(bundle)
    total = sum(f.nbytes for f in manifest.files)
    again = _recheck(bundle, manifest, threads) if recheck else None
    if as_json:
        found: dict[str, Json] = {"verified": True, "digest": manifest.digest, "files": len(manifest.files), "nbytes": total}
        emit({**found, **({"recheck": again.to_json()} if again else {})})
    else:
        say(f"{bundle}: {len(manifest.files)} files, {size(total)}, all as they were written. digest {manifest.digest[:16]}")
        said = verify_certificate(bundle, manifest)
        say(f"parity: {said.summary if said else 'unverified'}")
        for line in again.lines() if again else ():
            say(line)
    if again and not again.passed:
        raise typer.Exit(1)


def _recheck(bundle: Path, manifest: Manifest, threads: int | None) -> Recheck:
    from skinedge.parity.recheck import recheck

    return recheck(bundle, manifest, threads=threads)
