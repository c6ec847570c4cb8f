#!/usr/bin/env bash
# Writes what deploy/compose.yaml needs and nobody else may know: deploy/.env and deploy/secrets/, with random passwords and
# keys. Run again, it changes nothing that is there: SERVER_KEY and the database's password can't be made anew.
#
#   deploy/compose-env.sh [PUBLIC_URL]      default: http://localhost:8080
#
# WORKER_AGENTS is deploy/secrets/worker_agents, `[]` at first. Back up deploy/secrets together with the database.
set -euo pipefail
cd "$(dirname "$0")"
umask 077

public_url=${1:-http://localhost:8080}
mkdir -p secrets

# The directory keeps others of this host out (0700). The files can be read by the server's user in its container, which is
# nobody's here.
secret() {
    [[ -s secrets/$1 ]] && return
    printf '%s\n' "$2" >"secrets/$1.new"
    chmod 0644 "secrets/$1.new"
    mv "secrets/$1.new" "secrets/$1"
}
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

secret postgres_password "$(random)"
secret database_url "postgres://clarateach:$(<secrets/postgres_password)@postgres:5432/clarateach"
secret server_key "$(random)"
secret admin_token "$(random)"
secret scrape_token "$(random)"
secret worker_agents '[]'

if [[ ! -e .env ]]; then
    cat >.env.new <<TXT
SECRETS_DIR=$PWD/secrets
PUBLIC_URL=$public_url
# LISTEN=127.0.0.1:8080
# TRUSTED_PROXIES=
# PREVIEW_DOMAIN=
# SERVER_IMAGE=clarateach-control-plane
# POSTGRES_IMAGE=postgres:17-bookworm
TXT
    mv .env.new .env
fi
echo "deploy/.env and deploy/secrets/ are there. The admin's token: $PWD/secrets/admin_token"
