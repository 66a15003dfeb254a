"""ARIA in GCM (RFC 5794, RFC 6209), by the machine's own libcrypto.

The cryptography package has no ARIA in any form; OpenSSL 3 has it, in the library that Python's own
hashlib stands on. Each call has a context of its own, which is wiped and freed before it returns:
any number of threads may use one key, and ctypes lets the others run while libcrypto works.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_void_p
from functools import cache

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm

from umktls.ktls.engines.apart import TAG_LENGTH, Apart
from umktls.ktls.session.framing import Buffer

LIBRARY = "libcrypto.so.3"
NONCE_LENGTH = 12  # libcrypto reads as many bytes, whatever it is given
BLOCK = 16
OPENING, SEALING = 0, 1
GET_TAG, SET_TAG = 0x10, 0x11  # EVP_CTRL_AEAD_*, openssl/evp.h
# name: what it returns, what it takes
_FUNCTIONS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "EVP_CIPHER_fetch": (c_void_p, (c_void_p, c_char_p, c_char_p)),
    "EVP_CIPHER_CTX_new": (c_void_p, ()),
    "EVP_CIPHER_CTX_free": (None, (c_void_p,)),
    "EVP_CIPHER_CTX_ctrl": (c_int, (c_void_p, c_int, c_int, c_void_p)),
    "EVP_CipherInit_ex": (c_int, (c_void_p, c_void_p, c_void_p, c_char_p, c_char_p, c_int)),
    "EVP_CipherUpdate": (c_int, (c_void_p, c_void_p, POINTER(c_int), c_void_p, c_int)),
    "EVP_CipherFinal_ex": (c_int, (c_void_p, c_void_p, POINTER(c_int))),
    "ERR_clear_error": (None, ()),
}


@cache
def _library() -> ctypes.CDLL:
    """libcrypto. Raises UnsupportedAlgorithm."""
    try:
        library = ctypes.CDLL(LIBRARY)
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise UnsupportedAlgorithm(str(error)) from None
    return library


@cache
def _cipher(key_length: int) -> int:
    """The cipher's address, good for the life of the process. Raises UnsupportedAlgorithm."""
    library = _library()
    name = f"ARIA-{key_length * 8}-GCM"
    found: int | None = library.EVP_CIPHER_fetch(None, name.encode("ascii"), None)
    if not found:
        library.ERR_clear_error()
        raise UnsupportedAlgorithm(f"{LIBRARY} has no {name}")
    return found


class AriaGcm(Apart):
    """See Aead. Raises UnsupportedAlgorithm where the machine has no ARIA."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher = _cipher(len(key))

    def encrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer
    ) -> int:
        length = len(data)
        out = memoryview(buf)[: length + TAG_LENGTH]
        out[:length] = data
        tag = ctypes.create_string_buffer(TAG_LENGTH)
        with _context() as context:
            self._begin(context, SEALING, nonce, associated_data, out[:length])
            _need(_finished(context))
            _need(_library().EVP_CIPHER_CTX_ctrl(context, GET_TAG, TAG_LENGTH, tag))
        out[length:] = tag.raw
        return length + TAG_LENGTH

    def decrypt_into(
        self, nonce: Buffer, data: Buffer, associated_data: Buffer | None, buf: Buffer
    ) -> int:
        length = len(data) - TAG_LENGTH
        if length < 0:
            raise InvalidTag
        view, out = memoryview(data), memoryview(buf)[:length]
        out[:] = view[:length]
        tag = bytes(view[length:])
        with _context() as context:
            self._begin(context, OPENING, nonce, associated_data, out)
            _need(_library().EVP_CIPHER_CTX_ctrl(context, SET_TAG, TAG_LENGTH, tag))
            good = _finished(context)
        if not good:
            out[:] = bytes(length)  # what does not verify is for nobody to see
            raise InvalidTag
        return length

    def _begin(
        self,
        context: int,
        way: int,
        nonce: Buffer,
        associated_data: Buffer | None,
        text: memoryview,
    ) -> None:
        """Everything but the tag; `text` is worked on where it stands."""
        if len(nonce) != NONCE_LENGTH:
            raise ValueError(f"a nonce of {len(nonce)} bytes, not of {NONCE_LENGTH}")
        init = _library().EVP_CipherInit_ex
        _need(init(context, self._cipher, None, self._key, bytes(nonce), way))
        if associated_data:
            _update(context, None, bytes(associated_data), len(associated_data))
        if text:
            here = byref(c_char.from_buffer(text))
            _update(context, here, here, len(text))


@contextmanager
def _context() -> Iterator[int]:
    library = _library()
    context: int | None = library.EVP_CIPHER_CTX_new()
    if not context:
        raise MemoryError("libcrypto has no memory for a context")
    try:
        yield context
    finally:
        library.EVP_CIPHER_CTX_free(context)


def _update(context: int, out: object, data: object, length: int) -> None:
    _need(_library().EVP_CipherUpdate(context, out, byref(c_int()), data, length))


def _finished(context: int) -> bool:
    """Whether that is the end of it; when opening, whether the tag is right."""
    rest = ctypes.create_string_buffer(BLOCK)  # GCM leaves nothing to be written
    done: int = _library().EVP_CipherFinal_ex(context, rest, byref(c_int()))
    if done != 1:
        _library().ERR_clear_error()
    return done == 1


def _need(done: int) -> None:
    """For a step that fails for want of memory only."""
    if done != 1:
        _library().ERR_clear_error()
        raise MemoryError("libcrypto could not go on")
