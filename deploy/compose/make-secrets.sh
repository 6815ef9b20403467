#!/bin/sh
# Makes the secrets of this deployment, once, in the volume `secrets`: nothing secret is in a file of the repository.
#
# Each file belongs to whoever reads it: 999 is Postgres in its image, 1001 is tenantry.
set -eu
cd "${SECRETS:-/secrets}"
umask 077

random() { head -c "$1" /dev/urandom | base64 | tr -d '\n'; }
# hexadecimal: it stands in a URL
word() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

# a run that was cut off is begun again; one that ended is never repeated: the keys open the tenants' passwords
if [ ! -e complete ]; then
    word >postgres_password
    word >tenantry_password
    printf 'postgresql://tenantry:%s@postgres:5432/tenantry' "$(cat tenantry_password)" >database_url
    printf 'k1:%s' "$(random 32)" >keys
    printf 'whsec_%s' "$(random 24)" >webhook_secret
    chown 999:999 postgres_password tenantry_password
    chown 1001:1001 database_url keys webhook_secret
    chmod 0400 postgres_password tenantry_password database_url keys webhook_secret
    chmod 0755 .
    touch complete
fi
