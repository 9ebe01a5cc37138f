"""Pure decisions about jobs: states, retries, uniqueness. No I/O, no clock: ``now`` is an argument."""
