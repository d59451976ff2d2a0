"""What this process may use of the machine: on a cluster, less than what the machine has."""

import os
from pathlib import Path

CGROUP_FILE = Path('/proc/self/cgroup')
CGROUP_ROOT = Path('/sys/fs/cgroup')
SHARE_OF_MEMORY = 0.9


def usable_cpus() -> int:
    """Processors this process may run on: its affinity, and the quota of its control groups."""
    # macOS has no affinity.
    pinned = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return max(1, int(min([pinned or 1, *_cpu_quotas()])))


def usable_memory_gb() -> float:
    """90 % of the memory that is free, or of what the control groups allow, in GB (1e9 bytes)."""
    import psutil

    return SHARE_OF_MEMORY * min([psutil.virtual_memory().available, *_memory_limits()]) / 1e9


def _cpu_quotas() -> list[float]:
    # Version 2 has "QUOTA PERIOD" in one file, version 1 a file for each; "max" and -1: no quota.
    pairs = []
    for group in _control_groups('cpu'):
        pairs.append(_words(group / 'cpu.max'))
        pairs.append(_words(group / 'cpu.cfs_quota_us') + _words(group / 'cpu.cfs_period_us'))
    return [int(pair[0]) / int(pair[1]) for pair in pairs if pair and pair[0].isdigit()]


def _memory_limits() -> list[int]:
    names = ('memory.max', 'memory.limit_in_bytes')
    words = [_words(group / name) for group in _control_groups('memory') for name in names]
    return [int(found[0]) for found in words if found and found[0].isdigit()]


def _control_groups(controller: str) -> list[Path]:
    """Folders of this process's control group and of the groups that hold it, both versions."""
    if not CGROUP_FILE.exists():
        return []
    folders = []
    for line in CGROUP_FILE.read_text().splitlines():
        _, controllers, path = line.split(':', 2)
        if controllers and controller not in controllers.split(','):
            continue
        group = Path(path.lstrip('/'))
        folders += [CGROUP_ROOT / controllers / part for part in (group, *group.parents)]
    return folders


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []
