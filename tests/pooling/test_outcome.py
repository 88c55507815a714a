"""What a search leaves behind."""

from lptool.pooling.outcome import Incumbent, Outcome, SearchTrace, Step
from lptool.scoring.score import Score


def step(candidate: int, accepted: bool, *correct: int) -> Step:
    return Step(candidate, 0.5, accepted, None, tuple((0.5, Score(c, 1.0, 10)) for c in correct))


def test_the_scores_of_an_outcome_are_those_of_its_ranking_and_its_attempts_in_order() -> None:
    best = Incumbent({}, {}, Score(9, 1.0, 10), recalibrated=True)
    outcome = Outcome("soup", best, (step(0, True, 5, 6), step(1, False, 7)), ranked=(Score(4, 1.0, 10),))
    assert [score.correct for score in outcome.scores] == [4, 5, 6, 7]


def test_the_steps_accepted_are_those_that_made_the_result() -> None:
    start, steps = Score(5, 1.0, 10), (step(0, True), step(1, False), step(2, True))
    trace = SearchTrace(
        method="auto",
        chosen="greedy",
        target=3,
        alphas=(0.5,),
        ticket=start,
        ticket_bn=None,
        start=start,
        steps=steps,
        coefficients=None,
        outcomes={},
        evaluations=4,
        not_finite=0,
    )
    assert [step.candidate for step in trace.accepted] == [0, 2]
