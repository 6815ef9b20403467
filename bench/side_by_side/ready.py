"""From the event to a ready tenant: one at a time, and many at once."""

from statistics import median

from .figures import Aim, Contest, Side, in_turns
from .run import Run
from .sides import by_hand
from .sides.django import Django
from .sides.fastapi import FastApi
from .sides.readiness import CONNECTIONS
from .sides.tenantry import Tenantry, has_command

POOL, CLONE = "tenantry, from the pool", "tenantry, by clone"
FASTAPI, DJANGO, HAND = "FastAPI + Alembic", "django-tenants", "by hand, a clone"


class Ready:
    """The sides that make tenants, all of them running."""

    def __init__(self, run: Run):
        self.run = run
        sizes = run.sizes
        self.makers = {}
        self.pool_missing = "" if has_command(run.program, "pool") else "this tenantry has no pool"
        if not self.pool_missing:
            self.makers[POOL] = Tenantry(run.program, run.postgres, run.directory, "pooled", sizes.pool)
        self.makers[CLONE] = Tenantry(run.program, run.postgres, run.directory, "cloned", 0)
        self.makers[FASTAPI] = FastApi(run.postgres, run.directory, "fastapi")
        self.makers[DJANGO] = Django(run.postgres, run.directory, "django")
        self.makers[HAND] = by_hand.Tenants(run.postgres)
        for name, maker in self.makers.items():
            run.say(f"starting {name}")
            run.keep(maker)

    def sides(self, *names: str) -> list[Side]:
        kinds = {POOL: "tenantry", CLONE: "tenantry", HAND: "floor"}
        return [
            Side(name, kinds.get(name, "peer"), missing=self.pool_missing if name == POOL else "") for name in names
        ]

    def one_at_a_time(self) -> Contest:
        sides = self.sides(POOL, CLONE, FASTAPI, DJANGO, HAND)
        sides[3].note = "creating the tenant only: it has no webhook"
        takes_part = [side for side in sides if not side.missing]
        for round_ in range(self.run.sizes.rounds):
            self.run.say(f"one at a time, round {round_ + 1}")
            for side in takes_part:
                for _ in range(self.run.sizes.warm_up):
                    self.makers[side.name].make_one()
            taken = {side.name: [] for side in takes_part}
            for turn in range(self.run.sizes.tenants):
                for side in in_turns(takes_part, turn):
                    taken[side.name].append(self.makers[side.name].make_one() * 1000)
            for side in takes_part:
                side.values.append(median(taken[side.name]))
        self.drop_tenants()
        about = (
            "A signed `organization.created`, and the time until its tenant is in `public.tenants` with `initialize`; "
            "nothing else happens meanwhile. "
            f"A value is the median of {self.run.sizes.tenants} tenants of each side, made in turns."
        )
        aims = [Aim(POOL, FASTAPI, 12), Aim(CLONE, FASTAPI, 4)]
        return Contest("ready", "Event to ready tenant, one at a time", "ms", about, sides, aims)

    def at_once(self) -> Contest:
        count = self.run.sizes.at_once
        sides = self.sides(POOL, CLONE, FASTAPI, HAND)
        sides[0].note = f"a pool of {self.run.sizes.pool}, then clones"
        takes_part = [side for side in sides if not side.missing]
        for round_ in range(self.run.sizes.rounds):
            for side in in_turns(takes_part, round_):
                self.run.say(f"{count} at once, round {round_ + 1}: {side.name}")
                maker = self.makers[side.name]
                # the first ones after many drops cost more
                for _ in range(self.run.sizes.warm_up):
                    maker.make_one()
                self.run.postgres.checkpoint()
                side.values.append(count / maker.make_many(count))
                maker.drop_tenants()
        about = (
            f"{count} signed events over {CONNECTIONS} connections; tenants ready a second, from the first event until the "
            "last tenant is ready. "
            f"By hand: {by_hand.HANDS} connections, as many as tenantry runs jobs at once."
        )
        aims = [Aim(CLONE, FASTAPI, 4), Aim(POOL, FASTAPI, 4)]
        return Contest("at_once", f"{count} organizations at once", "tenants/s", about, sides, aims)

    def drop_tenants(self) -> None:
        for name, maker in self.makers.items():
            if name != DJANGO:
                maker.drop_tenants()
