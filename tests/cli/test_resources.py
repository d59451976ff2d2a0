"""The limits of control groups are found in both of their versions."""

import pytest

from bids_flair.cli import resources


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Write the files of a made-up control group hierarchy, and name the group of this process."""

    def write(membership, **files):
        for name, text in files.items():
            path = tmp_path / name.replace('__', '/').replace('_dot_', '.')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / 'membership').write_text(membership)

    monkeypatch.setattr(resources, 'CGROUP_FILE', tmp_path / 'membership')
    monkeypatch.setattr(resources, 'CGROUP_ROOT', tmp_path)
    monkeypatch.setattr(resources.os, 'sched_getaffinity', lambda _: set(range(16)), raising=False)
    return write


def test_without_a_quota_the_affinity_counts(groups):
    groups('0::/\n', cpu_dot_max='max 100000\n')
    assert resources.usable_cpus() == 16


@pytest.mark.parametrize(('quota', 'cpus'), [('350000 100000', 3), ('50000 100000', 1)])
def test_quota_of_a_group_that_holds_this_one(groups, quota, cpus):
    groups('0::/job/step\n', job__cpu_dot_max=quota, job__step__cpu_dot_max='max 100000')
    assert resources.usable_cpus() == cpus


def test_quota_in_version_one(groups):
    groups(
        '3:memory:/\n2:cpu,cpuacct:/\n',
        **{
            'cpu,cpuacct__cpu_dot_cfs_quota_us': '400000',
            'cpu,cpuacct__cpu_dot_cfs_period_us': '100000',
        },
    )
    assert resources.usable_cpus() == 4


def test_memory_limit_of_the_group(groups):
    groups('0::/job\n', job__memory_dot_max='50000000')
    assert resources.usable_memory_gb() == pytest.approx(0.045)


def test_memory_limit_in_version_one(groups):
    groups('4:memory:/job\n', memory__job__memory_dot_limit_in_bytes='20000000')
    assert resources.usable_memory_gb() == pytest.approx(0.018)


def test_without_a_limit_free_memory_counts(groups):
    groups('0::/\n', memory_dot_max='max')
    assert 0.1 < resources.usable_memory_gb() < 1e5


def test_no_control_groups_at_all(groups):
    assert resources.usable_cpus() == 16
