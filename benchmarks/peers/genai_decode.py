"""Steps of onnxruntime-genai, timed: ``genai_decode.py FOLDER THREADS TOKENS`` prints their seconds as a JSON list.

Run in the environment that has onnxruntime-genai (``benchmarks/decode_speed.py`` does); nothing of skinedge is imported.
"""

import json
import sys
import time

import numpy as np
import onnxruntime_genai as og

folder, threads, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
config = og.Config(folder)
config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
parameters = og.GeneratorParams(model := og.Model(config))
parameters.set_search_options(max_length=64 + tokens + 16, min_length=64 + tokens + 16, do_sample=False)
generator = og.Generator(model, parameters)
generator.append_tokens(np.arange(1000, 1064, dtype=np.int32)[None])
times = []
for _ in range(tokens):
    begin = time.perf_counter()
    generator.generate_next_token()
    times.append(time.perf_counter() - begin)
print(json.dumps(times))
