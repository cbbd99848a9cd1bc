"""One ONNX graph to one TensorRT plan, and what the builder saw while it made it.

The plan is streamed to disk and digested as it comes, so that it is never whole in our memory; the
weights are mapped by TensorRT's parser.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from skinedge.errors import TargetError
from skinedge.runtime._tensorrt import CLASSIC, Library, cache_folder, reason, save_cache
from skinedge.weights.stream import HashingFile, Progress

Range = tuple[int, int, int]  # smallest, usual, largest
Profile = Mapping[str, Range]  # by the name of a symbolic dimension of the ONNX graph

_CHUNK = 64 << 20  # the size of the pieces TensorRT streams


@dataclass(frozen=True)
class BuiltPlan:
    """A plan on disk.

    ``details`` holds ``inputs`` and ``outputs`` (name, dtype, shape, is_shape_tensor) as they stand in
    TensorRT's network and ``profiles`` (input -> smallest, usual, largest shape) as its profile objects
    hold them: nothing in it is a copy of what was asked for.
    """

    sha256: str
    nbytes: int
    details: Mapping[str, Any]


def build_plan(
    library: Library, graph: Path, plan: Path, profiles: Sequence[Profile], weight_bytes: int, progress: Progress
) -> BuiltPlan:
    """Build the file ``plan`` from the ONNX file ``graph``, whose external data lies beside it.

    Args:
        library: what builds it.
        graph: the ONNX file.
        plan: the file to write.
        profiles: one mapping for each way the plan will be run.
        weight_bytes: size of the graph's weights, the unit of ``progress``.
        progress: told of the build.

    Raises:
        TargetError: TensorRT refuses the graph, a profile or the build; the message names the graph, the
            node where TensorRT knows one, and its reason.
        OSError: the plan cannot be written.
    """
    return _Build(library, graph).run(plan, profiles, _Monitor(progress, plan.name, weight_bytes))


class _Build:
    def __init__(self, library: Library, graph: Path) -> None:
        trt, self._log = library.module, library.log
        self._library, self._graph = library, graph
        self._log.clear()
        self._builder = trt.Builder(self._log.sink)
        # Types come from the graph alone; the newest releases know nothing else and have no flag for it.
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        self._network = self._builder.create_network(0 if typed is None else 1 << int(typed))
        self._parser = trt.OnnxParser(self._network, self._log.sink)
        self._config = self._builder.create_builder_config()

    def run(self, plan: Path, profiles: Sequence[Profile], monitor: _Monitor) -> BuiltPlan:
        self._parse()
        inputs = [self._network.get_input(i) for i in range(self._network.num_inputs)]
        outputs = [self._network.get_output(i) for i in range(self._network.num_outputs)]
        seen = [self._add_profile(inputs, profile) for profile in profiles]
        with plan.open("wb") as f:
            out = _Writer(f)
            built = self._serialize(out, monitor)
        for failure in (out.failure, monitor.failure):
            if failure:
                raise failure
        if not built:
            raise self._refusal(self._log.reason())
        inconsistent = self._log.warning("not self-consistent")
        if inconsistent:  # TensorRT goes on, and the plan would fail at the first such shape
            raise self._refusal(f"a profile contradicts itself: {reason(inconsistent)}")
        monitor.finish()
        details = {"inputs": [_tensor(t) for t in inputs], "outputs": [_tensor(t) for t in outputs], "profiles": seen}
        return BuiltPlan(out.file.hexdigest(), out.file.position, details)

    def _parse(self) -> None:
        if self._parser.parse_from_file(str(self._graph)):
            return
        error = self._parser.get_error(0)
        node = f"node '{error.node_name()}' ({error.node_operator()}): " if error.node_name() else ""
        raise self._refusal(node + (reason(error.desc()) or self._log.reason()))

    def _add_profile(self, inputs: Sequence[Any], profile: Profile) -> dict[str, list[list[int]]]:
        """The profile as the builder holds it, for the inputs whose shape varies."""
        made = self._builder.create_optimization_profile()
        varying = [t for t in inputs if -1 in tuple(t.shape)]
        for tensor in varying:
            made.set_shape(tensor.name, *_shapes(tensor, profile))
        if self._config.add_optimization_profile(made) < 0:
            raise self._refusal(f"a profile is not valid: {self._log.reason()}")
        return {t.name: [list(shape) for shape in made.get_shape(t.name)] for t in varying}

    def _serialize(self, out: _Writer, monitor: _Monitor) -> bool:
        trt = self._library.module
        watcher = _progress_sink(trt, monitor)  # TensorRT holds no reference to it
        self._config.progress_monitor = watcher
        timing = self._timing_cache()
        if hasattr(self._builder, "build_serialized_network_to_stream"):
            sink = _stream_sink(trt, out)
            built = bool(self._builder.build_serialized_network_to_stream(self._network, self._config, sink))
        else:
            memory = self._builder.build_serialized_network(self._network, self._config)
            view = memoryview(memory or b"")
            built = memory is not None and all(out.write(view[i : i + _CHUNK]) for i in range(0, len(view), _CHUNK))
        if built and timing is not None:
            save_cache(self._timing_file(), memoryview(timing.serialize()))
        return built

    def _timing_cache(self) -> Any:
        """Classic TensorRT times kernels while it builds and can remember; TensorRT-RTX does neither."""
        if self._library.name != CLASSIC:
            return None
        file = self._timing_file()
        cache = self._config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
        self._config.set_timing_cache(cache, False)
        return cache

    def _timing_file(self) -> Path:
        return cache_folder() / f"{self._library.name}-{self._library.version}.timing"

    def _refusal(self, why: str) -> TargetError:
        return TargetError(
            f"{self._library.title} cannot build {self._graph.name}: {why}.",
            hint="Export with another --scheme or --activations, or with --target onnx.",
        )


def _shapes(tensor: Any, profile: Profile) -> list[tuple[int, ...]]:
    """The tensor's smallest, usual and largest shape under ``profile``."""
    shape = [(size, tensor.get_dimension_name(axis)) for axis, size in enumerate(tensor.shape)]
    return [tuple(profile[name][k] if size == -1 else size for size, name in shape) for k in range(3)]


def _tensor(tensor: Any) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype.name,
        "shape": list(tensor.shape),
        "is_shape_tensor": bool(tensor.is_shape_tensor),
    }


class _Writer:
    """The plan's file.  A failure is kept, because TensorRT ignores it and reports success."""

    def __init__(self, stream: BinaryIO) -> None:
        self.file = HashingFile(stream)
        self.failure: OSError | KeyboardInterrupt | None = None

    def write(self, data: bytes | memoryview) -> bool:
        if self.failure is None:
            try:
                self.file.write(data)
            except (OSError, KeyboardInterrupt) as e:
                self.failure = e
        return self.failure is None


class _Monitor:
    """TensorRT's nested phases as bytes of weights built in; called from any of its threads.

    The steps of a phase share what the step of its parent that they belong to is worth.
    """

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._total, self._told = progress, total, 0
        self._phases: dict[str, tuple[float, float]] = {}  # share of the whole that is done, worth of a step
        self._lock = threading.Lock()
        self.failure: KeyboardInterrupt | None = None
        progress.begin(what, total)

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        done, worth = self._phases.get(parent or "", (0.0, 1.0))
        self._phases[phase] = (done, worth / steps)

    def step(self, phase: str) -> bool:
        """False tells TensorRT to stop: the user asked for it."""
        try:
            with self._lock:
                done, worth = self._phases[phase]
                self._phases[phase] = (done + worth, worth)
                self._tell(int(min(done + worth, 1.0) * self._total))
        except KeyboardInterrupt as e:
            self.failure = e
        return self.failure is None

    def finish(self) -> None:
        """Everything is built in."""
        self._tell(self._total)

    def _tell(self, count: int) -> None:
        if count > self._told:
            self._progress.advance(count - self._told)
            self._told = count


def _progress_sink(trt: Any, monitor: _Monitor) -> object:
    class Sink(trt.IProgressMonitor):  # type: ignore[misc]  # a class of a library that is imported by name
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            monitor.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, _step: int) -> bool:
            return monitor.step(phase_name)

        def phase_finish(self, phase_name: str) -> None: ...

    return Sink()


def _stream_sink(trt: Any, out: _Writer) -> object:
    class Sink(trt.IStreamWriter):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)

        def write(self, data: bytes) -> int:
            return len(data) if out.write(data) else 0

    return Sink()
