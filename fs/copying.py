"""Copies files and whole directories between this machine and a server, several files at a time.

What a server says of a directory is not believed further than that: links are made last, nothing is
written through a link that was there before, and what is neither file, directory nor link is named
and left out. That one file fails is no reason to leave the others.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import field

import trio

from umktls.dataclass import dataclass
from umktls.errors import CallerError, UmktlsError, WorldError
from umktls.kernel.ground.refusals import in_thread
from umktls.nfs.types import sattr3

from .download import Advance, digest, digest_of_local, get, local_errors, umask
from .together import together
from .tree import KINDS, Failed, Node, Tree, is_silence, joined, naming
from .upload import put

__all__ = ["Copier", "Done", "How", "Told"]

FILES_AT_ONCE = 8

Later = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Done:
    """What came of it. `skipped`: files that were there, with the same size and time of change.
    `digests`: SHA-256 by local path, where it was asked for."""

    files: int = 0
    skipped: int = 0
    directories: int = 0
    links: int = 0
    bytes: int = 0
    digests: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Told:
    """Whom a copy tells how it goes: of bytes that are to be copied, of bytes that are there, and
    of what failed."""

    expect: Advance
    advance: Advance
    failed: Failed


@dataclass(frozen=True, slots=True)
class How:
    """`resume`: go on with what was interrupted, leave alone what is there; `check`: read both
    sides afterwards, and compare."""

    recursive: bool = False
    resume: bool = True
    check: bool = False


class Copier:
    """What one command copies."""

    def __init__(self, tree: Tree, told: Told, how: How, done: Done) -> None:
        self._tree = tree
        self._told = told
        self._how = how
        self._done = done
        self._places = trio.Semaphore(FILES_AT_ONCE)
        self._later: list[Later] = []

    async def fetch(self, node: Node, target: str) -> None:
        """A server's file or directory to a local path."""
        async with together() as nursery:
            await self._fetch(nursery, node, target)
        await self._finish()

    async def send(self, source: str, directory: Node, name: bytes) -> None:
        """A local file or directory into a server's directory, by that name; `.` is the directory
        itself."""
        async with together() as nursery:
            await self._send(nursery, source, directory, name, follow=True)
        await self._finish()

    # ---- from the server

    async def _fetch(self, nursery: trio.Nursery, node: Node, target: str) -> None:
        if node.is_file:
            self._told.expect(node.attributes.size)
            await self._places.acquire()
            nursery.start_soon(self._file, self._fetch_file, node, target)
        elif node.is_link:
            self._later.append(lambda: self._fetch_link(node, target))
        elif node.is_directory:
            await self._or_told(self._fetch_directory, nursery, node, target)
        else:
            self._left_out(self._tree.named(node.path), KINDS[node.kind])

    async def _fetch_directory(self, nursery: trio.Nursery, node: Node, target: str) -> None:
        self._may_enter(self._tree.named(node.path))
        if make_directory(target):
            mode = node.attributes.mode & 0o777 & ~umask()
            self._later.append(lambda: chmod(target, mode))
        self._done.directories += 1
        async with aclosing(self._tree.entries(node, self._told.failed)) as entries:
            async for entry in entries:
                await self._fetch(nursery, entry, os.path.join(target, os.fsdecode(entry.name)))

    async def _fetch_file(self, node: Node, target: str) -> None:
        copied = await get(self._tree, node, target, self._told.advance, resume=self._how.resume)
        await self._account(node, target, copied)

    async def _fetch_link(self, node: Node, target: str) -> None:
        said = await self._tree.target(node)
        make_link(said, target)
        self._done.links += 1

    # ---- to the server

    async def _send(
        self,
        nursery: trio.Nursery,
        source: str,
        directory: Node,
        name: bytes,
        *,
        follow: bool = False,
    ) -> None:
        with local_errors(source):
            facts = os.stat(source, follow_symlinks=follow)
        if stat.S_ISREG(facts.st_mode):
            self._told.expect(facts.st_size)
            await self._places.acquire()
            nursery.start_soon(self._file, self._send_file, source, directory, name)
        elif stat.S_ISLNK(facts.st_mode):
            self._later.append(lambda: self._send_link(source, directory, name))
        elif stat.S_ISDIR(facts.st_mode):
            mode = facts.st_mode & 0o777 & ~umask()
            await self._or_told(self._send_directory, nursery, source, directory, name, mode)
        else:
            self._left_out(source, "special file")

    async def _send_directory(
        self, nursery: trio.Nursery, source: str, directory: Node, name: bytes, mode: int
    ) -> None:
        self._may_enter(source)
        with local_errors(source):
            names = sorted(os.listdir(source))
        inside = directory if name == b"." else await self._directory(directory, name, mode)
        self._tree.check_depth(inside)
        self._done.directories += 1
        for each in names:
            path = os.path.join(source, each)
            await self._or_told(self._send, nursery, path, inside, os.fsencode(each))

    async def _directory(self, directory: Node, name: bytes, mode: int) -> Node:
        """One of that name, new or not."""
        tree = self._tree
        path = joined(directory.path, name)
        try:
            with naming(tree.named(path)):
                wanted = sattr3(mode=0o700)
                await tree.calls.mkdir(directory.handle, name, wanted, tree.credential)
        except UmktlsError as error:
            if error.errno != errno.EEXIST:
                raise
            known = await tree.child(directory, name)
            if not known.is_directory:
                text = f"{tree.named(path)} is there, and a {KINDS[known.kind]}"
                raise CallerError(text, errno.ENOTDIR) from error
            return known
        made = await tree.child(directory, name)

        async def allow() -> None:
            with naming(tree.named(path)):
                await tree.calls.setattr(made.handle, sattr3(mode=mode), tree.credential)

        self._later.append(allow)
        return made

    async def _send_file(self, source: str, directory: Node, name: bytes) -> None:
        advance, resume = self._told.advance, self._how.resume
        node, copied = await put(self._tree, source, directory, name, advance, resume=resume)
        await self._account(node, source, copied)

    async def _send_link(self, source: str, directory: Node, name: bytes) -> None:
        tree = self._tree
        with local_errors(source):
            said = os.readlink(os.fsencode(source))
        known = await tree.child_if_there(directory, name)
        with naming(tree.named(joined(directory.path, name))):
            if known is not None and known.is_link:
                await tree.calls.remove(directory.handle, name, tree.credential)
            await tree.calls.symlink(directory.handle, name, said, tree.credential)
        self._done.links += 1

    # ---- both

    async def _file(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Do it in a place that was taken."""
        try:
            await self._or_told(work, *args)
        finally:
            self._places.release()

    async def _or_told(self, work: Callable[..., Awaitable[None]], *args: object) -> None:
        """Do it, or tell why it failed."""
        try:
            await work(*args)
        except UmktlsError as error:
            if is_silence(error):
                raise
            self._told.failed(error)

    def _may_enter(self, what: str) -> None:
        if not self._how.recursive:
            raise CallerError(f"{what} is a directory: -r copies what is in it", errno.EISDIR)

    def _left_out(self, what: str, kind: str) -> None:
        self._told.failed(CallerError(f"{what} is left out: it is a {kind}"))

    async def _finish(self) -> None:
        """Links and the modes of directories, from the inner ones outwards."""
        while self._later:
            await self._or_told(self._later.pop())

    async def _account(self, node: Node, local: str, copied: bool) -> None:
        """One more file is there; with `check`, the same on both sides, as they have it now."""
        if self._how.check:
            theirs = await digest(self._tree, node)
            ours = await in_thread(digest_of_local, local)
            if ours != theirs:
                name = self._tree.named(node.path)
                why = "" if copied else "; size and time are the same: --no-resume copies it anew"
                raise WorldError(f"{local} has SHA-256 {ours}, the server's {name} {theirs}{why}")
            self._done.digests[local] = ours
        if copied:
            self._done.files += 1
            self._done.bytes += node.attributes.size
        else:
            self._done.skipped += 1


def make_directory(path: str) -> bool:
    """A directory of that name, and no link to one; whether it is new. Raises `WorldError`."""
    with local_errors(path):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise
            return False
    return True


def make_link(said: bytes, path: str) -> None:
    """A link there, also in place of one. Raises `WorldError`."""
    with local_errors(path):
        if os.path.islink(path):
            os.unlink(path)
        os.symlink(said, os.fsencode(path))


async def chmod(path: str, mode: int) -> None:
    with local_errors(path):
        os.chmod(path, mode)
