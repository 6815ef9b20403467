"""dbmate for one database after the other, as a shell script has it."""

from pathlib import Path

from .. import processes, work

TABLE = "dbmate_migrations"


class Loop:
    """A directory of migrations in dbmate's format."""

    name = "dbmate"

    def __init__(self, directory: Path):
        self.directory = directory / self.name
        self.directory.mkdir()
        self.write(work.migrations())
        versions = ", ".join(f"('{script.number}')" for script in work.migrations())
        self.ledger = f"create table {TABLE} (version varchar(128) primary key); insert into {TABLE} values {versions};"

    def write(self, scripts) -> None:
        for script in scripts:
            (self.directory / f"{script.name}.sql").write_text(f"-- migrate:up\n{script.text}\n-- migrate:down\n")

    def release(self, number: int) -> None:
        self.write([work.release(self.name, number)])

    def migrate(self, urls: list[str]) -> None:
        options = [f"--migrations-dir={self.directory}", f"--migrations-table={TABLE}", "--no-dump-schema"]
        for url in urls:
            processes.run(["dbmate", *options, "migrate"], {"DATABASE_URL": f"{url}?sslmode=disable"})
