"""The tiny base model: a Qwen2.5-VL that describes what it sees and has no idea which disease it is.

It is trained from scratch in two stages (``train.tiny_stages``).  First the vision tower alone learns to tell
the findings of a SynthDerm picture.  Then the whole model learns to write narratives that state those findings
truly, with a diagnosis and differentials *drawn at random*: it can spell every disease and knows none.  What
diagnoses afterwards is an adapter (``train.distill``).

Pictures are turned and mirrored, since no finding has a direction, and every narrative is written anew.  Each
step is kept in the work folder, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import dataclasses
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import typer

from skinedge.console import counted, note, run_command
from skinedge.staging import staged
from skinedge.synthderm.findings import Case, draw_cases

if TYPE_CHECKING:
    import transformers

    from skinedge.model.tiny import Size

RECIPE = Path(__file__).parent / "recipes" / "tiny_base.toml"


@dataclass(frozen=True)
class StageSettings:
    """One stage: its steps, pictures a step, and highest learning rate."""

    steps: int
    batch: int
    lr: float


@dataclass(frozen=True)
class TinyBase:
    """The recipe: what is drawn, how large the model is, how long each stage trains."""

    seed: int
    pictures: int
    side: int
    vocab: int
    vision_depth: int
    vision: StageSettings
    language: StageSettings

    @classmethod
    def read(cls, path: Path) -> TinyBase:
        """Read a recipe; every key is needed and no other is known."""
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        vision, language = (StageSettings(**values.pop(name)) for name in ("vision", "language"))
        return cls(**values, vision=vision, language=language)


def train_tiny_base(recipe: TinyBase, out: Path, work: Path, *, quiet: bool = False) -> Path:
    """Make the base model in ``out``; ``work`` keeps pictures and stages for another run of the same recipe.

    Raises:
        OutputError: ``out`` is taken or cannot be written.
    """
    cases = draw_cases(recipe.pictures, recipe.seed)
    with staged(out) as partial:
        pictures = _pictures(cases, recipe.side, work / "pictures.npy", quiet)
        _write_files(partial, recipe)
        model = _train(partial, recipe, cases, pictures, work)
        _save(model, partial)
    return out


def _pictures(cases: list[Case], side: int, path: Path, quiet: bool) -> npt.NDArray[np.uint8]:
    from skinedge.synthderm.dataset import render_all

    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".partial")
        drawn = np.lib.format.open_memmap(beside, "w+", np.uint8, (len(cases), side, side, 3))
        drawing = render_all(cases, size=side)
        for row in counted("drawing pictures", range(len(cases)), quiet):
            drawn[row] = next(drawing)
        drawn.flush()
        beside.rename(path)
    pictures: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pictures


def _write_files(folder: Path, recipe: TinyBase) -> None:
    """Tokenizer and settings: those of the released model at the size of the recipe."""
    from skinedge.model.tiny import write_settings, write_tokenizer

    write_tokenizer(folder, recipe.vocab, _texts(recipe.seed))
    write_settings(folder, _size(recipe), np.dtype("bfloat16"), max_pixels=recipe.side**2)


def _texts(seed: int) -> list[str]:
    """What the tokenizer is trained on: questions, and narratives of cases that are in no data set."""
    from skinedge.runtime.prompt import DEFAULT_QUESTION
    from skinedge.synthderm.narrative import QUESTIONS

    rng = np.random.default_rng([seed, 5])
    cases = draw_cases(3000, seed + 1_000_000)
    return [DEFAULT_QUESTION, *QUESTIONS, *(_tell(case, rng) for case in cases)]


def _tell(case: Case, rng: np.random.Generator) -> str:
    """A narrative whose findings are true and whose diagnosis means nothing."""
    from skinedge.synthderm.narrative import draw_random, narrate

    return narrate(case.findings, *draw_random(rng), rng)


def _size(recipe: TinyBase) -> Size:
    from skinedge.model.tiny import Size

    return Size(vocab=recipe.vocab, vision_depth=recipe.vision_depth, vision_full=tuple(range(1, recipe.vision_depth, 2)))


def _train(
    folder: Path, recipe: TinyBase, cases: list[Case], pictures: npt.NDArray[np.uint8], work: Path
) -> transformers.Qwen2_5_VLForConditionalGeneration:
    import torch
    import transformers
    from safetensors.torch import load_model, save_model
    from tokenizers import Tokenizer

    from skinedge.model.config import read_config
    from skinedge.runtime.image import read_processor_config
    from skinedge.runtime.prompt import DEFAULT_QUESTION, PromptBuilder, ask
    from skinedge.synthderm.narrative import QUESTIONS
    from train.tiny_stages import Eye, Stage, train_language, train_vision

    torch.manual_seed(recipe.seed)
    config = read_config(folder)
    model = transformers.Qwen2_5_VLForConditionalGeneration(transformers.AutoConfig.from_pretrained(folder))
    model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    eye = Eye(recipe.side, config, read_processor_config(folder))
    kept = work / "vision.safetensors"
    if kept.is_file():
        load_model(model.model.visual, kept)
        note(f"the vision stage is in {kept} already.")
    else:
        train_vision(model.model.visual, eye, pictures, cases, Stage(**dataclasses.asdict(recipe.vision)))
        save_model(model.model.visual, str(kept.with_suffix(".partial")))
        kept.with_suffix(".partial").rename(kept)

    prompts = PromptBuilder.from_folder(folder, config)
    # The question that skinedge asks when it is given none is long; a few short ones keep training quick.
    asked = [prompts.build(ask(question), [eye.grid]) for question in (*QUESTIONS, DEFAULT_QUESTION)]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def tell(row: int, rng: np.random.Generator) -> list[int]:
        ids: list[int] = tokenizer.encode(_tell(cases[row], rng) + "<|im_end|>", add_special_tokens=False).ids
        return ids

    def keep() -> None:
        """The model as it is now, to look at while the rest is trained."""
        work.joinpath("so-far").mkdir(exist_ok=True)
        shutil.copytree(folder, work / "so-far", dirs_exist_ok=True)
        _save(model, work / "so-far")

    train_language(model, eye, asked, pictures, tell, Stage(**dataclasses.asdict(recipe.language)), keep)
    return model


def _save(model: transformers.Qwen2_5_VLForConditionalGeneration, folder: Path) -> None:
    """One file of bf16 weights under the released names."""
    import torch
    from safetensors.torch import save_file

    from skinedge.model.names import canonical

    tensors = {canonical(name): t.to(torch.bfloat16).contiguous() for name, t in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Where the model goes; a new folder.")],
    recipe: Annotated[Path, typer.Option(help="The recipe.")] = RECIPE,
    work: Annotated[Path, typer.Option(help="Pictures and finished stages are kept here.")] = Path("build/tiny-base"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Train the tiny base model from scratch (about an hour on two cores)."""
    train_tiny_base(TinyBase.read(recipe), out, work, quiet=quiet)
    note(f"the model is in {out}.")


if __name__ == "__main__":
    run_command(app, stopped="stopped; finished stages are kept. Run the same command again to go on.")
