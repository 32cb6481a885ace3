"""What the subcommands share: parameter types, the way from options to a cache, and how results are printed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from stratacache.cluster.config import check_name
from stratacache.cluster.state import known_states, load_state
from stratacache.node.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from stratacache.client import CacheClient

F = TypeVar("F", bound=Callable[..., Any])

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_BYTES: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_SECONDS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(-?\d+(?:\.\d+)?)\s*(ms|s|m|h|d|)", re.IGNORECASE)


class Bytes(click.ParamType[int]):
    """A size such as 268435456, 256MiB or 1g; units are powers of 1024."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the size."""
        if isinstance(value, int):
            return value
        match = _BYTES.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a size: write for example 268435456, 256MiB or 1g", param, ctx)
        size = float(match[1]) * _UNITS[match[2].lower()]
        if size >= 1 << 63:
            self.fail(f"{str(value)[:40]!r} is more than any machine has: write for example 256MiB or 1g", param, ctx)
        return int(size)


class Duration(click.ParamType[float]):
    """A time such as 90, 90s, 15m, 2h or 1d, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the duration."""
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a duration: write for example 90, 15m, 2h or 1d", param, ctx)
        seconds = float(match[1]) * _SECONDS[match[2].lower()]
        if seconds <= 0:
            self.fail(f"{value!r} is not above 0: leave the option out for no limit", param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{str(value)[:40]!r} never ends: leave the option out for no limit", param, ctx)
        return seconds


class Seconds(click.FloatRange):
    """A number of seconds, of at least so many; neither "nan" nor "inf", which any float may be."""

    def __init__(self, least: float) -> None:
        super().__init__(min=least)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number."""
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds: write for example 60", param, ctx)
        return seconds


def _name(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    """Refuse what can't be a cluster's name, before it becomes part of a file's."""
    return None if name is None else check_name(name)


namespace_option = click.option("--namespace", default="default", show_default=True, help="The key's namespace.")
name_option = click.option("--name", default="default", show_default=True, callback=_name, help="The cluster's name.")
any_name_option = click.option("--name", default=None, callback=_name, help="The cluster's name, when several run.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def metrics_options(command: F) -> F:
    """Where `up` has the processes serve their metrics."""
    for option in (
        click.option(
            "--metrics-port",
            type=click.IntRange(-1, 65_535),
            default=0,
            help="The coordinator's page for Prometheus; shard-0's is one more, ...; -1: none.  [any free ports]",
        ),
        click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Where those pages are served."),
    ):
        command = option(command)
    return command


def tls_options(command: F) -> F:
    """How `up` has the shards speak TLS."""
    file = click.Path(path_type=Path)
    for option in (
        click.option("--tls-name", default="", help="The name in the certificate, by which it is checked."),
        click.option("--tls-ca", type=file, help="The authority that signed it.  [the system's]"),
        click.option("--tls-key", type=file, help="The certificate's key."),
        click.option("--tls-cert", type=file, help="Speak TLS with this certificate. Every machine has these files."),
    ):
        command = option(command)
    return command


def cache_options(command: F) -> F:
    """The options by which the commands of a client find a cache."""
    for option in reversed(
        (
            click.option(
                "--address",
                metavar="ADDRESS",
                envvar="STRATACACHE_ADDRESS",
                help="strata://host:port[,host:port]; else the cache is looked up.  [env: STRATACACHE_ADDRESS]",
            ),
            any_name_option,
            click.option("--token", envvar="STRATACACHE_TOKEN", help="The access token.  [env: STRATACACHE_TOKEN]"),
            click.option(
                "--tls-ca",
                envvar="STRATACACHE_TLS_CA",
                expose_value=False,
                callback=_kept,
                help="With stratas://: the authority's file.  [env: STRATACACHE_TLS_CA; else the system's]",
            ),
            click.option(
                "--tls-name",
                envvar="STRATACACHE_TLS_NAME",
                expose_value=False,
                callback=_kept,
                help="With stratas://: the name in the certificate.  [env: STRATACACHE_TLS_NAME; else the host]",
            ),
        )
    ):
        command = option(command)
    return command


def open_cache(address: str | None, name: str | None, token: str | None, *, strict: bool = True) -> CacheClient:
    """Connect to the cache at the address, or to the one that `up` made, or to the one that runs in Ray."""
    from stratacache.client import connect

    context = click.get_current_context(silent=True)
    given = context.meta if context is not None else {}
    ca, server_name = given.get(f"{__name__}.tls_ca"), given.get(f"{__name__}.tls_name")
    if address is None:
        address, token, trust = _find(name, token)
        if trust is not None:
            ca, server_name = ca or trust[0] or None, server_name or trust[1]
    return connect(address, token=token, strict=strict, tls_ca=ca, tls_server_name=server_name)


def _kept(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Keep an option's value for `open_cache`, so that not every command has to hand it on."""
    context.meta[f"{__name__}.{parameter.name}"] = value
    return value


def _find(name: str | None, token: str | None) -> tuple[str, str | None, tuple[str, str] | None]:
    """Where `up` said that the shards listen; a shard tells the rest. Else what Ray knows."""
    from stratacache.cluster.local_ray import connect_ray, find_ray, require_ray

    for state in [load_state(name)] if name is not None else known_states():
        if state is not None and state.endpoints:
            trust = (state.tls_ca, state.tls_name) if state.tls_name else None
            return _scheme(trust) + ",".join(state.endpoints.values()), token or state.token, trust
    require_ray()
    ray_address = find_ray()
    if ray_address is None:
        raise UnavailableError(
            "no cache was found: give --address strata://host:port, or start one with `stratacache up`"
        )
    connect_ray(ray_address)
    from stratacache.client.view import ACTIVE
    from stratacache.cluster.discovery import access

    found = access(name)
    shards = [shard.address for shard in found.view.shards if shard.state == ACTIVE]
    if not shards:
        raise UnavailableError("no shard of the cache serves now: see `stratacache status`")
    return _scheme(found.tls) + ",".join(shards), token or found.token, found.tls


def _scheme(trust: tuple[str, str] | None) -> str:
    return "strata://" if trust is None else "stratas://"


def require_rich() -> None:
    """Say how to get Rich where it is missing."""
    try:
        import rich  # noqa: F401
    except ImportError:
        raise UnavailableError("the live view needs Rich: pip install 'stratacache[ray]', or use --json") from None


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, default=str))


def check_key(key: str) -> str:
    """Refuse an empty key before anything is contacted."""
    if not key:
        raise UsageError("the key is empty: a key has at least one byte")
    return key


def size_text(size: float) -> str:
    """A size for people: 1536 as 1.5 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
