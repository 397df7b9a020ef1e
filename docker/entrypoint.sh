#!/bin/sh
# One image, several roles: `api` serves HTTP, everything else is a verb of the espalier command.
set -eu
# Kubernetes sets this in every pod beside a Service named `espalier`; it is no port.
case "${ESPALIER_PORT:-}" in tcp://* | udp://*) unset ESPALIER_PORT ;; esac
if [ "${1:-api}" = api ]; then
  # Said once and in one line: uvicorn would start a process that cannot serve again and again.
  python -P -m app.production
  export ESPALIER_HOST="${ESPALIER_HOST:-0.0.0.0}" ESPALIER_API_PROCESSES="${ESPALIER_API_PROCESSES:-2}"
  exec python -P -m app.server
fi
exec espalier "$@"
