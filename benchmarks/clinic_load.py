"""The workstation under load: many clients at once, thousands of requests, and an engine that is killed again and again.

Usage: python -m benchmarks.clinic_load [--bundle DIR] [--requests 2000] [--kills 20] [--json FILE]

``skinedge serve`` runs in a process of its own, as a clinic would start it, on the embedded model exported as ONNX int4 unless
a bundle is named.  Traffic goes to 127.0.0.1 only.  Exits 1 if a request was lost, refused without a time to come back, or if
memory grew by more than 5 %.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil

from skinedge.artifacts import AdapterCheckpoint
from skinedge.bundle import export
from skinedge.embedded import embedded_checkpoint
from skinedge.measure.machine import describe_here
from skinedge.parity.pictures import make_picture
from skinedge.staging import staged_file
from skinedge.targets._contract import ExportOptions

RESULT = Path(__file__).parent / "results" / "clinic_load.json"
CLIENTS, EACH = 20, 10
GROWTH = 0.05


@contextmanager
def served(bundle: Path, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """The address and the process of a workstation."""
    with tempfile.TemporaryDirectory() as log:
        command = [sys.executable, "-m", "skinedge", "serve", str(bundle), "--port", "0", "--json", "--threads", "1",
                   "--audit", f"{log}/audit", *options]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert process.stdout
            url = json.loads(process.stdout.readline())["url"]
            end = time.monotonic() + 120
            while httpx.get(f"{url}health").json()["engine"] != "ready":
                assert time.monotonic() < end, "the engine does not become ready"
                time.sleep(0.05)
            yield url, psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def body(seed: int, new: int = 48) -> dict[str, Any]:
    """A question about one of a few pictures."""
    data = io.BytesIO()
    make_picture(224, 224, seed % 8).save(data, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": f"What is it ({seed % 5})?"}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": new, "user": f"client {seed % CLIENTS}"}


def crowd(url: str) -> dict[str, Any]:
    """``CLIENTS`` clients at once, ``EACH`` requests of each, all on their way before the first is answered."""
    outcomes: Counter[str] = Counter()
    seconds: list[float] = []
    health: list[float] = []
    done = threading.Event()

    def probe() -> None:
        with httpx.Client() as client:
            while not done.is_set():
                begin = time.perf_counter()
                client.get(f"{url}health").raise_for_status()
                health.append(time.perf_counter() - begin)
                time.sleep(0.01)

    def ask(number: int) -> None:
        begin = time.perf_counter()
        response = httpx.post(f"{url}v1/chat/completions", json=body(number), timeout=600)
        if response.status_code == 200 and response.json()["choices"][0]["message"]["content"]:
            outcomes["answered"] += 1
            seconds.append(time.perf_counter() - begin)
        elif response.status_code == 429 and int(response.headers.get("retry-after", 0)) >= 1:
            outcomes["refused with Retry-After"] += 1
        else:
            outcomes[f"lost: {response.status_code} {response.text[:100]}"] += 1

    probing = threading.Thread(target=probe)
    probing.start()
    with ThreadPoolExecutor(CLIENTS * EACH) as pool:
        list(pool.map(ask, range(CLIENTS * EACH)))
    done.set()
    probing.join()
    return {"outcomes": dict(outcomes), "answer_s": _spread(seconds), "health_s": _spread(health), "health_n": len(health)}


def long_run(url: str, process: psutil.Process, requests: int) -> dict[str, Any]:
    """Memory over ``requests`` requests, four at a time: the first and the last hundred."""
    memory: list[tuple[int, int]] = []

    def ask(number: int) -> None:
        httpx.post(f"{url}v1/chat/completions", json=body(number, 8), timeout=600).raise_for_status()
        (engine,) = process.children()
        memory.append((process.memory_info().rss, engine.memory_info().rss))

    begin = time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(requests)))
    took = time.perf_counter() - begin
    both = [sum(pair) for pair in memory]
    first, last = statistics.mean(both[:100]), statistics.mean(both[-100:])
    ends = {
        name: [statistics.mean(p[i] for p in part) for part in (memory[:100], memory[-100:])]
        for i, name in enumerate(("server", "engine"))
    }
    return {
        "requests": requests,
        "seconds": took,
        "bytes_first": first,
        "bytes_last": last,
        "growth": last / first - 1,
        "by_process": ends,
    }


def killed(url: str, process: psutil.Process, times: int) -> dict[str, Any]:
    """Streams while the engine is killed at random: how each accepted one ended."""
    ends: Counter[str] = Counter()
    stop = threading.Event()
    kills = 0

    def ask(number: int) -> None:
        rng = random.Random(number)
        while not stop.is_set():
            asked = {**body(rng.randrange(1000), 200), "stream": True}
            with httpx.stream("POST", f"{url}v1/chat/completions", json=asked, timeout=600) as response:
                text = "".join(response.iter_text())
            if response.status_code == 200:
                whole, failed = "data: [DONE]" in text, '"error"' in text
                ends["answered" if whole else "told of the error" if failed else "lost silently"] += 1
            else:
                ends["told of the error" if "error" in json.loads(text) else "lost silently"] += 1

    workers = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for worker in workers:
        worker.start()
    rng = random.Random(0)
    while kills < times:
        time.sleep(rng.uniform(0.05, 1.5))
        for child in process.children():
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
    stop.set()
    for worker in workers:
        worker.join()
    restarts = next(line for line in httpx.get(f"{url}metrics").text.splitlines() if line.startswith("skinedge_engine_restarts "))
    return {"kills": kills, "restarts": int(float(restarts.split()[1])), "ends": dict(ends)}


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return (
        {"median": statistics.median(ordered), "p99": ordered[int(0.99 * (len(ordered) - 1))], "max": ordered[-1]}
        if ordered
        else {}
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = args.bundle or Path(folder) / "embedded-int4"
        if not args.bundle:
            source: AdapterCheckpoint = embedded_checkpoint()
            export(source, "onnx", ExportOptions("int4", context=2048), bundle)
        with served(bundle) as (url, process):
            found = {
                "crowd": crowd(url),
                "long_run": long_run(url, process, args.requests),
                "killed": killed(url, process, args.kills),
            }
    document = {
        "machine": describe_here().model_dump(mode="json"),
        "bundle": bundle.name,
        "clients": CLIENTS,
        "each": EACH,
        **found,
    }
    args.json.unlink(missing_ok=True)
    with staged_file(args.json) as f:
        f.write((json.dumps(document, indent=1, sort_keys=True) + "\n").encode())
    print(json.dumps(found, indent=1))
    lost = [k for part in (found["crowd"]["outcomes"], found["killed"]["ends"]) for k in part if k.startswith("lost")]
    return int(bool(lost) or abs(found["long_run"]["growth"]) > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
