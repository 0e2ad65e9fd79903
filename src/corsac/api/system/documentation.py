"""The API's documentation, served by itself: the OpenAPI document, `/docs`, and a page for every reason."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import Path as PathParameter
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from corsac.core.base_router import BaseRouter, get
from corsac.core.call import Call
from corsac.core.error_handler import ServiceErrorHandler
from corsac.core.exceptions import CorsacError, InvalidId, NotFound, error_classes
from corsac.core.http.openapi import reason_index
from corsac.core.identity import PUBLIC
from corsac.core.load.rate_limiter import RateLimiter
from corsac.core.validation import refused_as

Reason = Annotated[str, PathParameter(pattern=r"^[A-Z0-9_]{1,64}$"), refused_as(InvalidId)]
AssetName = Annotated[str, PathParameter(pattern=r"^[a-z-]{1,40}\.(css|js)$"), refused_as(InvalidId)]

RETRY_SENTENCES = {
    "retry": "The same request may succeed later.",
    "retry_higher": "Start the exchange again: read the present state, then decide anew.",
    "fix_first": "Correct the request, or what it needs, before sending it again.",
    "never": "Repeating it does not help.",
}
DOCS_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Corsac API</title>
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<link rel="stylesheet" href="/docs/assets/docs.css">
<p id="notice" role="alert" hidden></p>
<main id="api"></main>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script type="module" src="/docs/assets/docs.js"></script>
</html>
"""


def asset_folders() -> list[Path]:
    """Our own assets, and those of the package that carries Swagger UI."""
    spec = find_spec("fastapi_offline")
    packaged = [Path(spec.origin).parent / "static"] if spec and spec.origin else []
    return [Path(__file__).parent / "static", *packaged]


class DocumentationRouter(BaseRouter):
    """Documentation, for people and for programs."""

    tag = "documentation"
    scope = PUBLIC

    def __init__(
        self,
        errors: ServiceErrorHandler,
        limiter: RateLimiter,
        *,
        openapi: Callable[[], dict[str, Any]],
        version: str,
    ) -> None:
        super().__init__(errors, limiter)
        self.openapi = openapi
        self.version = version
        self.document: bytes | None = None
        self.assets = {file.name: file for folder in reversed(asset_folders()) for file in folder.iterdir()}

    @get("/", while_down=True, in_schema=False, produces=("application/json", "text/html"))
    async def home(self, call: Call) -> Response:
        """What runs here."""
        if call.media_type == "text/html":
            return RedirectResponse("/docs", 307)
        return Response(
            orjson.dumps({"name": "corsac", "version": self.version, "docs": "/docs"}),
            media_type="application/json",
        )

    @get("/openapi.json", while_down=True, in_schema=False)
    async def openapi_json(self) -> Response:
        """The OpenAPI document."""
        if self.document is None:  # takes a few tenths of a second
            self.document = await asyncio.to_thread(lambda: orjson.dumps(self.openapi()))
        return Response(self.document, media_type="application/json")

    @get("/docs", while_down=True, in_schema=False, produces=("text/html",))
    async def docs(self) -> HTMLResponse:
        """The API as a page to read and try."""
        return HTMLResponse(DOCS_PAGE)

    @get("/docs/assets/{name}", while_down=True, in_schema=False, produces=("text/css", "text/javascript"))
    async def asset(self, name: AssetName) -> FileResponse:
        """A script or style sheet of the pages."""
        if name not in self.assets:
            raise NotFound
        return FileResponse(self.assets[name], headers={"cache-control": "max-age=3600"})

    @get("/docs/errors/{reason}", while_down=True, in_schema=False, produces=("text/html",))
    async def reason_page(self, reason: Reason) -> HTMLResponse:
        """What a reason means and what to do."""
        known = reason_index(error_classes())
        if reason not in known:
            raise NotFound
        return HTMLResponse(reason_html(known[reason]))


def reason_html(error: type[CorsacError]) -> str:
    """The page of one reason."""
    title, explanation = html.escape(error.title()), html.escape(error.explanation())
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{error.reason} · Corsac</title>
<link rel="stylesheet" href="/docs/assets/page.css">
<h1>{title}</h1>
<p>{explanation}</p>
<dl>
<dt>reason</dt><dd><code>{error.reason}</code></dd>
<dt>HTTP status</dt><dd>{error.status}</dd>
<dt>repeating</dt><dd>{RETRY_SENTENCES[error.retry]}</dd>
</dl>
<p><a href="/docs">All operations</a></p>
</html>
"""
