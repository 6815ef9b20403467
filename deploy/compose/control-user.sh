#!/bin/bash
# Run by the Postgres image when its data directory is new: the control user and its database.
#
# An ordinary user: it may make databases and roles, as managed Postgres allows it, and nothing else.
set -eu

# psql's variables quote themselves; none reaches the command line, where other users could read it
psql --set=ON_ERROR_STOP=1 --quiet --no-psqlrc --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\set password `cat "${TENANTRY_PASSWORD_FILE:-/secrets/tenantry_password}"`
create role tenantry login createdb createrole password :'password';
create database tenantry owner tenantry;
-- Postgres lets every role connect to these, tenants' roles included
revoke connect on database postgres from public;
revoke connect on database template1 from public;
SQL
