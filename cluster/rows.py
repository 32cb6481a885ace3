"""Batches of Ray Data as rows and back: NumPy dicts, pandas DataFrames, PyArrow tables.

A row that is stored says which of the three it came from: `["numpy", {column: value}]`, `["pandas", {column: [dtype,
value]}]`, or `["arrow", a table of one row]`.

Invariants: `join_rows(split_rows(batch))` has the columns, dtypes and values of `batch`; a row holds only what the
codecs carry.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from stratacache.node.errors import UsageError


def kind_of(batch: Any) -> str:
    """numpy, pandas or arrow. Raises UsageError for anything else."""
    pandas: Any = sys.modules.get("pandas")
    pyarrow: Any = sys.modules.get("pyarrow")
    if isinstance(batch, dict):
        return "numpy"
    if pandas is not None and isinstance(batch, pandas.DataFrame):
        return "pandas"
    if pyarrow is not None and isinstance(batch, pyarrow.Table):
        return "arrow"
    raise UsageError(f"a batch is a dict of arrays, a DataFrame or a Table, not a {type(batch).__name__}")


def columns_of(batch: Any) -> dict[str, Sequence[Any]]:
    """Column name -> its values, one for each row."""
    kind = kind_of(batch)
    if kind == "numpy":
        return dict(batch)
    if kind == "pandas":
        return {str(name): batch[name].to_numpy() for name in batch.columns}
    return {name: batch.column(name).to_pylist() for name in batch.column_names}


def select(batch: Any, columns: Sequence[str]) -> Any:
    """The batch with those columns only. Raises UsageError for one that is not there."""
    known = list(names_of(batch))
    unknown = [name for name in columns if name not in known]
    if unknown:
        raise UsageError(f"on={unknown}: the dataset has no such column; it has {known}")
    if kind_of(batch) == "numpy":
        return {name: batch[name] for name in columns}
    return batch[list(columns)] if kind_of(batch) == "pandas" else batch.select(list(columns))


def names_of(batch: Any) -> Sequence[str]:
    """The column names."""
    kind = kind_of(batch)
    if kind == "arrow":
        return list(batch.column_names)
    return list(batch) if kind == "numpy" else list(batch.columns)


def take(batch: Any, indices: list[int]) -> Any:
    """The batch with those rows, in that order."""
    kind = kind_of(batch)
    if kind == "numpy":
        return {
            name: column[indices] if isinstance(column, np.ndarray) else [column[index] for index in indices]
            for name, column in batch.items()
        }
    return batch.iloc[indices].reset_index(drop=True) if kind == "pandas" else batch.take(indices)


def split_rows(batch: Any) -> list[Any]:
    """The rows of a batch, as they are stored."""
    kind = kind_of(batch)
    if kind == "arrow":
        return [["arrow", batch.slice(index, 1)] for index in range(batch.num_rows)]
    columns = columns_of(batch)
    if len({len(column) for column in columns.values()}) > 1:
        raise UsageError(f"the columns {list(columns)} of an output batch differ in length")
    if kind == "pandas":
        dtypes = [str(batch[name].dtype) for name in batch.columns]
        return [
            [kind, {name: [dtype, value] for name, dtype, value in zip(columns, dtypes, values, strict=True)}]
            for values in zip(*columns.values(), strict=True)
        ]
    return [[kind, dict(zip(columns, values, strict=True))] for values in zip(*columns.values(), strict=True)]


def join_rows(rows: list[Any]) -> Any:
    """One batch of stored rows."""
    kind, first = rows[0]
    if any(row[0] != kind for row in rows):
        raise UsageError("the function returns batches of different kinds; return one kind, or change version=")
    if kind == "arrow":
        pyarrow = sys.modules["pyarrow"]
        return pyarrow.concat_tables([row for _, row in rows]).combine_chunks()
    if kind == "numpy":
        return {name: join_column([row[name] for _, row in rows]) for name in first}
    import pandas as pd

    return pd.DataFrame({name: pd.Series([row[name][1] for _, row in rows], dtype=first[name][0]) for name in first})


def join_column(values: list[Any]) -> Any:
    """An array of the dtype that its elements came from."""
    first = values[0]
    if isinstance(first, np.ndarray):
        if all(each.shape == first.shape and each.dtype == first.dtype for each in values):
            return np.stack(values)
    elif isinstance(first, np.generic) and all(type(each) is type(first) for each in values):
        return np.array(values) if first.dtype.kind in "SU" else np.array(values, dtype=first.dtype)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def merge(batch: Any, made: Any) -> Any:
    """The batch with the columns of `made` added, or put in place of its own."""
    kind = kind_of(batch)
    if kind_of(made) != kind:
        raise UsageError(f"with on=, the function must return the kind of batch that it is given ({kind})")
    if kind == "numpy":
        return {**batch, **made}
    if kind == "pandas":
        return batch.reset_index(drop=True).assign(**{name: made[name] for name in made.columns})
    for name in made.column_names:
        at = batch.column_names.index(name) if name in batch.column_names else -1
        column = made.column(name)
        batch = (
            batch.append_column(made.field(name), column) if at < 0 else batch.set_column(at, made.field(name), column)
        )
    return batch
