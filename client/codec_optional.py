"""torch tensors and Arrow tables as values, where those libraries are installed.

Invariants: nothing is imported before a value of the library is there to be encoded or decoded. A tensor comes back on
the CPU, without its gradient, in memory of its own (torch has no read-only tensors, and a tensor that shared a cached
buffer could corrupt it). An Arrow table comes back as views of the received buffer; Arrow data is immutable.
"""

from __future__ import annotations

import sys
from typing import Any

from stratacache.client.buffers import Buffer
from stratacache.client.foreign import arrow_buffer, tensor_buffer
from stratacache.node.errors import CorruptionError, EncodingError

_TENSOR = 15
_TABLE = 16


def describe(value: Any) -> tuple[int, Any, Buffer] | None:
    """Extension code, header and bytes of a dense tensor, a Table or a RecordBatch; None for everything else."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "Tensor") and isinstance(value, torch.Tensor):
        if type(value) is not torch.Tensor or value.layout is not torch.strided or value.is_quantized:
            raise EncodingError(f"a {type(value).__name__} that is not a plain dense tensor; use .detach().to_dense()")
        return _TENSOR, [str(value.dtype).removeprefix("torch."), list(value.shape)], tensor_buffer(value)
    pyarrow: Any = sys.modules.get("pyarrow")
    if pyarrow is not None and hasattr(pyarrow, "Table") and isinstance(value, pyarrow.Table):
        return _TABLE, "table", memoryview(arrow_buffer(value)).cast("B")
    if pyarrow is not None and hasattr(pyarrow, "Table") and isinstance(value, pyarrow.RecordBatch):
        return _TABLE, "batch", memoryview(arrow_buffer(value)).cast("B")
    return None


def tensor(header: list[Any], data: Buffer) -> Any:
    """A tensor from its header `[dtype, shape]` and bytes."""
    import torch  # noqa: PLC0415 - only for a value that is a tensor

    dtype = getattr(torch, header[0], None)
    if not isinstance(dtype, torch.dtype):
        raise CorruptionError(f"a tensor of unknown dtype {header[0]!r}")
    if not len(data):
        return torch.empty(header[1], dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(header[1])


def table(header: str, data: Buffer) -> Any:
    """A Table or a RecordBatch from an IPC stream."""
    import pyarrow as pa  # noqa: PLC0415 - only for a value that is a table
    import pyarrow.ipc  # noqa: PLC0415

    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_all() if header == "table" else reader.read_next_batch()
