#!/bin/sh
# One image, several roles: `api` is uvicorn, everything else is a verb of the espalier command.
set -eu
# Kubernetes sets this in every pod beside a Service named `espalier`; it is no port.
case "${ESPALIER_PORT:-}" in tcp://* | udp://*) unset ESPALIER_PORT ;; esac
if [ "${1:-api}" = api ]; then
  # Said once and in one line: uvicorn would start a process that cannot serve again and again.
  python -P -m app.production
  exec python -P -m uvicorn app.main:create_app --factory \
    --host "${ESPALIER_HOST:-0.0.0.0}" --port "${ESPALIER_PORT:-8000}" \
    --workers "${ESPALIER_API_PROCESSES:-2}" --no-access-log --timeout-graceful-shutdown 20
fi
exec espalier "$@"
