"""The Starlette app: which path is answered by what."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from node.web.reception import RequestRefused
from node.web.stow import StowService, error_response, fault_response


def make_app(stow: StowService, further: Sequence[Route] = ()) -> Starlette:
    """All that the HTTP server serves; `further` are pages of other rooms."""
    return Starlette(
        routes=[
            Route("/studies", stow.store, methods=["POST"]),
            Route("/studies/{study}", stow.store, methods=["POST"]),
            Route("/health", _health, methods=["GET"]),
            *further,
        ],
        exception_handlers={HTTPException: _refuse, Exception: _fail},
    )


async def _health(request: Request) -> Response:
    """Whether the process is alive; says nothing of anybody."""
    return JSONResponse({"status": "ok"})


async def _refuse(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = {404: ("not-found", "there is nothing here"), 405: ("method", "this path has no such method")}
    code, message = words.get(status, ("refused", "the request is refused"))
    answer = error_response(RequestRefused(status, code, message))
    if isinstance(error, HTTPException) and error.headers:
        answer.headers.update(error.headers)
    return answer


async def _fail(request: Request, error: Exception) -> Response:
    return fault_response(error)
