"""The management API: REST under `/api/v1`, the same at both sockets but for who is believed to ask."""

from pathlib import Path

from fastapi import FastAPI

from keytoll.http.contract.common import About
from keytoll.http.errors import add_error_handlers
from keytoll.http.guard import Guard
from keytoll.http.openapi import describe
from keytoll.http.pages import Pages
from keytoll.http.resources import audit, books, keys, owners, session
from keytoll.http.sign_in import Gate
from keytoll.management import Management
from keytoll.metrics import Metrics

_ROUTERS = (*session.ROUTERS, *owners.ROUTERS, *keys.ROUTERS, *books.ROUTERS, *audit.ROUTERS)


def create_api(
    management: Management, *, about: About, gate: Gate, metrics: Metrics, console: Path | None = None
) -> FastAPI:
    """Return the app; `gate` says who asks. With the folder of the console, its pages are served as well."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.management = management
    app.state.about = about
    app.state.gate = gate
    # Themselves, not by include_router, which would put something else in their place: their class is what guards them.
    app.router.routes.extend(route for router in _ROUTERS for route in router.routes)
    if console is not None:
        app.add_middleware(Pages, folder=console)
    app.add_middleware(Guard, metrics=metrics)
    add_error_handlers(app)
    document = describe(app)
    app.openapi = lambda: document  # type: ignore[method-assign]
    return app
