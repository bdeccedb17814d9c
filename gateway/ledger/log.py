"""A log in segments: frames appended with one system call each, made durable in groups off the event loop."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from gateway.ledger.directory import JournalDirectory, Position
from gateway.ledger.frames import seal
from gateway.ledger.segment import Segment

logger = logging.getLogger("aidock.ledger")

Sync = Callable[[int], None]
"""Makes a file descriptor's data durable, as `os.fdatasync` does."""

_LONGEST_DELAY = 1.0
"""Seconds between two attempts on a disk that keeps failing."""

_MOST_SETBACKS = 10

_LAST_GROUPS = 4
"""How often `close` syncs: what was under way, the rest, and what a failed sync makes it write again."""


class SegmentLog:
    """Appends frames to the newest segment of a directory.

    The first append after a quiet time starts a timer of `every` seconds; when it fires, everything appended since
    is synced in a thread. Frames are kept in memory until then: after an error of the sync the kernel may have
    dropped any of them, and asking the same file again would be told "fine", so they are written to a new segment.

    `retry` is called at each tick; it writes what could not be written before and says whether none is left.
    """

    def __init__(
        self, home: JournalDirectory, *, segment_bytes: int, every: float, sync: Sync, retry: Callable[[], bool]
    ) -> None:
        self.segments: list[Segment] = []
        self.bytes = 0
        self.unsynced_bytes = 0
        self.sync_failures = 0
        self._home = home
        self._seed = home.seed
        self._segment_bytes = segment_bytes
        self._every = every
        self._sync = sync
        self._retry = retry
        self._sequence = 1
        self._created = 0
        self._current: Segment | None = None
        self._dirty: list[Segment] = []
        self._unsynced: list[bytes] = []
        self._lost: deque[bytes] = deque()
        self._setbacks = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._group: asyncio.Future[None] | None = None
        self._directory_fd = os.open(home.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal-sync")

    @property
    def end(self) -> Position:
        if not self.segments:
            return Position(0, 0, self._sequence)
        newest = self.segments[-1]
        return Position(newest.number, newest.size, self._sequence)

    @property
    def sequence(self) -> int:
        """The number the next frame gets."""
        return self._sequence

    @property
    def healthy(self) -> bool:
        """False while frames are only in memory, or one sync after another fails."""
        return not self._lost and self._setbacks < 2

    def append(self, kind: int, payload: bytes) -> Segment:
        """Write a frame and say where. Raises `OSError`; then no part of the frame is in the log."""
        if self._lost:
            raise OSError("earlier frames must be written again first")
        segment = self._put(seal(kind, self._sequence, payload, self._seed))
        self._sequence += 1
        return segment

    def wake(self) -> None:
        """Ask for a tick although nothing was written."""
        if not self._scheduled:
            self._schedule()

    def delete(self, segment: Segment) -> None:
        """Remove a finished segment from the disk. An open file is closed after its last sync."""
        segment.path.unlink(missing_ok=True)
        self.segments.remove(segment)
        self.bytes -= segment.size

    async def close(self) -> None:
        """Make everything durable that can be, then let go of the files."""
        for _ in range(_LAST_GROUPS):
            self._cancel_timer()
            if self._group is None:
                self._tick()
            if self._group is None:
                break
            await asyncio.wait([self._group])
        self._cancel_timer()
        self._executor.shutdown()
        for segment in self.segments:
            segment.close()
        os.close(self._directory_fd)

    def _put(self, frame: bytes) -> Segment:
        size = len(frame)
        segment = self._current
        if segment is None or segment.size + size > self._segment_bytes:
            segment = self._put_in_new_segment(frame)
        else:
            try:
                segment.append(frame)
            except OSError:
                segment = self._put_in_new_segment(frame)
        self.bytes += size
        self.unsynced_bytes += size
        self._unsynced.append(frame)
        self._touch(segment)
        return segment

    def _put_in_new_segment(self, frame: bytes) -> Segment:
        self._finish_current()
        number = self._created + 1
        segment = Segment(number, self._home.segment_path(number))
        self._created = number
        try:
            segment.append(frame)
        except OSError:
            segment.close()
            segment.path.unlink(missing_ok=True)
            raise
        self.segments.append(segment)
        self._current = segment
        return segment

    def _finish_current(self) -> None:
        if self._current is not None:
            self._current.finished = True
            self._touch(self._current)  # closed when the group that syncs it is done
            self._current = None

    def _touch(self, segment: Segment) -> None:
        dirty = self._dirty
        if not dirty or dirty[-1] is not segment:
            dirty.append(segment)
        if not self._scheduled:
            self._schedule()

    def _schedule(self) -> None:
        delay = min(self._every * 2**self._setbacks, _LONGEST_DELAY)
        self._timer = asyncio.get_running_loop().call_later(delay, self._tick)
        self._scheduled = True

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._scheduled = False

    def _tick(self) -> None:
        self._timer = None
        self._scheduled = False
        restored = self._rewrite() and self._retry()
        if self._dirty:
            self._start_group()
        elif restored:
            self._setbacks = 0
        else:
            self._setbacks = min(self._setbacks + 1, _MOST_SETBACKS)
            self._schedule()

    def _start_group(self) -> None:
        segments, frames = self._dirty, self._unsynced
        self._dirty, self._unsynced = [], []
        descriptors = [segment.fd for segment in segments]
        if any(segment.fresh for segment in segments):
            descriptors.append(self._directory_fd)
        self._scheduled = True
        self._group = asyncio.get_running_loop().run_in_executor(self._executor, self._sync_all, descriptors)
        self._group.add_done_callback(lambda group: self._end_group(group, segments, frames))

    def _sync_all(self, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            self._sync(descriptor)

    def _end_group(self, group: asyncio.Future[None], segments: list[Segment], frames: list[bytes]) -> None:
        self._group = None
        self._scheduled = False
        error = group.exception()
        if error is None:
            self._setbacks = 0
            self.unsynced_bytes -= sum(map(len, frames))
            for segment in segments:
                segment.fresh = False
                if segment.finished and segment not in self._dirty:
                    segment.close()
        else:
            self._distrust(segments, frames, error)
        if (self._dirty or self._lost or not self._retry()) and not self._scheduled:
            self._schedule()

    def _distrust(self, segments: list[Segment], frames: list[bytes], error: BaseException) -> None:
        """A sync failed: leave every file that has unsynced frames, and write those frames to a new one."""
        self._setbacks = min(self._setbacks + 1, _MOST_SETBACKS)
        self.sync_failures += 1
        logger.error("The journal could not be synced; its last records are written again.", exc_info=error)
        self._lost.extend(frames)
        self._lost.extend(self._unsynced)
        for segment in {*segments, *self._dirty}:
            segment.finished = True
            segment.close()
        self._current = None
        self._dirty, self._unsynced = [], []
        self._rewrite()

    def _rewrite(self) -> bool:
        """Write the frames of distrusted files again, with the numbers they had. False while some are left."""
        while self._lost:
            frame = self._lost[0]
            try:
                self._put(frame)
            except OSError:
                return False
            self._lost.popleft()
            self.unsynced_bytes -= len(frame)  # it was counted once already
        return True
