"""What can be seen of a process: logs, metrics, health, traces."""
