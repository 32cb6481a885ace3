"""Ray Data with a cache: `cached_map_batches` runs the user's function on the rows that nobody has computed yet.

Each row is an entry of its own. For every batch, all of its rows are asked for at once, the distinct missing ones are
handed to the function as one smaller batch, and the outputs are put back in order.

Invariants: the dataset that comes out is the one that `map_batches` would give for a function that treats each row by
itself; what the function sees of a row is what the row's key is made of; nothing here imports Ray, pandas or PyArrow
before a batch of theirs is there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from string import Formatter
from typing import Any, Final

from stratacache.client.base import Cache, Ttl
from stratacache.client.batch import cached_batch
from stratacache.client.keys import digest
from stratacache.client.recipe import LAMBDA, Options, Recipe, source_fingerprint
from stratacache.cluster.rows import columns_of, join_rows, merge, select, split_rows, take
from stratacache.node.errors import UsageError
from stratacache.node.types import MISS, AIOperation, MissType

_ARGUMENTS: Final = ("fn_args", "fn_kwargs", "fn_constructor_args", "fn_constructor_kwargs")


def cached_map_batches(
    dataset: Any,
    fn: Any,
    *,
    on: Iterable[str] | None = None,
    operation: AIOperation | str | None = None,
    ttl: Ttl | MissType = MISS,
    tags: Iterable[str] = (),
    namespace: str | None = None,
    version: str | int = "",
    strict: bool = False,
    client: Cache | str | None = None,
    preserve_order: bool = True,
    **map_options: Any,
) -> Any:
    """`dataset.map_batches(fn, **map_options)`, calling `fn` only for rows that are not cached.

    `fn` is a function or a callable class (with `concurrency`, `num_gpus`, constructor arguments and so on passed
    through) that gives one output row for each input row, and each by that row alone. Batches may be NumPy dicts,
    pandas DataFrames or PyArrow tables.

    `on` names the columns that `fn` needs: they alone make the key, `fn` sees only them, and what it returns is added
    to the row's other columns. Without `on` a row is all of its columns, so one with a unique id is never found again.
    `tags` may mention those columns, as in `"doc:{doc_id}"`. `fn`'s name, its arguments and `version` are part of the
    key. The other options are those of `stratacache.client.cached`; the cache is found in each worker, once.

    Rows come out in the order in which they went in. Ray Data gives blocks as they are ready unless it is told
    otherwise, and a block that was cached is ready first; so this sets `execution_options.preserve_order` in the
    context of the dataset, which it shares with the one it is made from. Where the order does not matter,
    `preserve_order=False` leaves the context alone and keeps no block waiting for a slower one before it.
    """
    if not inspect.isclass(fn) and not inspect.isfunction(fn):
        raise UsageError(f"cached_map_batches takes a function or a callable class, not {fn!r:.80}")
    body = fn.__call__ if inspect.isclass(fn) else fn
    if inspect.iscoroutinefunction(body) or inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        raise UsageError(f"{fn.__qualname__} is async or a generator: cached_map_batches needs one batch for one batch")
    arguments: dict[str, Any] = {name: map_options.get(name) or None for name in _ARGUMENTS}
    if not inspect.isclass(fn):
        arguments["captured"] = Recipe(fn, Options()).captured()
        if fn.__name__ == LAMBDA:
            arguments["code"] = source_fingerprint(fn)
    columns = None if on is None else tuple(dict.fromkeys(on))
    options = {
        "operation": operation,
        "ttl": ttl,
        "tags": [_row_tag(tag, columns) for tag in tags],
        "namespace": namespace,
        "version": digest([version, map_options.get("batch_format", "default")], arguments, root="version"),
        "strict": strict,
        "client": client,
    }
    if not inspect.isclass(fn):

        def run(batch: Any, *args: Any, **kwargs: Any) -> Any:
            return CachedRows(fn, fn, columns, options).run(batch, args, kwargs)

        run.__name__ = fn.__name__  # what Ray's progress bars and dashboard show
        return _ordered(dataset.map_batches(run, **map_options), preserve_order)

    class Run:
        """The user's class with the cache in front of its `__call__`."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.rows = CachedRows(fn, fn(*args, **kwargs), columns, options)

        def __call__(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
            return self.rows.run(batch, args, kwargs)

    Run.__name__ = fn.__name__
    return _ordered(dataset.map_batches(Run, **map_options), preserve_order)


def _ordered(made: Any, preserve_order: bool) -> Any:
    if preserve_order:
        made.context.execution_options.preserve_order = True
    return made


class Row:
    """One row of a batch: its place for `take`, its columns for the key and the tags."""

    __slots__ = ("batch", "index", "values")

    def __init__(self, batch: Any, index: int, values: dict[str, Any]) -> None:
        self.batch = batch
        self.index = index
        self.values = values

    def __cache_key__(self) -> dict[str, Any]:
        return self.values

    def __getitem__(self, column: str) -> Any:
        return self.values[column]


class CachedRows:
    """A function over batches, seen as one over rows."""

    def __init__(
        self, named: Any, function: Callable[..., Any], columns: tuple[str, ...] | None, options: dict[str, Any]
    ) -> None:
        self._columns = columns
        self._function = function

        def outputs(rows: list[Row], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
            batch = take(rows[0].batch, [row.index for row in rows])
            return split_rows(function(batch, *args, **kwargs))

        # The entries belong to the user's function, whichever process wrapped it.
        outputs.__module__, outputs.__name__, outputs.__qualname__ = (
            named.__module__,
            named.__name__,
            named.__qualname__,
        )
        self._outputs = cached_batch(ignore=["args", "kwargs"], **options)(outputs)

    def run(self, batch: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One batch in, one batch out, rows in order. `args` and `kwargs` are part of the key by `version`."""
        seen = batch if self._columns is None else select(batch, self._columns)
        by_column = columns_of(seen)
        names = list(by_column)
        rows = [
            Row(seen, index, dict(zip(names, values, strict=True)))
            for index, values in enumerate(zip(*by_column.values(), strict=True))
        ]
        made = join_rows(self._outputs(rows, args, kwargs)) if rows else self._function(seen, *args, **kwargs)
        return made if self._columns is None else merge(batch, made)


def _row_tag(tag: str, columns: tuple[str, ...] | None) -> str:
    """`"doc:{doc_id}"` as a template over a Row: `"doc:{rows[doc_id]}"`."""
    made = ""
    for text, name, form, conversion in Formatter().parse(tag):
        made += text.replace("{", "{{").replace("}", "}}")
        if name is not None:
            if columns is not None and name not in columns:
                raise UsageError(
                    f"tag {tag!r}: column {name!r} is not in on={list(columns)}; an entry is shared by all rows that "
                    "agree there, so it can't be tagged with what they differ in"
                )
            made += f"{{rows[{name}]{'!' + conversion if conversion else ''}{':' + form if form else ''}}}"
    return made
