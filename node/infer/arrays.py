"""Arrays of NumPy, and arrays that lie on a GPU, handled by the same code: the functions of an array's own library.

Where CuPy is installed, images are resampled and scaled on the GPU of the network, and the scores of a network that ran
on CUDA stay there until labels are made of them. Such code uses operators, functions of `namespace_of` that the Python
array API standard has, and those of `scipy.ndimage`, which CuPy has by the same names.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import array_api_compat
import numpy as np

Array = Any
"""An array of NumPy, or of another library that follows the array API."""


def namespace_of(array: Array) -> ModuleType:
    """The functions for this array."""
    return np if isinstance(array, np.ndarray) else array_api_compat.array_namespace(array)


def on_host(array: Array) -> np.ndarray:
    """The array in the machine's memory; not copied if it is there."""
    if isinstance(array, np.ndarray):
        return array
    return np.asarray(array.get() if hasattr(array, "get") else np.from_dlpack(array))


def copied(array: Array) -> Array:
    """The same values, in memory of their own, where they are."""
    return array.copy() if isinstance(array, np.ndarray) else namespace_of(array).asarray(array, copy=True)


def like(array: np.ndarray, other: Array) -> Array:
    """An array of NumPy where the other is."""
    return array if isinstance(other, np.ndarray) else namespace_of(other).asarray(array)


@dataclass(frozen=True)
class ScoreDevice:
    """Where a session leaves the scores of a network, for ONNX Runtime (`name`, `number`) and for us (`take`), and
    where images are made ready for it (`put`, `ndimage`).
    """

    name: str
    number: int = 0

    def take(self, value: Any) -> Array:
        """An output of ONNX Runtime (OrtValue of float32) as an array where it lies; it holds the output."""
        import cupy

        size = value.tensor_size_in_bytes()
        memory = cupy.cuda.UnownedMemory(value.data_ptr(), size, value, self.number)
        return cupy.ndarray(tuple(value.shape()), np.float32, cupy.cuda.MemoryPointer(memory, 0))

    def put(self, array: np.ndarray) -> Array:
        """The same values there."""
        import cupy

        with cupy.cuda.Device(self.number):
            return cupy.asarray(array)

    @property
    def ndimage(self) -> Any:
        """The functions of `scipy.ndimage` for arrays there."""
        import cupyx.scipy.ndimage

        return cupyx.scipy.ndimage

    def finish(self) -> None:
        """Wait for all work on arrays: ONNX Runtime, on a stream of its own, uses the memory of dropped ones again."""
        import cupy

        cupy.cuda.Device(self.number).synchronize()


def cuda_scores(number: int) -> ScoreDevice | None:
    """The GPU as a place for scores, where CuPy is installed and finds it."""
    try:
        import cupy

        cupy.cuda.Device(number).use()
        found = ScoreDevice("cuda", number)
        cube = found.put(np.zeros((2, 2, 2), np.float32))
        found.ndimage.affine_transform(cube, np.eye(3), order=1).sum().get()  # is compiled for this GPU
    except Exception:
        return None
    return found
