"""The ASGI frame around the pages: starts and stops the store and the jobs, adds headers, the health routes
and those of files to take away.

`streamlit run app.py` finds `app` below. The pages, their gate and their navigation are pages/_router.py.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import streamlit as st
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from cache import demo, instance
from cache.settings import Settings
from pages.parts import frontend, routes
from pages.parts.address import PAGES
from pages.parts.headers import SecurityHeaders

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


@asynccontextmanager
async def lifespan(_: st.App) -> AsyncIterator[None]:
    """Opens the store before the first visitor, closes it after the last."""
    current = instance.current()
    if current.settings.demo:
        demo.seed(current)
    yield
    instance.close()


async def healthz(_: Request) -> JSONResponse:
    """The process answers."""
    return JSONResponse({"status": "ok"})


async def readyz(_: Request) -> JSONResponse:
    """The store answers, and how much there is to do."""
    current = instance.current()
    pairs, active = len(current.store.pairs()), len(current.jobs.active())
    return JSONResponse({"status": "ok", "pairs": pairs, "active_jobs": active})


_BASE = st.get_option("server.baseUrlPath") or ""
_PAGES = ("", *(page for page in PAGES if page != "compare"))  # that one has the address without a name

Settings.from_environment()  # a setting that cannot be meant stops the start, with its name
app = st.App(
    "pages/_router.py",
    lifespan=lifespan,
    routes=[
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        *routes.routes(_BASE),
        *frontend.routes(_PAGES, _BASE),
    ],
    middleware=[Middleware(SecurityHeaders), Middleware(frontend.scripts)],
)
