"""A session that does not read again what it has just read: a follow-up costs its new words only.

Keys and values depend on tokens, positions and images, not on the bias, which is added to logits.  So the longest
common beginning of the last conversation and the next prompt is kept.  Sums are then made in other pieces than in one
pass over the whole prompt, which moves logits by rounding alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from skinedge.runtime.session import Float32, ImageEncoding, Int64, Pixels, Prompt, Session


class ReusingSession:
    """Any ``Session``, with the beginning that two conversations share read once.

    An image is the same if its encoding is the same object: whoever keeps encodings decides.

    Args:
        session: does the work; nobody else may use it meanwhile.
        image_token: id of the token that stands for a patch of an image.

    ``reuse`` may be switched off for a prompt whose answer must be, to the last bit, what a fresh session gives.
    """

    def __init__(self, session: Session, image_token: int) -> None:
        self._session, self._image_token = session, image_token
        self.reuse = True
        self.vocab_size, self.context_length, self.on_gpu = session.vocab_size, session.context_length, session.on_gpu
        self.kept = 0  # positions that the last prefill did not read again
        self._read = _Read.nothing()

    def encode_image(self, pixels: Pixels) -> ImageEncoding:
        """See ``Session.encode_image``."""
        return self._session.encode_image(pixels)

    def prefill(
        self,
        prompt: Prompt,
        images: Sequence[ImageEncoding] = (),
        *,
        bias: Float32 | None = None,
        all_positions: bool = False,
        keep: int = 0,
    ) -> Float32:
        """See ``Session.prefill``; ``keep`` is found here."""
        del keep
        then, self._read = self._read, _Read.nothing()  # what an error leaves behind is not trusted
        self.kept = 0 if all_positions or not self.reuse else self._shared(then, prompt, images)
        logits = self._session.prefill(prompt, images, bias=bias, all_positions=all_positions, keep=self.kept)
        self._read = _Read(prompt.token_ids, prompt.positions, tuple(images), prompt.next_position)
        return logits

    def step(self, token: int) -> Float32:
        """See ``Session.step``."""
        then, self._read = self._read, _Read.nothing()
        logits = self._session.step(token)
        self._read = then.followed_by(token)
        return logits

    def forget(self) -> None:
        """Keep nothing of the last conversation for the next."""
        self._read = _Read.nothing()

    def close(self) -> None:
        """See ``Session.close``."""
        self._session.close()

    def _shared(self, then: _Read, prompt: Prompt, images: Sequence[ImageEncoding]) -> int:
        """Positions at the beginning that need not be read again; never all, for the last one's logits are wanted."""
        most = min(len(then.tokens), len(prompt.token_ids) - 1)
        same = (then.tokens[:most] == prompt.token_ids[:most]) & (then.positions[:, :most] == prompt.positions[:, :most]).all(0)
        shared = most if same.all() else int(same.argmin())
        is_image = prompt.token_ids[: shared + 1] == self._image_token
        starts = [int(i) for i in np.flatnonzero(np.diff(is_image.astype(np.int8), prepend=0) == 1)]
        for start, ours, theirs in zip(starts, images, then.images, strict=False):
            if ours is not theirs:
                return start
        if is_image[-1] and starts:  # inside an image, which is read as a whole
            return starts[-1]
        return shared


class _Read:
    """What lies in the cache: ``tokens`` int64 ``[S]``, ``positions`` int64 ``[3, S]``."""

    def __init__(self, tokens: Int64, positions: Int64, images: tuple[ImageEncoding, ...], next_position: int) -> None:
        self._tokens, self._positions = tokens, positions
        self._said: list[int] = []
        self.images, self._next = images, next_position

    @classmethod
    def nothing(cls) -> _Read:
        return cls(np.zeros(0, np.int64), np.zeros((3, 0), np.int64), (), 0)

    def followed_by(self, token: int) -> _Read:
        self._said.append(token)
        return self

    @property
    def tokens(self) -> Int64:
        return np.concatenate([self._tokens, np.array(self._said, np.int64)])

    @property
    def positions(self) -> Int64:
        following = np.arange(self._next, self._next + len(self._said), dtype=np.int64)
        return np.concatenate([self._positions, np.broadcast_to(following, (3, len(following)))], axis=1)
