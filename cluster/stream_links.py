"""The connections of a shard's streams of changes: one to each other active shard, opened again when it breaks.

Questions to other owners have connections of their own: an answer may be large, and nobody else shall wait behind it.

Invariants: a connection carries the items of one stream in their order and nothing else; an answer that is not the
expected number ends it, and so does silence while answers are due; a stream that the outbox has dropped is not
connected any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from stratacache.client.view import SUSPENDED, ShardInfo, View
from stratacache.cluster.background import Background, Fall
from stratacache.cluster.intake import Refused
from stratacache.cluster.links import LOOKS, Credentials, Link
from stratacache.cluster.peers import LinkPeers
from stratacache.node.errors import UnavailableError

if TYPE_CHECKING:
    from stratacache.cluster.replication import Replication
    from stratacache.cluster.streams import Lane, Stream, Words

OPEN_DEADLINE_S: Final = 2.0
AGAIN_S: Final = 0.05
SILENT_S: Final = 3.0
"""A connection on which nothing moves for so long while answers are due is opened anew. A peer that is only slow, or
waits for a third owner, loses nothing by it: the stream is resumed where it was."""
SILENT_MAX_S: Final = 60.0
"""What it grows to, twice as long each time, while not one answer comes: bytes that move behind a proxy are unseen."""


class StreamLink(Link):
    """A link that tells when it is gone."""

    def __init__(self, shard: ShardInfo) -> None:
        super().__init__(shard)
        self.ended = asyncio.Event()

    def _fail(self, reason: str) -> None:
        super()._fail(reason)
        self.ended.set()


class StreamLinks:
    """The shell of a shard's Replication: `follow` after every view that was prepared or shown."""

    def __init__(
        self,
        incarnation: int,
        credentials: Credentials,
        replication: Replication,
        fall: Fall,
    ) -> None:
        self._sender = (replication.chains.shard.encode(), b"%d" % incarnation)
        self._credentials = credentials
        self._replication = replication
        self._outbox = replication.outbox
        self._questions = LinkPeers(credentials, fall)
        self._infos: Mapping[str, ShardInfo] = {}
        self._loop = asyncio.get_running_loop()
        self._runs: dict[Lane, tuple[Stream, asyncio.Task[None]]] = {}
        self._links: dict[Lane, StreamLink] = {}
        self._woken: set[Lane] = set()
        self._background = Background(fall)
        self._outbox.wake = self._wake
        replication.ask = self._ask
        replication.after = lambda ms, fn: self._loop.call_later(ms / 1000, self._call, fn)
        replication.failed = fall

    def _call(self, fn: Callable[[], None]) -> None:
        with self._background.must_not_fail("the taking over of others' keys"):
            fn()

    def follow(self, view: View) -> None:
        """Connect the streams that are new, and give up those that are gone."""
        streams = self._outbox.streams
        self._infos = view.by_id
        for lane, (stream, task) in list(self._runs.items()):
            if streams.get(lane) is not stream:
                task.cancel()
                del self._runs[lane]
        for lane, stream in streams.items():
            info = view.by_id.get(stream.peer)
            if lane not in self._runs and info is not None:
                self._runs[lane] = (stream, self._background.keep(self._run(stream, info)))

    async def _run(self, stream: Stream, info: ShardInfo) -> None:
        """Keep one stream connected."""
        silent_s = SILENT_S
        while True:
            link: StreamLink | None = None
            try:
                async with asyncio.timeout(OPEN_DEADLINE_S):
                    opened = await StreamLink.open(info, self._credentials)
                    assert isinstance(opened, StreamLink)
                    link = opened
                    applied = await link.call((b"SC.STREAM", *self._sender, b"%d" % stream.lane[1]))
                # Else it does not take changes from here, or not yet, or says that it has what was never sent.
                if isinstance(applied, int) and stream.may_have(applied):
                    self._outbox.opened(stream, applied)
                    self._links[stream.lane] = link
                    self._pump(stream.lane)
                    opening = link.replies
                    was_silent = await _until_ended(link, silent_s)
                    in_vain = was_silent and link.replies == opening
                    silent_s = min(2 * silent_s, SILENT_MAX_S) if in_vain else SILENT_S
            except (UnavailableError, TimeoutError):
                pass  # tried again below, for as long as it is in the view
            finally:
                if self._links.get(stream.lane) is link:
                    self._links.pop(stream.lane, None)
                stream.broken()
                if link is not None:
                    link.close()
            await asyncio.sleep(AGAIN_S)

    def _wake(self, lane: Lane) -> None:
        if lane not in self._woken:
            self._woken.add(lane)
            self._loop.call_soon(self._pump, lane)

    def _pump(self, lane: Lane) -> None:
        """Write what waits, one turn of the loop's changes at a time."""
        self._woken.discard(lane)
        stream, link = self._outbox.streams.get(lane), self._links.get(lane)
        if stream is None or link is None or link.broken:
            return

        def answered(number: int, reply: asyncio.Future[object]) -> None:
            if reply.cancelled() or reply.exception() is not None:
                return
            if reply.result() != number:
                link.close()  # a gap, or it has another view by now: the stream is resumed, or given up
                return
            with self._background.must_not_fail("an answer to a change"):
                self._outbox.answered(stream, number)
            if stream.has_more:
                self._wake(lane)

        with self._background.must_not_fail("the sending of changes"):
            try:
                for words in stream.unsent():
                    link.call(words).add_done_callback(partial(answered, int(words[1])))
            except UnavailableError:
                link.close()

    def _ask(self, peer: str, words: Words) -> Future[Any]:
        """Ask a peer outside its stream."""
        result: Future[Any] = Future()
        info = self._infos.get(peer)
        if info is None or info.state == SUSPENDED:
            result.set_exception(UnavailableError(f"{peer} does not serve now"))
            return result

        def answered(reply: Any) -> None:
            if reply is None or isinstance(reply, Refused):
                result.set_exception(UnavailableError(f"{peer} gave no answer: {reply}"))
            else:
                result.set_result(reply)

        self._questions.ask(info, words, int(SILENT_S * 1000), answered)
        return result

    async def close(self) -> None:
        """End all streams."""
        tasks = [task for _, task in self._runs.values()]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._runs.clear()
        self._questions.close()


async def _until_ended(link: StreamLink, silent_s: float) -> bool:
    """Wait for the end of a connection; ends it, and returns True, when answers are due and nothing moves."""
    while not link.ended.is_set():
        if link.quiet_s() >= silent_s:
            link.close()
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(silent_s / LOOKS):
                await link.ended.wait()
    return False
