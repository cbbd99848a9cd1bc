"""A GPU that is none: device memory in dictionaries, and plans that ONNX Runtime computes.

``FakeDevice`` stands at ``skinedge.runtime.trt.Device``; ``FakeCuda`` and ``fake_tensorrt`` stand one step lower,
under ``CudaDevice``, and do nothing before the stream is waited for, as CUDA may.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnxruntime as ort

from skinedge.runtime.trt import Bounds, Tensor
from skinedge.targets._trt_builder import Profile
from skinedge.weights.source import Array

NUMPY = {"float": np.float32, "float16": np.float16, "int64": np.int64, "bool": np.bool_}
TRT = {np.dtype(np.float32): "FLOAT", np.dtype(np.float16): "HALF", np.dtype(np.int64): "INT64", np.dtype(np.bool_): "BOOL"}


class FakeMemory:
    """Real memory of this process behind each address, as large as was asked for."""

    def __init__(self) -> None:
        self.blocks: dict[int, Array] = {}

    def allocate(self, nbytes: int) -> int:
        # Not zeros: a cache that nobody cleared must show.
        block = np.full(max(nbytes, 1), 0xFF, np.uint8)
        self.blocks[block.ctypes.data] = block
        return block.ctypes.data

    def free(self, address: int) -> None:
        del self.blocks[address]

    def view(self, address: int, dtype: np.dtype, shape: Sequence[int]) -> Array:
        nbytes = math.prod(shape) * dtype.itemsize
        assert nbytes <= len(self.blocks[address]), "a tensor is larger than its buffer"
        return self.blocks[address][:nbytes].view(dtype).reshape(shape)


class FakePlan:
    """A graph under profiles; refuses what TensorRT would refuse or what would go wrong on a device."""

    def __init__(self, memory: FakeMemory, graph: Path, profiles: Sequence[Profile], runs: list[tuple[str, int, int]]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._memory, self._name, self._ranges, self._runs = memory, graph.stem, profiles, runs
        self._dims = {i.name: i.shape for i in self._session.get_inputs()}
        ins = [self._tensor(i, True) for i in self._session.get_inputs()]
        outs = [self._tensor(o, False) for o in self._session.get_outputs()]
        self.tensors = {t.name: t for t in (*ins, *outs)}
        self.profiles = [
            {t.name: Bounds(self.shape(t.name, p, 1), self.shape(t.name, p, 2)) for t in ins if -1 in t.shape} for p in profiles
        ]
        self.open = True

    def run(self, profile: int, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        assert self.open
        inputs = [t for t in self.tensors.values() if t.is_input]
        assert set(shapes) == {t.name for t in inputs}
        assert set(addresses) == set(self.tensors)
        for tensor in inputs:
            low, high = self.shape(tensor.name, self._ranges[profile], 0), self.shape(tensor.name, self._ranges[profile], 2)
            fits = all(a <= b <= c for a, b, c in zip(low, shapes[tensor.name], high, strict=True))
            assert fits, f"{tensor.name} {shapes[tensor.name]} is outside {low} to {high} of profile {profile}"
        feeds = {t.name: self._memory.view(addresses[t.name], t.dtype, shapes[t.name]).copy() for t in inputs}
        if self._name == "decoder":
            self._check_cache(feeds, addresses)
        self._runs.append((self._name, profile, shapes[inputs[0].name][1]))
        names = [t.name for t in self.tensors.values() if not t.is_input]
        for name, value in zip(names, self._session.run(names, feeds), strict=True):
            self._memory.view(addresses[name], value.dtype, value.shape)[...] = value

    def close(self) -> None:
        self.open = False

    def shape(self, name: str, profile: Profile, which: int) -> tuple[int, ...]:
        return tuple(d if isinstance(d, int) else profile[d][which] for d in self._dims[name])

    def least(self, name: str, profile: int) -> tuple[int, ...]:
        return self.shape(name, self._ranges[profile], 0)

    def _check_cache(self, feeds: Mapping[str, Array], addresses: Mapping[str, int]) -> None:
        pasts = [n for n in feeds if n.startswith("past.")]
        assert all(addresses[n] == addresses[n.replace("past.", "present.")] for n in pasts), "not in place"
        assert len({addresses[n] for n in pasts}) == len(pasts), "two caches share a buffer"
        assert feeds["start"][0] + feeds["inputs_embeds"].shape[1] <= feeds[pasts[0]].shape[2], "beyond the cache"

    @staticmethod
    def _tensor(info: ort.NodeArg, is_input: bool) -> Tensor:
        shape = tuple(d if isinstance(d, int) else -1 for d in info.shape)
        return Tensor(info.name, np.dtype(NUMPY[info.type[7:-1]]), shape, is_input)


class FakeDevice:
    """Implements ``skinedge.runtime.trt.Device``: ``x.plan`` is computed by ``graphs/x.onnx``."""

    def __init__(self, graphs: Path, profiles: Mapping[str, Sequence[Profile]]) -> None:
        self.memory = FakeMemory()
        self.runs: list[tuple[str, int, int]] = []  # plan, profile, tokens
        self.plans: list[FakePlan] = []
        self.closed = False
        self._graphs, self._profiles = graphs, profiles

    def open(self, path: Path) -> FakePlan:
        plan = FakePlan(self.memory, self._graphs / f"{path.stem}.onnx", self._profiles[path.stem], self.runs)
        self.plans.append(plan)
        return plan

    def allocate(self, nbytes: int) -> int:
        return self.memory.allocate(nbytes)

    def free(self, address: int) -> None:
        self.memory.free(address)

    def clear(self, address: int, nbytes: int) -> None:
        self.memory.blocks[address][:nbytes] = 0

    def upload(self, address: int, array: Array) -> None:
        assert array.flags.c_contiguous
        self.memory.view(address, array.dtype, array.shape)[...] = array

    def download(self, address: int, array: Array) -> None:
        array[...] = self.memory.view(address, array.dtype, array.shape)

    def close(self) -> None:
        self.closed = True


class FakeCuda:
    """The calls of ``cuda.bindings.runtime`` that ``CudaDevice`` makes, done when the stream is waited for."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="to device", cudaMemcpyDeviceToHost="to host")

    def __init__(self) -> None:
        self.memory = FakeMemory()
        self.queue: list[Callable[[], None]] = []
        self.limit = 1 << 40
        self.streams = 0

    def cudaStreamCreateWithFlags(self, flags):
        assert flags == self.cudaStreamNonBlocking
        self.streams += 1
        return 0, 77

    def cudaStreamDestroy(self, stream):
        self.streams -= 1
        return (0,)

    def cudaStreamSynchronize(self, stream):
        assert stream == 77
        for job in self.queue:
            job()
        self.queue.clear()
        return (0,)

    def cudaMalloc(self, size):
        return (0, self.memory.allocate(size)) if size <= self.limit else (2, None)

    def cudaFree(self, pointer):
        self.cudaStreamSynchronize(77)
        self.memory.free(pointer)
        return (0,)

    def cudaMemsetAsync(self, pointer, value, count, stream):
        self.queue.append(lambda: ctypes.memset(pointer, value, count) and None)
        return (0,)

    def cudaMemcpyAsync(self, target, source, count, kind, stream):
        device = target if kind == "to device" else source
        assert count <= len(self.memory.blocks[device])
        self.queue.append(lambda: ctypes.memmove(target, source, count) and None)
        return (0,)

    def cudaGetErrorString(self, status):
        return 0, b"out of memory"


class FakeEngine:
    """The members of ``ICudaEngine`` that ``CudaPlan`` uses."""

    def __init__(self, plan: FakePlan, trt: ModuleType, cuda: FakeCuda) -> None:
        self._plan, self._trt, self._cuda = plan, trt, cuda
        self._names = list(plan.tensors)
        self.num_io_tensors = len(self._names)
        self.num_optimization_profiles = len(plan.profiles)
        self.contexts = 0

    def get_tensor_name(self, index):
        return self._names[index]

    def get_tensor_location(self, name):
        return self._trt.TensorLocation.DEVICE

    def get_tensor_mode(self, name):
        return self._trt.TensorIOMode.INPUT if self._plan.tensors[name].is_input else self._trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return getattr(self._trt.DataType, TRT[self._plan.tensors[name].dtype])

    def get_tensor_shape(self, name):
        return self._trt.Dims(self._plan.tensors[name].shape)

    def get_tensor_profile_shape(self, name, profile_index):
        bounds = self._plan.profiles[profile_index][name]
        return [self._plan.least(name, profile_index), bounds.usual, bounds.most]

    def get_aliased_input_tensor(self, name):
        return name.replace("present.", "past.") if name.startswith("present.") else None

    def create_runtime_config(self):
        return FakeConfig()

    def create_execution_context(self, runtime_config=None):
        return FakeContext(self._plan, self._cuda, runtime_config)


class FakeCache:
    """The members of ``IRuntimeCache`` that are used; it grows by a byte with each context."""

    def __init__(self) -> None:
        self.data = b""

    def deserialize(self, blob):
        self.data = bytes(blob)
        return True

    def serialize(self):
        return self.data


class FakeConfig:
    """The members of ``IRuntimeConfig`` that are used."""

    def create_runtime_cache(self):
        return FakeCache()

    def set_runtime_cache(self, cache):
        self._cache = cache
        return True


class FakeContext:
    """The members of ``IExecutionContext`` that are used."""

    def __init__(self, plan: FakePlan, cuda: FakeCuda, config: FakeConfig | None) -> None:
        self._plan, self._cuda, self._config = plan, cuda, config
        self.active_optimization_profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index, stream_handle):
        self.active_optimization_profile = profile_index
        self._shapes = {}
        return stream_handle == 77

    def set_input_shape(self, name, shape):
        self._shapes[name] = shape
        return -1 not in shape

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return memory in self._cuda.memory.blocks

    def execute_async_v3(self, stream_handle):
        profile, shapes, addresses = self.active_optimization_profile, dict(self._shapes), dict(self._addresses)
        self._cuda.queue.append(lambda: self._plan.run(profile, shapes, addresses))
        if self._config and not self._config._cache.data:
            self._config._cache.data = b"kernels"
        return True


def fake_tensorrt(real: ModuleType, cuda: FakeCuda, device: FakeDevice) -> ModuleType:
    """A TensorRT whose plans hold the name of the graph that computes them; its types are the real ones."""
    trt = ModuleType("fake_tensorrt")

    class Runtime:
        def __init__(self, logger) -> None:
            assert isinstance(logger, real.ILogger)

        def deserialize_cuda_engine(self, serialized_engine):
            name = bytes(serialized_engine).decode()
            return FakeEngine(device.open(Path(name)), trt, cuda) if name.isidentifier() else None

    device.memory = cuda.memory
    for name in ("ILogger", "DataType", "TensorLocation", "TensorIOMode", "Dims"):
        setattr(trt, name, getattr(real, name))
    trt.Runtime = Runtime
    trt.__version__ = real.__version__
    return trt
