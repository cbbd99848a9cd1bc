"""The engine's process: one bundle, open, answering one question after another over its standard input and output.

``python -m skinedge.clinic.engine_child BUNDLE [--side S] [--threads N] [--context N] [--device D]``.  Whatever happens to
it (a crash in native code, no memory left) happens to it alone.  It ends when its input does, so it never outlives the
server.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from skinedge.clinic import wire
from skinedge.clinic.events import Photo, Question
from skinedge.errors import PromptError, SkinedgeError, UsageError
from skinedge.runtime.generate import Generation, generate
from skinedge.runtime.pipeline import Ask, Pipeline, decoding_options, open_pipeline
from skinedge.runtime.prompt import ImagePart, Message, TextPart, ask
from skinedge.runtime.reuse import ReusingSession
from skinedge.runtime.session import ImageEncoding

if TYPE_CHECKING:
    from skinedge.console import Json

# Encodings of so many photographs are kept: a 7B's has 14 MB and a bias of 0.6 MB.
KEPT_ENCODINGS = 16


class Encodings:
    """What the model saw in the last photographs, by their ids: a follow-up does not look again."""

    def __init__(self, pipeline: Pipeline, most: int = KEPT_ENCODINGS) -> None:
        self._pipeline, self._most = pipeline, most
        self._known: OrderedDict[str, ImageEncoding] = OrderedDict()

    def of(self, photo: Photo) -> ImageEncoding:
        """The encoding of a photograph, made if need be."""
        from PIL import Image

        from skinedge.runtime.image import to_pixels

        if photo.id not in self._known:
            image = Image.frombytes("RGB", (photo.width, photo.height), photo.rgb)
            self._known[photo.id] = self._pipeline.session.encode_image(to_pixels(image, self._pipeline.processor))
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        self._known.move_to_end(photo.id)
        return self._known[photo.id]

    def forget(self, names: Sequence[str]) -> None:
        """Those of some photographs."""
        for name in names:
            self._known.pop(name, None)


class Engine:
    """Answers the questions that come in by ``source`` at ``sink``."""

    def __init__(self, pipeline: Pipeline, source: IO[bytes], sink: IO[bytes]) -> None:
        self._pipeline, self._source, self._sink = pipeline, source, sink
        self._session = ReusingSession(pipeline.session, pipeline.manifest.architecture.image_token_id)
        pipeline.session = self._session
        self._encodings = Encodings(pipeline)
        self._asked: queue.SimpleQueue[tuple[wire.Message, bytes]] = queue.SimpleQueue()
        self._cancelled: set[int] = set()

    def run(self) -> None:
        """Until the input ends."""
        self._warm_up()
        threading.Thread(target=self._listen, daemon=True).start()
        self._say({"type": "ready", "context": self._session.context_length})
        while True:
            message, blob = self._asked.get()
            {"ask": self._answer, "golden": self._golden, "forget": self._forget}[str(message["type"])](message, blob)

    def _listen(self) -> None:
        try:
            while (frame := wire.read(self._source)) is not None:
                if frame[0]["type"] == "cancel":
                    self._cancelled.add(cast(int, frame[0]["id"]))
                else:
                    self._asked.put(frame)
        finally:
            os._exit(0)  # nobody is left to answer

    def _say(self, message: Mapping[str, Json]) -> None:
        self._sink.write(wire.pack(message))
        self._sink.flush()

    def _answer(self, message: wire.Message, blob: bytes) -> None:
        number = cast(int, message["id"])
        try:
            for said in self._said(number, question_of(message, blob)):
                self._say({"id": number, **said})
        except SkinedgeError as e:
            self._say({"type": "failed", "id": number, "code": _code(e), "message": e.message, "hint": e.hint})
        except Exception as e:
            if not out_of_memory(e):
                raise
            hint = "Close other programs, start a new visit, or serve with a shorter --context."
            self._say(
                {"type": "failed", "id": number, "code": "out_of_memory", "message": "the model ran out of memory.", "hint": hint}
            )
            raise  # what is left of it cannot be trusted: the server starts another
        finally:
            self._cancelled.discard(number)

    def _said(self, number: int, question: Question) -> Iterator[dict[str, Json]]:
        begin = time.perf_counter()
        options = decoding_options(
            self._pipeline.manifest.decoding, Ask(seed=question.seed, stop=question.stop, overrides=question.overrides)
        )
        images = [self._encodings.of(photo) for photo in question.photos]
        prompt = self._pipeline.prompts.build(question.messages, [i.grid for i in images])
        length, context = len(prompt.token_ids), self._session.context_length
        if length >= context:
            raise TooLongError(
                f"the conversation has {length} tokens and the model's context holds {context}.",
                hint="Start a new visit, or ask with one photograph only.",
            )
        # A first question is answered as the certificate's were; only what follows may differ by the order of sums.
        self._session.reuse = any(m.role == "assistant" for m in question.messages)
        yield {"type": "started", "prompt_tokens": length}
        seen = time.perf_counter()
        with closing(generate(self._session, self._pipeline.prompts, prompt, images, options)) as generation:
            for token in generation:
                yield {"type": "said", "text": token.text, "token": token.token_id}
                if number in self._cancelled:
                    break
        yield self._ended(generation, seen - begin)

    def _ended(self, generation: Generation, pictures_s: float) -> dict[str, Json]:
        t = generation.transcript
        seconds: Json = {"pictures": pictures_s, "prefill": t.prefill_s, "decode": sum(t.step_s) + sum(t.sample_s)}
        return {
            "type": "ended", "finish_reason": t.finish_reason, "tokens": len(t.token_ids), "prompt_tokens": t.prompt_tokens,
            "kept": self._session.kept, "seconds": seconds,
        }  # fmt: skip

    def _golden(self, message: wire.Message, _blob: bytes) -> None:
        """The bundle's golden cases again, in the session that answers."""
        from skinedge.parity.golden import repeat
        from skinedge.parity.recheck import FOLDER, verify_golden

        folder, error = Path(str(message["bundle"])), ""
        outcomes: list[Json] = []
        try:
            kept = verify_golden(folder, self._pipeline.manifest)
            outcomes = [o.model_dump(mode="json") for o in repeat(self._pipeline, folder / FOLDER, kept.cases)] if kept else []
        except SkinedgeError as e:
            error = str(e)
        self._say({"type": "golden", "id": message["id"], "outcomes": outcomes, "error": error})

    def _forget(self, message: wire.Message, _blob: bytes) -> None:
        """What was seen in some photographs; the next question is read from its beginning."""
        self._encodings.forget(cast(list[str], message["photos"]))
        self._session.forget()

    def _warm_up(self) -> None:
        """The first answer pays for what is made once: kernels, caches, pages of the weights."""
        from PIL import Image

        photo = Photo("warm-up", 224, 224, Image.linear_gradient("L").resize((224, 224)).convert("RGB").tobytes())
        question = Question(ask(), (photo,), {"max_new_tokens": 2})
        for _ in self._said(-1, question):
            pass


class TooLongError(PromptError):
    """The conversation does not fit the context."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python or of a native library says that memory ran out."""
    words = str(error).casefold()
    return isinstance(error, MemoryError) or any(w in words for w in ("out of memory", "bad allocation", "failed to allocate"))


def _code(error: SkinedgeError) -> str:
    if isinstance(error, TooLongError):
        return "too_long"
    if isinstance(error, PromptError):
        return "bad_prompt"
    if isinstance(error, UsageError):
        return "bad_request"
    return "out_of_memory" if out_of_memory(error) else "engine_failed"


def message_of(question: Question) -> tuple[dict[str, Json], bytes]:
    """A question as a frame holds it."""
    photos: Json = [{"id": p.id, "width": p.width, "height": p.height} for p in question.photos]
    messages: Json = [
        {"role": m.role, "content": m.content if isinstance(m.content, str) else [_part(p) for p in m.content]}
        for m in question.messages
    ]
    message: dict[str, Json] = {
        "messages": messages, "photos": photos, "overrides": dict(question.overrides), "stop": list(question.stop),
        "seed": question.seed,
    }  # fmt: skip
    return message, b"".join(p.rgb for p in question.photos)


def question_of(message: Mapping[str, Any], blob: bytes) -> Question:
    """The reverse."""
    photos, at = [], 0
    for p in message["photos"]:
        nbytes = p["width"] * p["height"] * 3
        photos.append(Photo(p["id"], p["width"], p["height"], blob[at : at + nbytes]))
        at += nbytes
    messages = tuple(
        Message(m["role"], m["content"] if isinstance(m["content"], str) else tuple(map(_part_of, m["content"])))
        for m in message["messages"]
    )
    return Question(messages, tuple(photos), message["overrides"], tuple(message["stop"]), message["seed"])


def _part(part: TextPart | ImagePart) -> Json:
    return part.text if isinstance(part, TextPart) else None


def _part_of(part: str | None) -> TextPart | ImagePart:
    return ImagePart() if part is None else TextPart(part)


def _pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output, for frames only: what libraries print goes to standard error."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if sys.platform == "win32":
        import msvcrt

        for stream in (source, sink):
            msvcrt.setmode(stream.fileno(), os.O_BINARY)
    return source, sink


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the bundle and answer; returns the exit code."""
    parser = argparse.ArgumentParser(prog="engine")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--side")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--context", type=int)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(arguments)
    source, sink = _pipes()
    try:
        with open_pipeline(
            args.bundle, side=args.side, threads=args.threads, context=args.context, device=args.device
        ) as pipeline:
            Engine(pipeline, source, sink).run()
    except SkinedgeError as e:
        sink.write(wire.pack({"type": "broken", "message": e.message, "hint": e.hint}))
        sink.flush()
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
