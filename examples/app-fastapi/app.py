"""An application of many tenants: a request works in the database of its tenant, and in no other.

Who asks and for which tenant is in the headers of the proxy, which asked tenantry. Whoever reaches this
process past the proxy can write these headers too: it listens on the loopback.
"""

import asyncio
import contextlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated

import httpx
import psycopg
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

TENANTRY = os.environ.get("TENANTRY_URL", "http://127.0.0.1:8420")
# with the scope tenants:connect and no other
KEY = os.environ["TENANTRY_KEY"]
# tenants with open connections at once, and connections of each: together less than Postgres has
POOLS = int(os.environ.get("POOLS", "50"))
POOL_SIZE = int(os.environ.get("POOL_SIZE", "4"))


@dataclass(frozen=True)
class Tenant:
    id: str
    database: str


class Entry:
    def __init__(self, opening: asyncio.Task):
        self.opening = opening
        self.users = 0
        self.is_out = False


class Pools:
    """A small pool for each of the tenants that were asked for last.

    One is made once, however many requests wait for it. The one that was not used for longest is closed
    when there are too many, but never under a request that uses it.
    """

    def __init__(self, client: httpx.AsyncClient):
        self._client = client
        self._entries: OrderedDict[Tenant, Entry] = OrderedDict()
        self._closing: set[asyncio.Task] = set()

    @contextlib.asynccontextmanager
    async def connection(self, tenant: Tenant):
        # nothing is awaited between looking and putting: nobody comes in between
        entry = self._entries.get(tenant)
        if entry is None:
            entry = Entry(asyncio.create_task(self._open(tenant)))
            self._entries[tenant] = entry
        self._entries.move_to_end(tenant)
        entry.users += 1
        while len(self._entries) > POOLS:
            self._take_out(next(iter(self._entries)))
        try:
            # shielded: who goes away must not take the pool from those who wait for it too
            pool = await asyncio.shield(entry.opening)
            async with pool.connection() as connection:
                yield connection
        except (httpx.HTTPError, psycopg.OperationalError) as error:
            # the password may be a new one: then the next request asks for it
            if self._entries.get(tenant) is entry and not self._is_only_busy(entry, error):
                self._take_out(tenant)
            raise HTTPException(503, "the tenant's database cannot be reached", {"Retry-After": "2"}) from error
        finally:
            entry.users -= 1
            self._close_if_unused(entry)

    async def close(self):
        for tenant in list(self._entries):
            self._take_out(tenant)
        await asyncio.gather(*self._closing)

    def status(self) -> int:
        return len(self._entries)

    async def _open(self, tenant: Tenant) -> AsyncConnectionPool:
        answer = await self._client.get(f"/v1/tenants/{tenant.id}/connection")
        answer.raise_for_status()
        told = answer.json()
        if told["database"] != tenant.database:
            raise httpx.HTTPError("the tenant has another database now")
        pool = AsyncConnectionPool(
            told["url"],
            kwargs={"row_factory": dict_row},
            min_size=0,
            max_size=POOL_SIZE,
            max_idle=60,
            timeout=5,
            open=False,
        )
        await pool.open()
        return pool

    def _take_out(self, tenant: Tenant):
        entry = self._entries.pop(tenant)
        entry.is_out = True
        self._close_if_unused(entry)

    def _close_if_unused(self, entry: Entry):
        if not entry.is_out or entry.users:
            return
        closing = asyncio.create_task(self._finish(entry))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    @staticmethod
    def _is_only_busy(entry: Entry, error: Exception) -> bool:
        # a pool that cannot connect lets those who ask wait, too
        return isinstance(error, PoolTimeout) and not entry.opening.result().get_stats().get("connections_errors")

    @staticmethod
    async def _finish(entry: Entry):
        with contextlib.suppress(Exception):
            await (await entry.opening).close()


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI):
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=TENANTRY, headers=headers, timeout=5) as client:
        app.state.pools = Pools(client)
        yield
        await app.state.pools.close()


app = FastAPI(lifespan=lifespan)


async def tenant(
    x_tenant_id: Annotated[str | None, Header()] = None,
    x_tenant_database: Annotated[str | None, Header()] = None,
) -> Tenant:
    if not x_tenant_id or not x_tenant_database:
        raise HTTPException(403, "no tenant: this application is asked through the proxy")
    return Tenant(x_tenant_id, x_tenant_database)


@app.get("/healthz")
async def healthz():
    """Public: access.public_paths of tenantry names it."""
    return {"status": "ok", "pools": app.state.pools.status()}


@app.get("/people")
async def people(tenant: Annotated[Tenant, Depends(tenant)]):
    async with app.state.pools.connection(tenant) as connection:
        found = await connection.execute(
            """
            select external_id as id, display_name as name, email, role
            from users
            where removed_at is null
            order by display_name, id
            """
        )
        return await found.fetchall()


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), proxy_headers=False)
