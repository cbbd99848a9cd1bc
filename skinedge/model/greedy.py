"""Greedy answers to prompts of one length at once, in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import transformers

from skinedge.errors import SkinedgeError
from skinedge.model.reference import Reference
from skinedge.runtime.session import Float32, ImageEncoding, Prompt, combined_bias


@torch.inference_mode()
def greedy(
    reference: Reference,
    prompts: Sequence[Prompt],
    images: Sequence[ImageEncoding],
    *,
    most: int,
    ends: Sequence[int],
    biased: bool = True,
) -> list[list[int]]:
    """The tokens of each answer, the end token too where one ended it.

    Args:
        reference: the model.
        prompts: all of one length, one image each.
        images: their encodings.
        most: an answer is cut off there.
        ends: tokens that end an answer.
        biased: whether the side branch speaks.

    Raises:
        SkinedgeError: the model gave something else than numbers.
    """
    model, device = reference.model, reference.model.device
    ids = torch.tensor(np.stack([p.token_ids for p in prompts]), device=device)
    embeds = model.get_input_embeddings()(ids)
    features = torch.tensor(np.concatenate([i.features for i in images]), device=device)
    embeds[ids == int(model.config.image_token_id)] = features.to(embeds.dtype)
    positions = torch.tensor(np.stack([p.positions for p in prompts], 1), device=device)
    places = torch.tensor([p.next_position for p in prompts], device=device)
    biases = [combined_bias([image]) for image in images] if biased else [None]
    bias = None if biases[0] is None else torch.tensor(np.stack([b for b in biases if b is not None]), device=device)
    cache = transformers.DynamicCache(config=model.config)
    ending = torch.tensor(list(ends), device=device)
    alive = torch.arange(len(prompts), device=device)
    answers: list[list[int]] = [[] for _ in prompts]
    while True:
        out = model(inputs_embeds=embeds, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        logits = out.logits[:, 0].float()
        logits = logits if bias is None else logits + bias
        if not bool(logits.isfinite().all()):
            raise SkinedgeError("the reference gave something else than a number for a logit, so it has no narrative.")
        chosen = logits.argmax(-1)
        for row, token in zip(alive.tolist(), chosen.tolist(), strict=True):
            answers[row].append(token)
        going = ~torch.isin(chosen, ending)
        if not bool(going.any()) or len(answers[int(alive[0])]) == most:
            return answers
        chosen, alive, places = chosen[going], alive[going], places[going]
        if len(alive) < len(going):
            cache.batch_select_indices(going)
            bias = None if bias is None else bias[going]
        embeds = model.get_input_embeddings()(chosen[:, None])
        positions = places.expand(3, -1)[..., None]
        places = places + 1


def continued(prompt: Prompt, tokens: Sequence[int]) -> Prompt:
    """The prompt with ``tokens`` of an answer behind it, to be read in one pass."""
    places = prompt.next_position + np.arange(len(tokens), dtype=np.int64)
    return Prompt(
        prompt.text,
        np.concatenate([prompt.token_ids, np.array(tokens, np.int64)]),
        np.concatenate([prompt.positions, np.tile(places, (3, 1))], 1),
        prompt.next_position + len(tokens),
        prompt.grids,
    )


def along(reference: Reference, prompt: Prompt, image: ImageEncoding, tokens: Sequence[int], bias: Float32 | None) -> Float32:
    """Logits ``[S + len(tokens) - 1, vocabulary]`` at every position of a prompt and along an answer, in one pass."""
    return reference.prefill(continued(prompt, tokens[:-1]), [image], bias=bias, all_positions=True)
