"""Asks a model every item of its suites, a bounded number at a time, and keeps each outcome as it finishes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from outrider.errors import EndpointError, SuiteError
from outrider.evals.model import Answer, AnswerFailed, Model, Prices
from outrider.evals.outcomes import Outcome, OutcomeLog
from outrider.evals.suite import Item, Suite

__all__ = ["Progress", "configuration", "evaluate"]

Progress = Callable[[Outcome, int, int], None]
"""Called with an outcome, the number of items done, and the number of all."""

GIVE_UP_AFTER = 25


def configuration(model: Model, suites: Sequence[Suite], prices: Prices | None) -> dict[str, object]:
    """What makes two runs the same run: model, suites with their hashes and sampling, prices.

    Raises SuiteError where two suites share a name.
    """
    names = [suite.name for suite in suites]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SuiteError(f"two suites are named '{twice}'; outcomes are kept by name, so rename one", param="name")
    return {
        **model.about(),
        "suites": {suite.name: suite.hash for suite in suites},
        "sampling": {suite.name: suite.sampling.model_dump() for suite in suites},
        "prices_usd_per_million": None
        if prices is None
        else {"input": round(prices.input_usd * 1e6, 9), "output": round(prices.output_usd * 1e6, 9)},
    }


async def evaluate(
    model: Model,
    suites: Sequence[Suite],
    log: OutcomeLog,
    *,
    limit: int | None = None,
    concurrency: int = 8,
    prices: Prices | None = None,
    give_up_after: int = GIVE_UP_AFTER,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Ask what `log` does not hold yet (an `error` of an earlier run is asked again); outcomes in the suites' order.

    Raises EndpointError when the model refuses every request, or gave no answer to `give_up_after` (0: never) items
    in a row; whatever ends it, finished outcomes are in the log.
    """
    asked = [(suite, index, item) for suite in suites for index, item in _chosen(suite, limit)]
    finished = {key for key, outcome in log.done.items() if outcome.outcome != "error"}
    todo = [each for each in asked if (each[0].name, each[2].id) not in finished]
    done, failing = len(asked) - len(todo), 0
    waiting = iter(todo)

    async def work() -> None:
        nonlocal done, failing
        for suite, index, item in waiting:  # shared by all workers: each takes the next
            outcome = await _outcome(model, suite, index, item, prices)
            log.add(outcome)
            done += 1
            failing = failing + 1 if outcome.outcome == "error" else 0
            if progress is not None:
                progress(outcome, done, len(asked))
            if give_up_after and failing >= give_up_after:
                raise EndpointError(
                    f"no answer to {failing} items in a row; the last time: {outcome.why}. "
                    "What is done is kept: the same command goes on from there"
                )

    await _together(work() for _ in range(min(concurrency, len(todo))))
    return [log.done[suite.name, item.id] for suite, _, item in asked]


def _chosen(suite: Suite, limit: int | None) -> list[tuple[int, Item]]:
    """The items to ask with their places in the whole suite, which their seeds come from."""
    wanted = {item.id for item in suite.sample(limit)}
    return [(index, item) for index, item in enumerate(suite.items) if item.id in wanted]


async def _outcome(model: Model, suite: Suite, index: int, item: Item, prices: Prices | None) -> Outcome:
    blank = Outcome(suite.name, item.id, item.digest, suite.domain, item.group, "error")
    try:
        answer = await model.answer(item.messages, suite.sampling, suite.sampling.seed + index, suite.domain)
    except AnswerFailed as failure:
        return replace(blank, why=failure.message)
    verdict = await asyncio.to_thread(item.check.judge, answer.text)
    why = verdict.why
    if not verdict.correct and answer.finish == "length":
        why += f" (cut off at {suite.sampling.max_tokens} tokens)"
    return _filled(replace(blank, outcome="correct" if verdict.correct else "wrong", why=why), answer, prices)


def _filled(outcome: Outcome, answer: Answer, prices: Prices | None) -> Outcome:
    return replace(
        outcome,
        answer=answer.text,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        first_s=None if answer.first_s is None else round(answer.first_s, 6),
        total_s=round(answer.total_s, 6),
        cost_usd=prices.cost_usd(answer) if prices else answer.cost_usd,
        finish=answer.finish,
        served_by=answer.served_by,
    )


async def _together(workers: Iterable[object]) -> None:
    """All workers to their end; the first that raises ends the others, and its error is the one that is raised."""
    tasks = [asyncio.ensure_future(worker) for worker in workers]  # type: ignore[call-overload]
    try:
        for each in asyncio.as_completed(tasks):
            await each
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
