"""The webhook: verified, recorded once, queued in the same transaction.

Guarantees: 2xx only after the commit; an event that comes twice is queued once.
"""

import hashlib
import hmac
import time
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

import settings

SEEN = text("select 1 from webhook_idempotency where webhook_id = :id")
MARK = text(
    "insert into webhook_idempotency (webhook_id, event_type, status) values (:id, :type, 'processing') "
    "on conflict (webhook_id) do nothing returning webhook_id"
)
ENQUEUE = text("insert into provisioning_jobs (webhook_id, org_id, org_name) values (:id, :org, :name)")
NOTIFY = text("select pg_notify('provisioning_jobs', '')")

engine = create_async_engine(
    settings.DATABASE_URL.replace("postgresql://", "postgresql+asyncpg://"),
    pool_size=settings.CONNECTIONS,
    max_overflow=0,
)
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Organization(BaseModel):
    id: str
    name: str


class Event(BaseModel):
    id: str
    event: str
    data: dict[str, Any]


@asynccontextmanager
async def lifespan(_: FastAPI):
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None)


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/webhooks/workos")
async def webhook(request: Request) -> dict[str, str]:
    body = await request.body()
    if not is_signed(request.headers.get("workos-signature", ""), body):
        raise HTTPException(401, "invalid signature")
    try:
        event = Event.model_validate_json(body)
        if event.event != "organization.created":
            return {"status": "ignored"}
        organization = Organization.model_validate(event.data)
    except ValidationError as error:
        raise HTTPException(400, "malformed event") from error
    await accept(event, organization)
    return {"status": "ok"}


def is_signed(header: str, body: bytes) -> bool:
    try:
        parts = dict(part.strip().split("=", 1) for part in header.split(","))
        at, received = int(parts["t"]), parts["v1"]
    except (KeyError, ValueError):
        return False
    if abs(time.time() - at / 1000) > settings.TOLERANCE_S:
        return False
    expected = hmac.new(settings.SECRET, f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, received)


async def accept(event: Event, organization: Organization) -> None:
    async with sessions() as session:
        # a read first: what is delivered again writes nothing
        if (await session.execute(SEEN, {"id": event.id})).first():
            return
        if (await session.execute(MARK, {"id": event.id, "type": event.event})).first():
            await session.execute(ENQUEUE, {"id": event.id, "org": organization.id, "name": organization.name})
            await session.execute(NOTIFY)
        await session.commit()
