"""The commands, by subject. Importing this package fills the command table.

Invariant: a handler checks its own options before it changes anything, raises CommandError with Redis's text, and
touches the engine only through its public methods.
"""

from stratacache.node.resp.commands import (
    clients,
    copies,
    counters,
    expiry,
    handoff,
    info,
    introspection,
    keyspace,
    leases,
    native,
    session,
    strings,
    subscriptions,
    tracking,
    transactions,
)

__all__ = [
    "clients",
    "copies",
    "counters",
    "expiry",
    "handoff",
    "info",
    "introspection",
    "keyspace",
    "leases",
    "native",
    "session",
    "strings",
    "subscriptions",
    "tracking",
    "transactions",
]
