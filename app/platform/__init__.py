"""The platform of every process: logs, traces, ids, outbound calls, fair queueing."""
