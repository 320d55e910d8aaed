"""Files that pages ask for and that are no secret: icon, styles of the sign-in page, font of formulas, manifest."""

from __future__ import annotations

from importlib import resources

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#3b5bdb"/>'
    '<path d="M8 21 14 10l6 11M22 10v11" stroke="#fff" stroke-width="3" fill="none" stroke-linecap="round"/></svg>'
)


def add_static_routes(app: FastAPI) -> None:
    @app.get("/favicon.ico", include_in_schema=False)
    def send_icon() -> Response:
        return Response(ICON, media_type="image/svg+xml", headers={"cache-control": "max-age=86400"})

    @app.get("/login.css", include_in_schema=False)
    def send_sign_in_styles() -> Response:
        css = (resources.files("rlhf_hitl.ui") / "assets" / "login.css").read_bytes()
        return Response(css, media_type="text/css", headers={"cache-control": "no-cache"})

    @app.get("/math.woff2", include_in_schema=False)
    def send_math_font() -> Response:
        woff2 = (resources.files("rlhf_hitl.ui") / "assets" / "math.woff2").read_bytes()
        return Response(woff2, media_type="font/woff2", headers={"cache-control": "max-age=604800"})

    @app.get("/manifest.json", include_in_schema=False)
    def send_manifest() -> Response:
        return JSONResponse({"name": "rlhf_hitl", "icons": [{"src": "favicon.ico", "sizes": "any"}]})
