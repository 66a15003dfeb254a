"""What a request to the page's server has in it, and answers whose text may be anything."""

from __future__ import annotations

import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

__all__ = ["Answer", "object_of"]


class Answer(JSONResponse):
    """In ASCII: names of files are bytes, and not all of them are UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


async def object_of(request: Request) -> dict[str, Any]:
    """The JSON object that was sent; for anything else the answer is 400."""
    try:
        asked = await request.json()
    except (ValueError, RecursionError) as error:
        raise HTTPException(400) from error
    if not isinstance(asked, dict):
        raise HTTPException(400)
    return asked
