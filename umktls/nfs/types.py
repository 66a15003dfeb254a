"""All types of NFS version 3 (RFC 1813) under one roof.

A result is one of two structures: ``...resok``, whose `status` is NFS3_OK as a class attribute, or
``...resfail``, whose `status` says why not. Linked lists are Python lists; the pointers (nextentry)
are not fields.
"""

from umktls.nfs import basic, changing, reading
from umktls.nfs.basic import *  # noqa: F403
from umktls.nfs.changing import *  # noqa: F403
from umktls.nfs.reading import *  # noqa: F403

__all__ = []
__all__ += basic.__all__
__all__ += reading.__all__
__all__ += changing.__all__
