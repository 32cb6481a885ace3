"""Which calls of a `@cached` function share an entry, and which must not."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from stratacache.client.decorator import cached
from stratacache.node.errors import EncodingError, UsageError
from stratacache.node.types import AIOperation
from tests.client_api.engine_cache import EngineCache


def test_spellings_of_one_call_share_an_entry(cache: EngineCache) -> None:
    """Positional, keyword and defaulted arguments of the same call give the same key; other arguments another."""
    calls = []

    @cached(operation=AIOperation.EMBED, client=cache)
    def embed(text: str, model: str = "minilm", *, normalise: bool = True) -> list[float]:
        """Doc."""
        calls.append((text, model, normalise))
        return [float(len(text))]

    assert embed("abc") == embed(text="abc") == embed("abc", "minilm") == embed("abc", normalise=True) == [3.0]
    assert len(calls) == 1
    embed("abc", "other")
    embed("abc", normalise=False)
    assert len(calls) == 3
    assert embed.key_for("abc") == embed.key_for(model="minilm", text="abc")
    assert embed.key_for("abc").startswith("embed:")
    assert (embed.__name__, embed.__doc__) == ("embed", "Doc.")
    assert inspect.isfunction(embed)
    assert list(inspect.signature(embed).parameters) == ["text", "model", "normalise"]


def test_variadic_and_positional_only_arguments(cache: EngineCache) -> None:
    """*args and **kwargs are part of the key; a wrong call raises the function's own TypeError."""

    @cached(client=cache)
    def join(a: str, /, *rest: str, **options: str) -> str:
        return a + "".join(rest) + "".join(options.values())

    assert join("a", "b", x="c") == "abc"
    assert join.key_for("a", x="1", y="2") == join.key_for("a", y="2", x="1")
    assert join.key_for("a", "b") != join.key_for("b", "a")

    @cached(client=cache)
    def two(a: int, b: int = 0) -> int:
        return a + b

    for args, kwargs in [((), {}), ((1, 2, 3), {}), ((1,), {"a": 1}), ((1,), {"c": 1})]:
        with pytest.raises(TypeError):
            two(*args, **kwargs)


def test_none_and_false_results_are_hits(cache: EngineCache) -> None:
    """A cached None is a result like any other."""
    calls = []

    @cached(client=cache)
    def classify(text: str) -> None:
        calls.append(text)

    assert classify("a") is None
    assert classify("a") is None
    assert calls == ["a"]


def test_two_functions_never_share_a_key(cache: EngineCache) -> None:
    """Same operation and arguments, another function, version or namespace: another entry."""

    @cached(operation=AIOperation.EMBED, client=cache)
    def one(text: str) -> int:
        return 1

    @cached(operation=AIOperation.EMBED, client=cache)
    def two(text: str) -> int:
        return 2

    def three(text: str) -> int:
        return 3

    assert (one("x"), two("x")) == (1, 2)
    versions = [
        cached(operation="embed", version=version, client=cache)(three).key_for("x") for version in ("", 1, "1")
    ]
    assert len({one.key_for("x"), two.key_for("x"), *versions}) == 5


def test_functions_made_by_a_function_do_not_share_results(cache: EngineCache) -> None:
    """What a function captured from its maker is part of the key, as long as it is a plain value."""

    def embedder(model: str) -> Any:
        @cached(operation=AIOperation.EMBED, client=cache)
        def embed(text: str) -> str:
            return f"{model}:{text}"

        return embed

    small, large = embedder("small"), embedder("large")
    assert (small("a"), large("a")) == ("small:a", "large:a")
    assert small.key_for("a") == embedder("small").key_for("a")


def test_what_is_captured_is_an_input_where_a_comprehension_uses_its_name_too(cache: EngineCache) -> None:
    """From Python 3.12 on a comprehension is part of the function: its variable is not the one that was captured."""

    def embedder(model: str) -> Any:
        @cached(operation=AIOperation.EMBED, client=cache)
        def embed(text: str, kinds: tuple[str, ...] = ()) -> str:
            later = [lambda: model for model in kinds] if kinds else []  # noqa: B023
            return f"{model}:{text}:{len(later)}"

        return embed

    assert (embedder("small")("a"), embedder("large")("a")) == ("small:a:0", "large:a:0")


def test_lambdas_that_call_other_captured_functions_are_told_apart(cache: EngineCache) -> None:
    """Two lambdas whose code differs only in the name of what they captured do not share results."""

    def double(x: int) -> int:
        return x * 2

    def triple(x: int) -> int:
        return x * 3

    one, two = cached(client=cache)(lambda x: double(x)), cached(client=cache)(lambda x: triple(x))  # noqa: PLW0108
    assert (one(1), two(1)) == (2, 3)


def test_lambdas_are_told_apart_by_their_code(cache: EngineCache) -> None:
    """Two lambdas of one scope have one name; sharing an entry would be a lie."""
    one, two = cached(client=cache)(lambda x: x + 1), cached(client=cache)(lambda x: x + 2)
    assert (one(1), two(1)) == (2, 3)
    assert one.key_for(1) == cached(client=cache)(lambda x: x + 1).key_for(1)


def test_a_counter_that_the_function_keeps_is_not_an_input(cache: EngineCache) -> None:
    """A variable that the function itself assigns is its state, not its input."""
    count = 0

    @cached(client=cache)
    def work(text: str) -> str:
        nonlocal count
        count += 1
        return text

    assert work("a") == work("a") == "a"
    assert count == 1


def test_ignored_arguments_and_own_keys(cache: EngineCache) -> None:
    """`ignore` leaves a parameter out; `key` replaces the arguments; unknown names are refused when decorating."""
    calls = []

    @cached(ignore=["timeout_s"], client=cache)
    def one(text: str, timeout_s: object = None) -> str:
        calls.append(text)
        return text

    @cached(key=lambda text, **_: text.lower(), client=cache)
    def two(text: str, logger: object = None) -> str:
        calls.append(text)
        return text

    one("a", timeout_s=object())
    one("a", timeout_s=object())
    assert two("B", logger=object()) == two("b") == "B"
    assert calls == ["a", "B"]
    with pytest.raises(UsageError, match="no such parameter"):
        cached(ignore=["missing"])(lambda text: text)


def test_an_argument_without_content_is_named_with_its_path(cache: EngineCache) -> None:
    """The error names function, argument and path, comes before the function runs, and is the caller's to see."""

    @cached(client=cache)
    def summarise(text: str, options: dict[str, Any]) -> str:
        raise AssertionError

    with pytest.raises(EncodingError, match=r"summarise: argument 'options'\['tools'\]\[1\]: a builtins\.object"):
        summarise("a", {"tools": [1, object()]})
    with pytest.raises(EncodingError, match=r"argument 'options'"):
        summarise.key_for("a", options=object())  # type: ignore[arg-type]
