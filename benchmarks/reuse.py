"""What a follow-up costs when the conversation before it is kept, and when it is read again.

Usage: python -m benchmarks.reuse BUNDLE [--rounds 10] [--size 1344x1008] [--json FILE]

One photograph, an answer of 128 tokens, a follow-up.  The two ways are timed in turn (A B B A …) in one process on one thread;
given are medians of the time from the follow-up's prompt to its first logits, their ratio, and how far the logits differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from skinedge.measure.machine import describe_here
from skinedge.parity.pictures import make_picture
from skinedge.runtime.generate import GenerateOptions, generate
from skinedge.runtime.image import to_pixels
from skinedge.runtime.pipeline import open_pipeline
from skinedge.runtime.prompt import ImagePart, Message, TextPart
from skinedge.runtime.reuse import ReusingSession
from skinedge.runtime.session import combined_bias
from skinedge.staging import staged_file

RESULT = Path(__file__).parent / "results" / "reuse.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--size", default="1344x1008")
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    with open_pipeline(args.bundle, threads=1, context=4096) as pipeline:
        session = ReusingSession(pipeline.session, pipeline.manifest.architecture.image_token_id)
        image = session.encode_image(to_pixels(make_picture(width, height, 1), pipeline.processor))
        asked = Message("user", (ImagePart(), TextPart(pipeline.manifest.prompt.question)))
        first = pipeline.prompts.build([asked], [image.grid])
        options = GenerateOptions(max_new_tokens=128, ignore_eos=True)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        distance, kept, length = 0.0, 0, 0
        for number in range(args.rounds):
            logits = {}
            for reuse in (True, False) if number % 2 else (False, True):
                session.forget()
                generation = generate(session, pipeline.prompts, first, [image], options)
                for _ in generation:
                    pass
                turns = [asked, Message("assistant", generation.transcript.text), Message("user", "Why not another disease?")]
                prompt = pipeline.prompts.build(turns, [image.grid])
                session.reuse = reuse
                begin = time.perf_counter()
                logits[reuse] = session.prefill(prompt, [image], bias=combined_bias([image]))
                seconds[reuse].append(time.perf_counter() - begin)
                kept, length = (session.kept if reuse else kept), len(prompt.token_ids)
                session.reuse = True
            distance = max(distance, float(np.abs(logits[True] - logits[False]).max()))
        manifest = pipeline.manifest
    found = {
        "bundle": f"{manifest.target} {manifest.scheme.asked}", "prompt_tokens": length, "kept": kept,
        "kept_s": statistics.median(seconds[True]), "read_again_s": statistics.median(seconds[False]),
        "ratio": statistics.median(b / a for a, b in zip(seconds[True], seconds[False], strict=True)), "logits_differ": distance,
        "samples": {"kept": seconds[True], "read_again": seconds[False]},
    }  # fmt: skip
    document = {"machine": describe_here().model_dump(mode="json"), **found}
    args.json.unlink(missing_ok=True)
    with staged_file(args.json) as f:
        f.write((json.dumps(document, indent=1, sort_keys=True) + "\n").encode())
    print({name: value for name, value in found.items() if name != "samples"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
