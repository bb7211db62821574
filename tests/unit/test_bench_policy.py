"""The benchmark of policy sizes reads what it says it reads."""

from __future__ import annotations

from outrider.bench.policy import composed, measure_policy
from outrider.policy import parse_policies


def test_documents_have_the_tenants_asked_for() -> None:
    sources = composed(25, 3)
    report = parse_policies(sources[0], sources[1:])
    assert report.problems == ()
    assert report.policy is not None
    assert len(report.policy.tenants) == 25
    assert len({tenant.team for tenant in report.policy.tenants.values()}) == 4
    assert report.policy.tenants["tenant-24"].limits.budgets


def test_each_size_is_a_row() -> None:
    table = measure_policy(tenants=[3, 30], teams=2, repetitions=1, say=lambda line: None).tables[0]
    assert [row[:2] for row in table.rows] == [(3, 3), (30, 3)]
