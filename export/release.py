"""Make every bundle of a release from its recipes, verify each, and list them.

Usage: python -m export.release --out release/ [--model DIR] [--adapter DIR ...] [--recipe NAME ...] [--dry-run]

A recipe is a TOML file of ``export/recipes``.  A bundle that is already there and verifies is left as it
is, so an interrupted release goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import check_scheme, export, preflight, verify
from skinedge.console import note, progress_bar, report_error, say, size, table
from skinedge.embedded import embedded_checkpoint
from skinedge.errors import SkinedgeError, UsageError
from skinedge.registry import check
from skinedge.targets._contract import ExportOptions
from skinedge.weights.checkpoint import open_checkpoint

RECIPES = Path(__file__).parent / "recipes"
_KEYS = ("description", "target", "scheme", "activations", "vision", "context")


@dataclass(frozen=True)
class Recipe:
    """One bundle of a release."""

    name: str
    description: str
    target: str
    options: ExportOptions


def known_recipes() -> tuple[str, ...]:
    """Names of all recipes."""
    return tuple(sorted(p.stem for p in RECIPES.glob("*.toml")))


def read_recipe(name: str) -> Recipe:
    """The recipe ``name``.

    Raises:
        UsageError: there is none, or it has a key, target or scheme that is not known.
    """
    check("recipe", name, known_recipes())
    raw = tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))
    for key in raw:
        check(f"key in recipe {name}", key, _KEYS)
    target = raw["target"]
    scheme = check_scheme(target, raw.get("scheme"))
    options = ExportOptions(scheme, raw.get("activations"), raw.get("vision"), raw.get("context", ExportOptions(scheme).context))
    return Recipe(name, raw["description"], target, options)


def main(arguments: list[str] | None = None) -> int:
    """Run the release; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m export.release", description="Make every bundle of a release.")
    parser.add_argument("--out", type=Path, required=True, help="folder that will hold one folder per recipe")
    parser.add_argument("--model", type=Path, help="checkpoint; left out: the embedded model")
    parser.add_argument("--adapter", type=Path, action="append", default=[], help="LoRA or side branch; may be repeated")
    parser.add_argument("--recipe", action="append", help="only this recipe; may be repeated")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written and how big")
    args = parser.parse_args(arguments)
    try:
        recipes = [read_recipe(name) for name in args.recipe or known_recipes()]
        source = _source(args.model, args.adapter)
        rows = [_make(source, recipe, args.out / recipe.name, args.dry_run) for recipe in recipes]
    except SkinedgeError as error:
        report_error(error, as_json=False)
        return error.exit_code
    table(("recipe", "target", "scheme", "size", "digest", "for"), rows)
    if not args.dry_run:
        say(f"{len(rows)} bundles in {args.out}, all verified.")
    return 0


def _source(model: Path | None, adapters: list[Path]) -> AdapterCheckpoint:
    return AdapterCheckpoint.find(model, adapters) if model else embedded_checkpoint(adapters or None)


def _make(source: AdapterCheckpoint, recipe: Recipe, out: Path, dry_run: bool) -> tuple[str, ...]:
    row = (recipe.name, recipe.target, recipe.options.scheme)
    if dry_run:
        flight = preflight(open_checkpoint(source.path, source.adapters), recipe.target, recipe.options, out)
        return (*row, size(flight.plan.nbytes), "", recipe.description)
    if not out.exists():
        note(f"{recipe.name}: {recipe.description}")
        with progress_bar(quiet=False) as progress:
            export(source, recipe.target, recipe.options, out, progress=progress)
    manifest = verify(out)
    if manifest.lineage[0].digest != source.digest:
        raise UsageError(f"{out} was made from another checkpoint.", hint="Choose another --out, or remove it first.")
    return (*row, size(sum(f.nbytes for f in manifest.files)), manifest.digest[:16], recipe.description)


if __name__ == "__main__":
    sys.exit(main())
