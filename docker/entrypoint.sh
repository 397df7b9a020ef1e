#!/bin/sh
# One image, several roles: `api` is uvicorn, everything else is a verb of the espalier command.
set -eu
if [ "${1:-api}" = api ]; then
  exec python -P -m uvicorn app.main:create_app --factory \
    --host "${ESPALIER_HOST:-0.0.0.0}" --port "${ESPALIER_PORT:-8000}" \
    --workers "${ESPALIER_API_PROCESSES:-2}" --no-access-log --timeout-graceful-shutdown 20
fi
exec espalier "$@"
