"""Whatever answers questions about photographs: a bundle, a checkpoint in PyTorch, a served model.  One protocol for all.

Bundle and checkpoint go through the same code over a ``Session``, one question at a time, as the official runs do
(REFERENCE, section 3: greedy, repetition penalty 1, up to 4096 new tokens, batch 1).  An endpoint is asked many at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from skinedge.artifacts import AdapterCheckpoint
from skinedge.errors import EndpointError, ImageError, PromptError, RefusedError, SkinedgeError
from skinedge.evaluation.asking import PATIENCE, PATIENCE_AT_FIRST
from skinedge.evaluation.endpoint import Answer, Endpoint, EndpointSettings
from skinedge.evaluation.pictures import ENCODING, data_uri
from skinedge.evaluation.served import who_is
from skinedge.manifest import DecodingRecord, read_manifest
from skinedge.runtime.generate import BiasPolicy, GenerateOptions, generate
from skinedge.runtime.image import ProcessorConfig, load_photograph, read_processor_config, to_pixels
from skinedge.runtime.prompt import PromptBuilder, ask
from skinedge.runtime.sampling import SamplingOptions
from skinedge.runtime.session import Session

Setting = str | int | float
OFFICIAL = DecodingRecord()


@dataclass(frozen=True)
class Asked:
    """One question about one photograph."""

    id: str
    image: Path
    question: str


@dataclass(frozen=True)
class Reply:
    """What came of it: an answer, or why there is none."""

    id: str
    answer: Answer | None
    failed: str = ""


class Model(Protocol):
    """Something that answers."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def identity(self) -> Mapping[str, str]:
        """What it is, in a form that changes whenever an answer could."""
        ...

    def settings(self) -> Mapping[str, Setting]:
        """How it is asked: decoding, the adapter's bias, the limits of a photograph."""
        ...

    def served(self) -> Mapping[str, object]:
        """What a server says that it answers with; empty where there is none, or it does not say.

        Raises:
            EndpointError: it cannot be reached.
        """
        ...

    def answer(self, asked: Sequence[Asked]) -> Iterator[Reply]:
        """One reply to each, in any order, as they come; nothing is loaded before the first is asked for.

        Raises:
            SkinedgeError: the model cannot be used at all.
        """
        ...


@dataclass(frozen=True)
class BundleModel:
    """A bundle, through its own session; ``side``, ``threads``, ``context`` and ``device`` as for ``open_pipeline``."""

    folder: Path
    decoding: DecodingRecord = OFFICIAL
    title: str = ""
    side: str | None = None
    threads: int | None = None
    context: int | None = None
    device: str = "auto"

    @property
    def name(self) -> str:
        return self.title or self.folder.resolve().name

    def identity(self) -> Mapping[str, str]:
        manifest = read_manifest(self.folder)
        known = {"kind": "bundle", "digest": manifest.digest, "target": self.side or manifest.target}
        return {**known, "scheme": manifest.scheme.asked, "device": self.device}

    def settings(self) -> Mapping[str, Setting]:
        held = {} if self.context is None else {"context": self.context}  # it cuts answers short
        return {**_settings(self.decoding, read_processor_config(self.folder)), **held}

    def served(self) -> Mapping[str, object]:
        return {}

    def answer(self, asked: Sequence[Asked]) -> Iterator[Reply]:
        from skinedge.runtime.pipeline import open_pipeline

        with open_pipeline(
            self.folder, side=self.side, threads=self.threads, context=self.context, device=self.device
        ) as pipeline:
            yield from one_by_one(pipeline.session, pipeline.prompts, pipeline.processor, self.decoding, asked)


@dataclass(frozen=True)
class TorchModel:
    """A checkpoint with its adapters, in PyTorch; ``precision`` is ``f32``, ``f16`` or ``bf16``."""

    source: AdapterCheckpoint
    decoding: DecodingRecord = OFFICIAL
    title: str = ""
    precision: str = "f32"
    threads: int | None = None
    device: str = "auto"

    @property
    def name(self) -> str:
        return self.title or self.source.path.resolve().name

    def identity(self) -> Mapping[str, str]:
        return {"kind": "pytorch", "digest": self.source.digest, "precision": self.precision, "device": self.device}

    def settings(self) -> Mapping[str, Setting]:
        return _settings(self.decoding, read_processor_config(self.source.path))

    def served(self) -> Mapping[str, object]:
        return {}

    def answer(self, asked: Sequence[Asked]) -> Iterator[Reply]:
        import torch

        from skinedge.model.config import read_config
        from skinedge.model.reference import Reference

        where = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        folder = self.source.path
        session = Reference.from_checkpoint(
            folder, self.source.adapters, dtype=self.precision, threads=self.threads, device=where
        )
        try:
            prompts = PromptBuilder.from_folder(folder, read_config(folder))
            yield from one_by_one(session, prompts, read_processor_config(folder), self.decoding, asked)
        finally:
            session.close()


def one_by_one(
    session: Session, prompts: PromptBuilder, processor: ProcessorConfig, decoding: DecodingRecord, asked: Sequence[Asked]
) -> Iterator[Reply]:
    """Replies of a session, in order; a photograph or prompt that cannot be used fails alone."""
    sampling = SamplingOptions(
        temperature=decoding.temperature, top_p=decoding.top_p, repetition_penalty=decoding.repetition_penalty
    )
    options = GenerateOptions(sampling, decoding.max_new_tokens, bias=cast(BiasPolicy, decoding.bias))
    for question in asked:
        try:
            image = session.encode_image(to_pixels(load_photograph(question.image), processor))
            prompt = prompts.build(ask(question.question), [image.grid])
            generation = generate(session, prompts, prompt, [image], options)
            for _ in generation:
                pass
        except (ImageError, PromptError) as e:
            yield Reply(question.id, None, e.message)
            continue
        said = generation.transcript
        finish = "length" if said.finish_reason == "length" else "stop"
        yield Reply(question.id, Answer(said.text, finish, said.prompt_tokens, len(said.token_ids)))


def _settings(decoding: DecodingRecord, processor: ProcessorConfig) -> Mapping[str, Setting]:
    return {**decoding.model_dump(), "min_pixels": processor.min_pixels, "max_pixels": processor.max_pixels, "batch": 1}


@dataclass(frozen=True)
class EndpointModel:
    """A model at an OpenAI-compatible endpoint, asked ``where.concurrency`` questions at a time.

    ``standard`` sends OpenAI's own fields only.  The repetition penalty is not among them, and is sent otherwise: vLLM takes
    the default of the checkpoint's ``generation_config.json``, which is 1.05 for Qwen2.5-VL.
    """

    where: EndpointSettings
    model: str
    decoding: DecodingRecord = OFFICIAL
    title: str = ""
    standard: bool = False

    @property
    def name(self) -> str:
        return self.title or self.model

    def identity(self) -> Mapping[str, str]:
        return {"kind": "endpoint", "url": self.where.url, "model": self.model}

    def settings(self) -> Mapping[str, Setting]:
        body = {key: value for key, value in self._body().items() if isinstance(value, str | int | float)}
        return {**body, "pictures": ENCODING}

    def served(self) -> Mapping[str, object]:
        return who_is(self.where, self.model)

    def answer(self, asked: Sequence[Asked]) -> Iterator[Reply]:
        with asyncio.Runner() as runner:
            replies = self._replies(asked)
            while True:
                try:
                    yield runner.run(_next(replies))
                except StopAsyncIteration:
                    return

    async def _replies(self, asked: Sequence[Asked]) -> AsyncIterator[Reply]:
        """Replies as they come: workers take questions from one iterator and put what came of them into one queue."""
        waiting = iter(asked)
        came: asyncio.Queue[Reply | SkinedgeError] = asyncio.Queue()
        async with Endpoint(self.where) as endpoint:
            workers = [asyncio.create_task(self._work(endpoint, waiting, came)) for _ in range(self.where.concurrency)]
            try:
                refused, answered = 0, False
                for _ in asked:
                    reply = await came.get()
                    if isinstance(reply, SkinedgeError):
                        raise reply
                    refused = refused + 1 if reply.answer is None else 0
                    answered = answered or reply.answer is not None
                    if refused >= (PATIENCE if answered else PATIENCE_AT_FIRST):
                        raise EndpointError(
                            f"{refused} questions in a row got no answer: {reply.failed}",
                            hint="Can this model see pictures? If a field of the request is not known there: --standard-fields",
                        )
                    yield reply
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, endpoint: Endpoint, waiting: Iterator[Asked], came: asyncio.Queue[Reply | SkinedgeError]) -> None:
        for question in waiting:
            try:
                image = await asyncio.to_thread(data_uri, question.image)
                answer = await endpoint.complete(self._body(image, question.question))
                await came.put(Reply(question.id, answer))
            except (RefusedError, ImageError) as e:
                await came.put(Reply(question.id, None, e.message))
            except SkinedgeError as e:
                await came.put(e)
                return

    def _body(self, image: str = "", question: str = "") -> dict[str, object]:
        content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": question}]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": self.decoding.temperature,
            "top_p": self.decoding.top_p,
            "max_tokens": self.decoding.max_new_tokens,
            **({} if self.standard else {"repetition_penalty": self.decoding.repetition_penalty}),
        }


async def _next(replies: AsyncIterator[Reply]) -> Reply:
    return await anext(replies)
