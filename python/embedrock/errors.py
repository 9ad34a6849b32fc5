"""Every way a call can fail, as exceptions of one hierarchy.

The message says where, what was expected, what was found and what to do; what a program may ask for is in attributes of the
names given here. After an error either nothing changed, or the store is :class:`Poisoned`.
"""

from __future__ import annotations

from typing import Optional


class Error(Exception):
    """What all errors of the engine derive from."""

    request: Optional[int] = None
    """Of a call over several tables, the request that is wrong."""

    # OSError and KeyError would show something else than the message.
    __str__ = BaseException.__str__


class Closed(Error, ValueError):
    """The store or replica was closed."""


class Panicked(Error, RuntimeError):
    """A thread of the engine ended unexpectedly; a bug to be reported."""


class FileFailed(Error, OSError):
    """The operating system refused a file operation (``filename``, ``errno``)."""


class NoSpace(Error, OSError):
    """The disk, a quota or a file-size limit is exhausted (``filename``). Nothing was lost."""


class ReadOnly(Error, OSError):
    """The directory cannot be written (``filename``), or the store was opened to be read only."""


class Corrupt(Error):
    """Bytes on disk are not what was written there (``path``, ``offset``, ``what``)."""

    path: str = ""
    offset: int = 0
    what: str = ""


class FormatTooNew(Error):
    """The file was written by a newer version of this package."""


class NotAStore(Error):
    """The directory holds something else."""


class Locked(Error):
    """Another process, or another ``Store`` of this one, has the directory open (``pid``)."""

    pid: Optional[int] = None


class ForkedChild(Error, RuntimeError):
    """The store was opened before a fork and is used in the child: open it in the process that uses it."""


class SchemaMismatch(Error, ValueError):
    """The table exists with another schema (``table``, ``what``)."""

    table: str = ""
    what: str = ""


class InvalidSchema(Error, ValueError):
    """A schema that no table can have (``table``, ``what``)."""

    table: str = ""
    what: str = ""


class UnknownTable(Error, KeyError):
    """There is no table of this name (``table``)."""

    table: str = ""


class TableDropped(Error):
    """The table was dropped (``table``)."""

    table: str = ""


class InvalidOption(Error, ValueError):
    """An option that cannot be met (``option``)."""

    option: str = ""


class WrongLength(Error, ValueError):
    """An array has the wrong length (``expected``, ``found``)."""

    expected: int = 0
    found: int = 0


class InvalidOffsets(Error, ValueError):
    """Offsets that do not divide the keys into bags (``position``)."""

    position: int = 0


class OtherStore(Error, ValueError):
    """A table of one store was given to another."""


class NotFinite(Error, ValueError):
    """A gradient or a row is NaN or infinite (``key``, ``position``); nothing of the batch was applied."""

    key: int = 0
    position: int = 0


class ClockJump(Error, ValueError):
    """An event time far ahead of the store's clock (``time``, ``clock``); nothing changed."""

    time: int = 0
    clock: int = 0


class BudgetTooSmall(Error, MemoryError):
    """The memory budget cannot hold what the call needs at once (``needed``, ``budget``)."""

    needed: int = 0
    budget: int = 0


class UnknownCommit(Error, LookupError):
    """No such commit can be had any more (``commit``)."""

    commit: str = ""


class TargetExists(Error, OSError):
    """The target of a restore exists (``filename``)."""


class Poisoned(Error):
    """An earlier failure left it unknown what the disk holds: close the store and open it again."""


class CommitFailed(Error):
    """A commit failed half way and waits to be tried again."""


class ColdTierFailed(Error):
    """The cold tier failed."""


class FileRefused(Error, ValueError):
    """A file of another program that cannot be taken for what it should be (``path``, ``line``)."""

    path: str = ""
    line: Optional[int] = None
