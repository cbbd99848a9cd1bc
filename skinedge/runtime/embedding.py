"""Token embeddings with image features in their places: the decoder's input, made on the host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from skinedge.errors import BundleError, PromptError
from skinedge.graph.embedding import FILE
from skinedge.model.config import ModelConfig
from skinedge.model.names import EMBEDDING
from skinedge.runtime.session import Float32, ImageEncoding, Int64
from skinedge.weights.safetensors import SafetensorsFile


class EmbeddingTable:
    """A bundle's ``embedding.safetensors``, mapped.

    Raises:
        BundleError: the file is missing or of another model.
    """

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        if not (folder / FILE).is_file():
            raise BundleError(f"{folder / FILE} is missing.", hint="Export the bundle again.")
        file = SafetensorsFile(folder / FILE)
        wanted = (config.text.vocab_size, config.text.hidden_size)
        if EMBEDDING not in file.names() or file.spec(EMBEDDING).shape != wanted:
            raise BundleError(f"{folder / FILE} holds no table of {wanted[0]}x{wanted[1]}.", hint="Export the bundle again.")
        self._table = file.read(EMBEDDING)
        self._image_token = config.image_token_id

    def rows(self, token_ids: Int64) -> Float32:
        """Embeddings ``[S, hidden]``.

        Raises:
            PromptError: a token the model does not have.
        """
        if len(token_ids) and not 0 <= token_ids.min() <= token_ids.max() < len(self._table):
            raise PromptError(f"a token id is outside the vocabulary of {len(self._table)}.")
        rows: Float32 = self._table[token_ids].astype(np.float32)
        return rows

    def mix(self, token_ids: Int64, images: Sequence[ImageEncoding]) -> Float32:
        """Embeddings ``[S, hidden]`` of a prompt, the features of ``images`` at its image tokens, in order."""
        rows = self.rows(token_ids)
        if images:
            rows[token_ids == self._image_token] = np.concatenate([image.features for image in images])
        return rows
