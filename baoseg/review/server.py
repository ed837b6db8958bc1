"""The server of `bao review`: on this machine alone, unless a token guards it.

Requests must come from the page itself (Host, and Origin where something changes), so that no other page in the browser
can read or write. Images are found by number, so no path comes from outside.
"""

import hmac
import json
import os
import re
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from baoseg.core import progress
from baoseg.core.errors import BaosegError, RecipeError, RunError
from baoseg.core.files import make_folder
from baoseg.core.run_folder import alone
from baoseg.data.reviewed import Decision, Stale
from baoseg.review.session import Session
from baoseg.review.tagging import Tagging

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route
except ImportError:
    raise RecipeError("bao review needs Starlette and uvicorn; pip install 'baoseg[review]'") from None

LOCAL = ("127.0.0.1", "localhost", "[::1]")
ANY = ("0.0.0.0", "::")  # all addresses of the machine
HEAD_START = 2.0  # seconds for rating before the page opens: small runs are in order from the start
LARGEST = 64 * 2**20  # bytes of a request
KINDS = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; style-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """Lets through what comes from the page itself, with the token where there is one, and is not too large.

    Without `hosts`, any address is the page's: then the token alone decides.
    """

    def __init__(self, app: Any, *, hosts: tuple[str, ...], token: str | None) -> None:
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(Request(scope))) is not None:
            await refusal(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if self.hosts and _hostname(host) not in self.hosts:
            return _problem(f"{host}: not the address of this page", 403)
        origin = request.headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return _problem(f"{origin}: another page may not use this one", 403)
        if request.method not in ("GET", "HEAD") and request.headers.get("x-bao-review") != "1":
            return _problem("changes come from the page itself", 403)
        length = request.headers.get("content-length", "0")
        if not re.fullmatch("[0-9]{1,12}", length) or int(length) > LARGEST:
            return _problem(f"more than {LARGEST:,} bytes", 413)
        given = request.query_params.get("token") or request.cookies.get("token") or ""
        if self.token is not None and not hmac.compare_digest(given.encode(), self.token.encode()):
            return _problem("the address lacks its token; open the one that bao review has printed", 403)
        return None


def _hostname(host: str) -> str:
    """The header without its port. IPv6 addresses keep their brackets."""
    return re.sub(r":\d+$", "", host).lower()


def application(work: Session | Tagging, *, hosts: tuple[str, ...] = LOCAL, token: str | None = None) -> Starlette:
    """The app; `work` is what its page is for."""
    of_page = [
        Route("/", _page(token), methods=["GET"]),
        Route("/{name:str}", _static, methods=["GET"]),
    ]
    routes = _review_routes(work) if isinstance(work, Session) else _tag_routes(work)
    guard = Middleware(Guard, hosts=hosts, token=token)
    return Starlette(routes=[*routes, *of_page], middleware=[guard], exception_handlers={BaosegError: _failed})


def _failed(request: Request, error: Exception) -> Response:
    return _problem(str(error), 409 if isinstance(error, Stale) else 507 if isinstance(error, RunError) else 400)


def _problem(text: str, status: int) -> Response:
    return PlainTextResponse(text, status_code=status, headers=HEADERS)


def _page(token: str | None) -> Callable[[Request], Response]:
    def page(request: Request) -> Response:
        response = _file("index.html")
        if token is not None:
            response.set_cookie("token", token, httponly=True, samesite="strict")
        return response

    return page


def _static(request: Request) -> Response:
    return _file(request.path_params["name"])


def _file(name: str) -> Response:
    static = files("baoseg.review").joinpath("static")
    if name not in {path.name for path in static.iterdir()}:
        return _problem(f"{name}: no such file", 404)
    kind = KINDS[name.rpartition(".")[2]]
    return Response(static.joinpath(name).read_bytes(), media_type=kind, headers=HEADERS)


def _number(request: Request, name: str) -> int:
    value = request.path_params.get(name, request.query_params.get(name, ""))
    if not re.fullmatch("[0-9]{1,9}", str(value)):
        raise RecipeError(f"{name} is {str(value)[:40]!r}; give a number")
    return int(value)


def _json(content: object) -> Response:
    return JSONResponse(content, headers=HEADERS)


def _review_routes(session: Session) -> list[Route]:
    def about(request: Request) -> Response:
        return _json({"mode": "review", **session.about()})

    def items(request: Request) -> Response:
        if "sorted" in request.query_params:
            session.sort()
        return _json(session.items(_number(request, "start"), min(_number(request, "count"), 500)))

    def item(request: Request) -> Response:
        return _json(session.image(session.index(_number(request, "item"))))

    def part(request: Request) -> Response:
        index = session.index(_number(request, "item"))
        tile = _number(request, "tile") if "tile" in request.query_params else 0
        kind = request.path_params["kind"]
        if kind in ("image", "overview"):
            content = session.picture(index, tile) if kind == "image" else session.overview(index)
            return Response(content, media_type="image/jpeg", headers=HEADERS)
        if kind == "layer":
            content = session.layer(index, tile, _number(request, "layer"))
        elif kind in ("mask", "regions"):
            content = session.mask_tile(index, tile) if kind == "mask" else session.regions(index, tile)
        else:
            return _problem(f"{kind}: no such part", 404)
        return Response(content, media_type="image/png", headers=HEADERS)

    async def decide(request: Request) -> Response:
        index, content = session.index(_number(request, "item")), await _body(request)
        decision = request.query_params.get("decision", "")
        if decision not in list(Decision):
            raise RecipeError(f"decision is {decision!r}; choose {', '.join(Decision)}")
        match = request.headers.get("if-match", "").strip('"')
        if not re.fullmatch("[0-9]{1,9}", match):
            return _problem("a decision says which version it is of (If-Match)", 428)
        tile = _number(request, "tile") if "tile" in request.query_params else 0
        entry = await run_in_threadpool(
            session.decide, index, Decision(decision), version=int(match), tile=tile, content=content or None
        )
        return _json({"decision": entry.decision, "version": entry.version, "pixels": entry.pixels})

    return [
        Route("/api/about", about),
        Route("/api/items", items),
        Route("/api/items/{item}", item, methods=["GET"]),
        Route("/api/items/{item}", decide, methods=["PUT"]),
        Route("/api/items/{item}/{kind}", part),
    ]


def _tag_routes(tagging: Tagging) -> list[Route]:
    def about(request: Request) -> Response:
        return _json({"mode": "tag", **tagging.about()})

    def items(request: Request) -> Response:
        return _json(tagging.items(_number(request, "start"), min(_number(request, "count"), 500)))

    def thumb(request: Request) -> Response:
        return Response(tagging.thumbnail(_number(request, "item")), media_type="image/jpeg", headers=HEADERS)

    def suggest(request: Request) -> Response:
        return _json(tagging.suggestions(_number(request, "item")))

    async def tag(request: Request) -> Response:
        try:
            content = json.loads(await _body(request))
        except ValueError as error:
            raise RecipeError(f"tags: no JSON ({error})") from None
        await run_in_threadpool(tagging.tag, content)
        return _json(tagging.about())

    async def start(request: Request) -> Response:
        await run_in_threadpool(tagging.start)
        return _json(tagging.about())

    return [
        Route("/api/about", about),
        Route("/api/items", items),
        Route("/api/items/{item}/thumb", thumb),
        Route("/api/items/{item}/suggest", suggest),
        Route("/api/tags", tag, methods=["PUT"]),
        Route("/api/run", start, methods=["PUT"]),
    ]


async def _body(request: Request) -> bytes:
    """The body of a request. Raises RecipeError for one that is larger than it said."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > LARGEST:
            raise RecipeError(f"a request of more than {LARGEST:,} bytes")
    return bytes(content)


def serve(work: Session | Tagging, *, host: str = "127.0.0.1", port: int = 8080, browse: bool = False) -> None:
    """Serve the page until Ctrl-C. A host that others reach is guarded by a token, which the printed address has.

    Raises RunError if another `bao review` works on the same folder, or another program listens at the port.
    """
    token = None if host in LOCAL else secrets.token_urlsafe(16)
    shown = f"[{host}]" if ":" in host else host
    hosts = () if host in ANY else (*LOCAL, shown.lower())
    make_folder(work.folder)
    with alone(work.folder), _listening(host, port) as listener:
        if isinstance(work, Session):
            rating = threading.Thread(target=lambda: [None for _ in work.rate()], daemon=True)
            rating.start()
            rating.join(HEAD_START)
            work.sort()
        address = f"http://{shown}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")
        progress.say(f"Review: {address}  (Ctrl-C ends it; what was decided is kept)")
        if browse:
            webbrowser.open(address)
        config = uvicorn.Config(application(work, hosts=hosts, token=token), log_level="warning")
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise RecipeError(f"--port: {port}; choose one of 0..{2**16 - 1}, where 0 means any that is free")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise RunError(
            f"{host}:{port}: cannot be listened at ({os.strerror(error.errno or 0)}); choose another --port or --host"
        ) from None
