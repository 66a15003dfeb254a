"""Removes a server's files and directories, several at a time, and no more than is meant: of a link
itself, and not what it leads to."""

from __future__ import annotations

import errno
import os

import trio

from umktls.errors import CallerError, UmktlsError

from .together import together
from .tree import Failed, Node, Tree, is_silence, joined, naming

__all__ = ["remove"]

AT_ONCE = 16


async def remove(tree: Tree, path: bytes, failed: Failed, *, recursive: bool, force: bool) -> None:
    """What is at a path. `force`: that nothing is there is no error. Raises `UmktlsError`; what is
    in a directory and cannot be removed is told, and the rest is."""
    directory, name = await tree.parent(path)
    node = await tree.child_if_there(directory, name)
    if node is None and force:
        return
    node = node or await tree.child(directory, name)
    if path.endswith(b"/") and not node.is_directory:
        raise CallerError(f"{tree.named(path)}: {os.strerror(errno.ENOTDIR)}", errno.ENOTDIR)
    if node.is_directory and not recursive:
        text = f"{tree.named(node.path)} is a directory: -r removes it with all that is in it"
        raise CallerError(text, errno.EISDIR)
    await Remover(tree, failed).remove(directory, node, name)


class Remover:
    """`left`: how many files had to be left."""

    def __init__(self, tree: Tree, failed: Failed) -> None:
        self._tree = tree
        self._failed = failed
        self._places = trio.Semaphore(AT_ONCE)
        self._left = 0

    async def remove(self, directory: Node, node: Node, name: bytes) -> None:
        calls, credential = self._tree.calls, self._tree.credential
        if node.is_directory:
            left = self._left
            await self._clear(node)
            if self._left > left:
                return  # it is told what is in the way
        with naming(self._tree.named(joined(directory.path, name))):
            remove = calls.rmdir if node.is_directory else calls.remove
            await remove(directory.handle, name, credential)

    async def _clear(self, directory: Node) -> None:
        listed = [entry async for entry in self._tree.entries(directory, self._tell)]
        async with together() as nursery:
            for entry in listed:
                if entry.is_directory:
                    await self._or_tell(directory, entry)
                else:
                    await self._places.acquire()
                    nursery.start_soon(self._placed, directory, entry)

    async def _placed(self, directory: Node, entry: Node) -> None:
        try:
            await self._or_tell(directory, entry)
        finally:
            self._places.release()

    async def _or_tell(self, directory: Node, entry: Node) -> None:
        try:
            await self.remove(directory, entry, entry.name)
        except UmktlsError as error:
            if is_silence(error):
                raise
            self._tell(error)

    def _tell(self, error: UmktlsError) -> None:
        self._left += 1
        self._failed(error)
