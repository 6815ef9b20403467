"""The worker: claims a job, makes the tenant, settles the job.

Guarantees: one job has one worker while its lease is renewed; a tenant that fails is taken back and tried again.
"""

import asyncio
import multiprocessing
import re
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import asyncpg

import settings
from migrations import upgrade, warm_up

CLAIM = """
    update provisioning_jobs
    set status = 'running', attempts = attempts + 1, locked_until = now() + make_interval(secs => $1)
    where id = (
        select id
        from provisioning_jobs
        where (status = 'queued' and run_after <= now()) or (status = 'running' and locked_until < now())
        order by run_after, id
        limit 1
        for update skip locked
    )
    returning id, webhook_id, org_id, org_name, attempts
"""
RENEW = "update provisioning_jobs set locked_until = now() + make_interval(secs => $2) where id = $1"
DONE = "update provisioning_jobs set status = 'done', locked_until = null where id = $1"
FAILED = """
    update provisioning_jobs
    set status = case when attempts >= $3 then 'dead' else 'queued' end,
        last_error = $2, locked_until = null, run_after = now() + make_interval(secs => 2 ^ attempts)
    where id = $1
"""
PROCESSED = "update webhook_idempotency set status = 'completed', processed_at = now() where webhook_id = $1"
REGISTER = """
    insert into tenants (org_id, name, url, database, username)
    values ($1, $2, $3, $4, current_user)
    on conflict (org_id) do update set name = tenants.name
    returning id, initialize
"""
READY = "update tenants set initialize = true, alembic_version = $2 where id = $1"
AUDIT = "insert into audit_log (org_id, action) values ($1, 'tenant.provisioned')"
PARAMETERS = """
    select set_config('tenantry.tenant_id', $1, true), set_config('tenantry.tenant_url', $2, true),
           set_config('tenantry.organization_id', $3, true), set_config('tenantry.organization_name', $4, true),
           set_config('tenantry.source', 'workos', true)
"""


def read_scripts(kind: str) -> list[str]:
    return [path.read_text() for path in sorted(Path(settings.SEED_DIRECTORY).glob(f"{kind}/**/*.sql"))]


class Worker:
    def __init__(self):
        self.processes = ProcessPoolExecutor(
            settings.MIGRATION_PROCESSES, multiprocessing.get_context("spawn"), warm_up
        )
        self.called = asyncio.Event()
        self.is_stopping = False
        self.seeds = read_scripts("seed")
        self.checks = read_scripts("verify")

    async def run(self) -> None:
        # connections to create databases with, to claim with, and to hold locks with
        self.pool = await asyncpg.create_pool(settings.DATABASE_URL, min_size=4, max_size=3 * settings.JOBS_AT_ONCE)
        loop = asyncio.get_running_loop()
        started = (loop.run_in_executor(self.processes, warm_up) for _ in range(settings.MIGRATION_PROCESSES))
        await asyncio.gather(*started)
        listener = await asyncpg.connect(settings.DATABASE_URL)
        await listener.add_listener("provisioning_jobs", lambda *_: self.called.set())
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        print("ready", flush=True)
        await asyncio.gather(*(self.work() for _ in range(settings.JOBS_AT_ONCE)))
        await listener.close()
        await self.pool.close()
        self.processes.shutdown(cancel_futures=True)

    def stop(self) -> None:
        self.is_stopping = True
        self.called.set()

    async def work(self) -> None:
        while not self.is_stopping:
            job = await self.pool.fetchrow(CLAIM, float(settings.LEASE_S))
            if job:
                await self.settle(job)
                continue
            try:
                # called, or a look once a second
                await asyncio.wait_for(self.called.wait(), 1.0)
                if not self.is_stopping:
                    self.called.clear()
            except TimeoutError:
                pass

    async def settle(self, job: asyncpg.Record) -> None:
        renewing = asyncio.create_task(self.renew(job["id"]))
        try:
            await self.provision(job["org_id"], job["org_name"])
            async with self.pool.acquire() as connection, connection.transaction():
                await connection.execute(DONE, job["id"])
                await connection.execute(PROCESSED, job["webhook_id"])
        except Exception as error:
            print(f"job {job['id']} failed: {error!r}", flush=True)
            await self.pool.execute(FAILED, job["id"], repr(error), settings.MAX_ATTEMPTS)
        finally:
            renewing.cancel()

    async def renew(self, job: int) -> None:
        while True:
            await asyncio.sleep(settings.LEASE_S / 3)
            await self.pool.execute(RENEW, job, float(settings.LEASE_S))

    async def provision(self, organization: str, name: str) -> None:
        async with self.pool.acquire() as connection:
            # one provisioning of an organization at a time
            await connection.execute("select pg_advisory_lock(hashtextextended($1, 0))", organization)
            try:
                await self.provision_locked(organization, name)
            finally:
                await connection.execute("select pg_advisory_unlock(hashtextextended($1, 0))", organization)

    async def provision_locked(self, organization: str, name: str) -> None:
        slug = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:55]
        database = f"tenant_{slug}"
        tenant = await self.pool.fetchrow(REGISTER, organization, name, slug, database)
        if tenant["initialize"]:
            return
        await self.pool.execute(f'create database "{database}"')
        try:
            url = settings.tenant_url(database)
            loop = asyncio.get_running_loop()
            version = await loop.run_in_executor(self.processes, upgrade, url, "head")
            await self.seed(url, (str(tenant["id"]), f"{slug}.localhost", organization, name))
        except BaseException:
            await self.pool.execute(f'drop database "{database}" with (force)')
            raise
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(READY, tenant["id"], version)
            await connection.execute(AUDIT, organization)

    async def seed(self, url: str, parameters: tuple[str, ...]) -> None:
        connection = await asyncpg.connect(url)
        try:
            async with connection.transaction():
                await connection.execute(PARAMETERS, *parameters)
                for script in self.seeds:
                    await connection.execute(script)
                for script in self.checks:
                    problem = await connection.fetchval(script)
                    if problem:
                        raise RuntimeError(problem)
        finally:
            await connection.close()


if __name__ == "__main__":
    asyncio.run(Worker().run())
