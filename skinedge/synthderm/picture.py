"""A photograph of a drawn case."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from skinedge.synthderm.canvas import Canvas
from skinedge.synthderm.findings import Case
from skinedge.synthderm.lesion import paint_lesion
from skinedge.synthderm.skin import add_hair, light_relief, paint_skin, photograph

SIZE = 168


def render(case: Case, size: int = SIZE) -> npt.NDArray[np.uint8]:
    """The picture of a case ``[size, size, 3]``; same case, same picture (at another size: the same scene)."""
    canvas = Canvas(size, np.random.default_rng([case.seed, 3]))
    paint_skin(canvas, case.fitzpatrick)
    paint_lesion(canvas, case.findings)
    light_relief(canvas)
    add_hair(canvas)
    return photograph(canvas)
