"""Arrays, tensors and tables of other libraries, seen as a header and a buffer; the libraries themselves optional.

Why it exists: keys and codecs both need the bytes of a NumPy array, a torch tensor or an Arrow table, and neither may
import those libraries: a value of theirs can only be there when the program has imported them already.

Invariants: nothing here imports NumPy, torch or PyArrow; `sys.modules` is asked instead. A buffer is a view of the
value's own memory wherever that memory is contiguous.
"""

from __future__ import annotations

import sys
from typing import Any

Foreign = tuple[str, list[Any], Any]
"""A name, a header of plain values, and a flat byte memoryview (or a list of values for arrays of objects)."""


def find_foreign(value: Any) -> Foreign | None:
    """Describe `value` completely when it is an array, scalar, dtype, tensor or table; None when it is not.

    A subclass of ndarray that may hold more than its array (a masked array, a unit) is not described.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "ndarray"):
        if isinstance(value, numpy.ndarray):
            return _ndarray(numpy, value)
        if isinstance(value, numpy.generic):
            return "numpy.scalar", [dtype_name(value.dtype)], memoryview(value.tobytes())
        if isinstance(value, numpy.dtype):
            return "numpy.dtype", [dtype_name(value)], memoryview(b"")
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "Tensor") and isinstance(value, torch.Tensor):
        return "torch.tensor", [str(value.dtype), list(value.shape), str(value.device.type)], tensor_buffer(value)
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is not None and hasattr(pyarrow, "Table") and isinstance(value, pyarrow.Table | pyarrow.RecordBatch):
        return f"pyarrow.{type(value).__name__}", [], memoryview(arrow_buffer(value))
    return None


def dtype_name(dtype: Any) -> str:
    """The dtype as text that tells every two dtypes apart, field names and offsets included."""
    if dtype.names is not None:
        fields = (f"{name}@{dtype.fields[name][1]}={dtype_name(dtype.fields[name][0])}" for name in dtype.names)
        return f"{dtype.str}{{{','.join(map(repr, fields))}}}"
    if dtype.subdtype is not None:
        return f"{dtype.subdtype[1]}{dtype_name(dtype.subdtype[0])}"
    # Extension dtypes (bfloat16, float8) all call themselves V1 or V2: the name tells them apart.
    return f"{dtype.str}/{dtype.name}" if dtype.kind == "V" else str(dtype.str)


def array_buffer(array: Any) -> memoryview:
    """The bytes of an array in C order, without a copy when it is contiguous (no dtype that holds objects)."""
    if not array.flags.c_contiguous:
        array = array.copy(order="C")
    if array.nbytes == 0:
        return memoryview(b"")
    return memoryview(array.reshape(-1).view("u1")).cast("B")


def tensor_buffer(tensor: Any) -> memoryview:
    """The bytes of a torch tensor in C order, copied from its device when it is not in main memory."""
    torch = sys.modules["torch"]
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.is_conj() or flat.is_neg():
        flat = flat.resolve_conj().resolve_neg()
    return memoryview(flat.view(torch.uint8).numpy()).cast("B") if flat.numel() else memoryview(b"")


def arrow_buffer(table: Any) -> Any:
    """An Arrow table or record batch as an IPC stream, in a pyarrow.Buffer."""
    import pyarrow  # noqa: PLC0415, ICN001 - for a value of its own
    import pyarrow.ipc  # noqa: PLC0415 - which `import pyarrow` may not have loaded

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write(table)
    return sink.getvalue()


def _ndarray(numpy: Any, value: Any) -> Foreign | None:
    if type(value) is not numpy.ndarray and not isinstance(value, numpy.memmap):
        if type(value) is numpy.ma.MaskedArray:
            data, mask = value.data, numpy.ma.getmaskarray(value)
            return "numpy.masked", [dtype_name(data.dtype), list(data.shape)], [numpy.array(data), mask]
        return None
    header = [dtype_name(value.dtype), list(value.shape)]
    if value.dtype.hasobject or value.dtype.kind == "T":
        return "numpy.objects", header, value.reshape(-1).tolist()
    return "numpy.ndarray", header, array_buffer(value)
