"""What every process of the service stands on: logs, traces, ids, calls to strangers, turns."""
