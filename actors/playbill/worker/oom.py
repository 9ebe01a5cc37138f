"""How often the kernel has killed something in our cgroup for want of memory."""

from __future__ import annotations

from pathlib import Path

#: The counters of cgroup v2 and v1, as a container sees its own cgroup.
_SOURCES = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


def oom_kills(sources: tuple[Path, ...] = _SOURCES) -> int:
    """The ``oom_kill`` counter; 0 where the machine shows none. Compare two readings, never one."""
    for source in sources:
        try:
            text = source.read_text(encoding="ascii")
        except OSError:
            continue
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.strip().isdigit():
                return int(value)
    return 0
