"""The web application behind `python -m reports.browse`: a page, its style and script, and two answers in JSON.

Nothing that a request holds becomes a path: tiles are numbers, classes and orders come from fixed lists. Requests under
another name than this machine's own are refused, so that no web page can reach the tiles by letting its own name point
here (DNS rebinding).
"""

from typing import Annotated

from fastapi import FastAPI, HTTPException, Path, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from reports.render import stylesheet, templates, text_of
from reports.tile_view import Order, TileView

HOSTS = ["127.0.0.1", "localhost"]
HEADERS = {
    "Cache-Control": "no-store",  # a blend that is fitted anew shows other predictions
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Share = Annotated[float, Query(ge=0, le=1)]


def make_app(view: TileView) -> FastAPI:
    """Answers GET alone, under HOSTS alone."""
    # No pages of documentation: they would load scripts from the network.
    app = FastAPI(title="Foldscape tiles", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    class_names = view.material.classes.names
    page = (
        templates()
        .get_template("browse.html.j2")
        .render(title=view.material.run.experiment.name, classes=class_names, folds=view.folds, missing=view.missing)
    )
    style, script = stylesheet("style.css", "browse.css"), text_of("browse.js")

    @app.middleware("http")
    async def with_headers(request: Request, answer):
        response = await answer(request)
        response.headers.update(HEADERS)
        return response

    @app.get("/")
    def get_page() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/browse.css")
    def get_style() -> Response:
        return Response(style, media_type="text/css")

    @app.get("/browse.js")
    def get_script() -> Response:
        return Response(script, media_type="text/javascript")

    @app.get("/api/tiles")
    def get_tiles(
        class_name: Annotated[str, Query(alias="class")] = "",
        fold: Annotated[int | None, Query(ge=0)] = None,
        low: Share = 0,
        high: Share = 1,
        order: Order = "worst",
    ) -> JSONResponse:
        if class_name and class_name not in class_names:
            raise HTTPException(422, f"no class {class_name!r}; known: {', '.join(class_names)}")
        # Not through FastAPI's encoder, which takes a second for 16,017 rows.
        return JSONResponse({"tiles": view.select(class_name, fold, low, high, order)})

    @app.get("/api/tiles/{n}")
    def get_tile(n: Annotated[int, Path(ge=0)]) -> JSONResponse:
        if n >= len(view.table):
            raise HTTPException(404, f"no tile {n}: there are {len(view.table)}, counted from 0")
        return JSONResponse(view.tile(n))

    return app
