"""A real GPU behind ``skinedge.runtime.trt.Device``: CUDA's memory calls and TensorRT's plans.

Memory and copies go through ``cuda.bindings.runtime`` (NVIDIA's own wrapper, whose calls return the
error and then the results); all work is put on one stream, so copies and plans happen in order.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from skinedge.errors import BundleError, MissingDependencyError, TargetError
from skinedge.runtime._tensorrt import RTX, Library, cache_folder, save_cache
from skinedge.runtime.trt import Bounds, Plan, Shape, Tensor
from skinedge.weights.source import Array

_DTYPES: Mapping[str, np.dtype[np.generic]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "INT64": np.dtype(np.int64),
    "INT32": np.dtype(np.int32),
    "BOOL": np.dtype(np.bool_),
}


class CudaDevice:
    """The current GPU.  Implements ``skinedge.runtime.trt.Device``.

    Args:
        library: the TensorRT that the plans were built with.
        digests: sha256 of the bundle's files; what TensorRT-RTX compiles for a plan is kept under it.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
        TargetError: CUDA refuses.
    """

    def __init__(self, library: Library, digests: Mapping[str, str]) -> None:
        self._cuda = _cuda()
        self._library, self._digests = library, digests
        self._stream = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        library.log.clear()
        self._runtime = library.module.Runtime(library.log.sink)
        self._in_flight: list[Array] = []  # a copy may still read them

    def open(self, path: Path) -> Plan:
        """Load a plan.

        Raises:
            BundleError: it is missing.
            TargetError: TensorRT refuses it.
        """
        if not path.is_file():
            raise BundleError(f"{path} is missing.", hint="Export the bundle again.")
        self._library.log.clear()
        with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as view:
            engine = self._runtime.deserialize_cuda_engine(view)
        if engine is None:
            raise TargetError(
                f"{self._library.title} cannot open {path.name}: {self._library.log.reason()}.",
                hint="Export it again on this machine, or run its ONNX side with --target onnx.",
            )
        cache = cache_folder() / f"{self._digests[path.name]}-{self._library.version}.kernels"
        return CudaPlan(path.name, self._library, engine, int(self._stream), cache)

    def allocate(self, nbytes: int) -> int:
        """Address of new device memory."""
        return int(self._call("cudaMalloc", max(nbytes, 1)))

    def free(self, address: int) -> None:
        """Give memory back; CUDA waits for what still uses it."""
        self._call("cudaFree", address)

    def clear(self, address: int, nbytes: int) -> None:
        """Fill with zeros."""
        self._call("cudaMemsetAsync", address, 0, nbytes, self._stream)

    def upload(self, address: int, array: Array) -> None:
        """Start copying to the device; ``array`` must not change before the next ``download``."""
        self._in_flight.append(array)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, address: int, array: Array) -> None:
        """Copy to the host when all that was started is done."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)
        self._call("cudaStreamSynchronize", self._stream)
        self._in_flight.clear()

    def close(self) -> None:
        """Give the stream back."""
        self._call("cudaStreamSynchronize", self._stream)
        self._call("cudaStreamDestroy", self._stream)

    def _call(self, name: str, *arguments: object) -> Any:
        """The result of a CUDA runtime call.

        Raises:
            TargetError: CUDA answers with an error.
        """
        status, *results = getattr(self._cuda, name)(*arguments)
        if int(status):
            words = self._cuda.cudaGetErrorString(status)[1].decode()
            raise TargetError(f"{name} failed: {words}.", hint="Close other programs that use the GPU, or use --target onnx.")
        return results[0] if results else None


class CudaPlan:
    """A plan on the GPU.  Implements ``skinedge.runtime.trt.Plan``."""

    def __init__(self, name: str, library: Library, engine: Any, stream: int, cache: Path) -> None:
        self._name, self._library, self._engine, self._stream = name, library, engine, stream
        self.tensors: Mapping[str, Tensor] = {t.name: t for t in map(self._tensor, range(engine.num_io_tensors))}
        self._check_cache()
        varying = [t.name for t in self.tensors.values() if t.is_input and -1 in t.shape]
        profiles = range(engine.num_optimization_profiles)
        self.profiles: Sequence[Mapping[str, Bounds]] = [{n: self._bounds(n, i) for n in varying} for i in profiles]
        self._kernels = _Kernels(engine, cache) if library.name == RTX else None
        self._context = (
            engine.create_execution_context(self._kernels.config) if self._kernels else engine.create_execution_context()
        )
        if self._context is None:
            raise self._refusal("it gets no execution context", library.log.reason())

    def run(self, profile: int, shapes: Mapping[str, Shape], addresses: Mapping[str, int]) -> None:
        """Start computing; ``Device.download`` waits for it.

        Raises:
            TargetError: TensorRT refuses.
        """
        context = self._context
        self._library.log.clear()
        ok = profile == context.active_optimization_profile or context.set_optimization_profile_async(profile, self._stream)
        ok = ok and all(context.set_input_shape(name, shape) for name, shape in shapes.items())
        ok = ok and all(context.set_tensor_address(name, address) for name, address in addresses.items())
        if not ok or not context.execute_async_v3(self._stream):
            raise self._refusal("it does not run", self._library.log.reason())

    def close(self) -> None:
        """Keep what was compiled and free the plan."""
        if self._kernels:
            self._kernels.save()
        # TensorRT's objects are freed with their last reference, contexts before engines.
        self._context = self._kernels = None
        self._engine = None

    def _tensor(self, index: int) -> Tensor:
        engine, trt = self._engine, self._library.module
        name = engine.get_tensor_name(index)
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise self._refusal(f"'{name}' must lie in host memory", "skinedge's graphs have no such tensor")
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        return Tensor(name, _DTYPES[engine.get_tensor_dtype(name).name], tuple(engine.get_tensor_shape(name)), is_input)

    def _bounds(self, name: str, profile: int) -> Bounds:
        _, usual, most = self._engine.get_tensor_profile_shape(name, profile)
        return Bounds(tuple(usual), tuple(most))

    def _check_cache(self) -> None:
        """Every present must be its past updated in place: both are bound to one buffer."""
        for name in self.tensors:
            past = name.replace("present.", "past.", 1)
            if name.startswith("present.") and self._engine.get_aliased_input_tensor(name) != past:
                raise self._refusal(f"'{name}' is not '{past}' updated in place", "a newer TensorRT does that")

    def _refusal(self, what: str, why: str) -> TargetError:
        return TargetError(
            f"{self._library.title} cannot use {self._name}: {what} ({why}).",
            hint="Export it again on this machine, or run its ONNX side with --target onnx.",
        )


class _Kernels:
    """What TensorRT-RTX compiles for this GPU when a plan first runs, kept from one run to the next."""

    def __init__(self, engine: Any, file: Path) -> None:
        self._file = file
        self.config = engine.create_runtime_config()
        self._cache = self.config.create_runtime_cache()
        self._before = file.read_bytes() if file.is_file() else b""
        if self._before:
            self._cache.deserialize(self._before)  # False after a driver update: it is made anew
        self.config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write the file if something was compiled."""
        now = bytes(memoryview(self._cache.serialize()))
        if now != self._before:
            save_cache(self._file, now)


def _cuda() -> ModuleType:
    try:
        from cuda.bindings import runtime
    except ModuleNotFoundError as e:
        if e.name not in ("cuda", "cuda.bindings"):
            raise
        raise MissingDependencyError(
            "running a plan needs cuda-bindings.", hint="Install it: pip install 'skinedge[trt]'."
        ) from e
    module: ModuleType = runtime
    return module
