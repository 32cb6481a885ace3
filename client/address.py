"""What the address of a cache means: which transport, which seeds.

Invariants: an address that is not understood is one UsageError that shows the forms that are; nothing here opens
anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stratacache.node.errors import UsageError

FORMS = "strata://host:port[,host:port], stratas://host:port (TLS), unix:/path/to/socket, local:/directory"
PORT_DEFAULT = 6380


@dataclass(frozen=True)
class Seed:
    """One place where a shard may be asked for the view: a TCP address, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    unix: str = ""

    @property
    def name(self) -> str:
        """How the seed was written."""
        if self.unix:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Address:
    """A parsed address: `scheme` is strata, stratas, unix, local or ray."""

    scheme: str
    seeds: tuple[Seed, ...] = ()
    directory: str = ""


def parse_address(text: str | None) -> Address:
    """Read an address; None is the cache of the Ray cluster that this process runs in."""
    if text is None:
        return Address("ray")
    if text.startswith("local:"):
        directory = text.removeprefix("local:").removeprefix("//")
        if not directory:
            raise UsageError("local: names no directory; write for example local:./cache")
        try:
            return Address("local", directory=str(Path(directory).expanduser().resolve()))
        except (ValueError, RuntimeError) as error:  # a zero byte, a user who does not exist
            raise UsageError(f"local:{directory!r} names no directory: {error}") from error
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path:
            raise UsageError("unix: names no socket; write for example unix:/tmp/cache.sock")
        return Address("unix", (Seed(unix=path),))
    for scheme in ("strata", "stratas"):
        if text.startswith(f"{scheme}://"):
            rest = text.removeprefix(f"{scheme}://").rstrip("/")
            seeds = tuple(_tcp_seed(part.strip(), text) for part in rest.split(","))
            return Address(scheme, tuple(dict.fromkeys(seeds)))
    raise UsageError(f"address {text!r} is not understood; use {FORMS}, or no address inside a Ray program")


def _tcp_seed(part: str, whole: str) -> Seed:
    host, port_text = part, ""
    if part.startswith("["):
        host, _, after = part[1:].partition("]")
        port_text = after.removeprefix(":")
    elif ":" in part:
        host, _, port_text = part.rpartition(":")
    if not host or "@" in host or "/" in host:
        raise UsageError(f"address {whole!r} has no usable host in {part!r}; use {FORMS} (the token is an argument)")
    try:
        host.encode("idna")  # as the resolver will
    except UnicodeError as error:
        raise UsageError(f"address {whole!r} has no usable host in {part!r}: {error}") from error
    if not port_text:
        return Seed(host, PORT_DEFAULT)
    if not port_text.isdecimal() or not 1 <= int(port_text) <= 65535:
        raise UsageError(f"address {whole!r} has port {port_text!r}; a port is a number from 1 to 65535")
    return Seed(host, int(port_text))
