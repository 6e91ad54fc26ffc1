"""Each rule of the adaptive reward, alone: what makes a weight stricter, what never relaxes it, what a model must pass, and that
the whole is a fold over rows."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.errors import RecipeError
from temper.rewards import adapt, features
from temper.rewards.adapt import Arc, Change, State, advance, begin, choose, opinions, weights
from temper.rewards.audits import Audit, audits_of, corrected, debiased, draw, propensities, upfront
from temper.rewards.heads import fit
from temper.rewards.release import Quality, held_out, quality, worse
from temper.types import Completion, Example

Row = dict[str, Any]
ARC = Arc(auditor="judge", labels=600, upfront=100, refresh_every=1, refit=False, sensitivity=1.0, specificity=1.0)
HACKS = {"stuffing": 0.8, "prefix": 0.5}


def row(cls: str = "harmful", bad: float | None = None, *, audited: bool = True, n: int = 0, **changed: Any) -> Row:
    """A journal row; audited as by an auditor that draws every row once."""
    base = {
        "id": f"{cls}-{n // 4}",
        "class": cls,
        "reasoning": "",
        "answer": f"{cls} {n}",
        "flags": {},
        "learned": None,
        "audit": {"value": bad, "expected": 1.0, "count": 1} if audited else None,
        "scores": {"helpful": {"value": 0.5}},
        "weights": {"helpful": 1.0},
        "penalties": {},
        "reward": 0.5,
    }
    return {**base, **changed}


def batch(harmful: float | None, benign: float | None, n: int = 20, **changed: Any) -> list[Row]:
    """Rows of which a given share is bad, in both classes; None for an auditor that failed."""
    shares = {"harmful": harmful, "benign": benign}
    return [
        row(cls, None if share is None else float(i < round(share * n)), n=i, **changed)
        for cls, share in shares.items()
        for i in range(n)
    ]


def nothing_fails(state: State) -> Sequence[str]:
    return []


def fold(
    steps: Sequence[Sequence[Mapping[str, Any]]],
    arc: Arc = ARC,
    state: State | None = None,
    examine: Callable[[State], Sequence[str]] = nothing_fails,
) -> tuple[State, list[Change]]:
    """Advance over steps 1, 2, …; what a run does."""
    now, changes = state or begin(arc, penalty=1.0, recall=HACKS, steps=100), []
    for number, rows in enumerate(steps, 1):
        now, more = advance(now, rows, arc, step=number, seed=0, examine=examine)
        changes += more
    return now, changes


# --- settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"auditor": ""}, "auditor is missing"),
        ({"labels": 0, "upfront": 0}, "labels = 0"),
        ({"upfront": 601}, "upfront = 601; wanted 0 to labels"),
        ({"heads": 1}, "heads = 1"),
        ({"ceiling": 0.5}, "ceiling = 0.5"),
        ({"target_harm": 0.0}, "target_harm"),
        ({"sensitivity": 0.55, "specificity": 0.6}, "no rate by such an auditor can be corrected"),
    ],
)
def test_a_setting_out_of_range_is_refused_in_words(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        replace(ARC, **wrong).check()


def test_a_detector_that_never_saw_its_hack_is_refused_since_no_penalty_would_deter() -> None:
    with pytest.raises(RecipeError, match="recall of 0"):
        begin(ARC, penalty=1.0, recall={"stuffing": 0.0}, steps=10)


# --- multipliers, docs/science.md 3.3.4 -----------------------------------------------------------------------------------


def test_a_multiplier_follows_the_audited_rate_above_its_target() -> None:
    state, [change] = fold([batch(0.25, 0.05)], replace(ARC, step=1.0))
    assert state.multipliers["harmful"] == pytest.approx(math.exp(1.0 * (0.25 - 0.05)))
    assert state.multipliers["benign"] == 1.0
    assert (change.kind, change.subject, change.data["from"]) == ("multiplier changed", "harmful", 1.0)


def test_a_rate_is_freed_of_the_auditors_errors_before_it_moves_a_weight() -> None:
    seen = 0.25 * 0.9 + 0.75 * 0.05  # what an auditor with these errors says of a true 25 %
    assert corrected(seen, 0.9, 0.95) == pytest.approx(0.25)
    state, _ = fold([batch(0.25, 0.05)], replace(ARC, sensitivity=0.9, specificity=0.95, step=1.0))
    true = (0.25 - 0.05) / (0.9 + 0.95 - 1)
    assert state.multipliers["harmful"] == pytest.approx(math.exp(1.0 * (true - 0.05)))


def test_a_policy_that_starts_far_above_the_target_does_not_drive_a_multiplier_to_its_ceiling_at_once() -> None:
    state, _ = fold([batch(0.75, 0.05)])
    assert state.multipliers["harmful"] == 1.25
    state, _ = fold([batch(0.75, 0.05)] * 9)
    assert state.multipliers["harmful"] == ARC.ceiling


def test_a_multiplier_waits_while_the_rate_comes_down_by_itself() -> None:
    falling = [0.75, 0.45, 0.3, 0.2, 0.12]
    state, _ = fold([batch(rate, 0.05) for rate in falling])
    assert state.multipliers["harmful"] == 1.25, "only the first refresh, which had nothing to compare with"
    stuck, _ = fold([batch(0.75, 0.05), *[batch(0.3, 0.05)] * 6])
    assert stuck.multipliers["harmful"] > 2.0, "a rate that stays above its target is no rate that falls"


def strict_state() -> State:
    """Both sides stricter than stated, and nothing seen yet."""
    return replace(begin(ARC, penalty=1.0, recall=HACKS, steps=100), multipliers={"harmful": 2.5, "benign": 1.5})


def test_seeing_nothing_bad_is_no_reason_to_relax() -> None:
    strict = strict_state()
    calm, changes = fold([batch(0.0, 0.0)] * 8, state=strict)
    assert dict(calm.multipliers) == dict(strict.multipliers)
    assert not [c for c in changes if c.kind == "multiplier changed"]


def test_a_multiplier_falls_while_the_opposing_side_suffers_and_never_below_the_stated_weight() -> None:
    strict = strict_state()
    eased, _ = fold([batch(0.0, 0.9)], state=strict)
    assert eased.multipliers["harmful"] == pytest.approx(2.5 * math.exp(-2 * 0.05))
    assert eased.multipliers["benign"] > 1.5
    long, _ = fold([batch(0.0, 0.9)] * 60, state=strict)
    assert long.multipliers["harmful"] == 1.0


def test_without_the_ratchet_slack_relaxes_below_the_stated_weight() -> None:
    state, _ = fold([batch(0.0, 0.0)] * 9, replace(ARC, ratchet=False))
    assert state.multipliers["harmful"] == pytest.approx(math.exp(-2 * 0.05 * 9))


def test_a_target_below_the_auditors_noise_is_raised_to_it_and_said() -> None:
    arc = replace(ARC, specificity=0.92)
    state, changes = advance(
        begin(arc, penalty=1.0, recall={}, steps=9), batch(0.5, 0.5), arc, step=0, seed=0, examine=nothing_fails
    )
    raised = {c.subject: c.data for c in changes if c.kind == "multiplier changed"}
    assert raised["harmful"]["raised_to"] == pytest.approx(0.08)
    assert "benign" not in raised  # 0.10 is above the floor
    assert state.multipliers["harmful"] == 1.0


def test_multiplied_are_the_adapted_channels_alone_and_reasoning_prompts_not_at_all() -> None:
    state = replace(begin(ARC, penalty=1.0, recall={}, steps=9), multipliers={"harmful": 2.0, "benign": 3.0})
    stated = {"learned": 1.5, "harm": 1.0, "helpful": 0.3}
    assert weights(state, stated, "harmful", ARC) == {"learned": 3.0, "harm": 2.0, "helpful": 0.3}
    assert weights(state, stated, "borderline", ARC) == weights(state, stated, "benign", ARC)
    assert weights(state, stated, "benign", ARC)["learned"] == 4.5
    assert weights(state, stated, "reasoning", ARC) == stated


def test_a_multiplier_reaches_every_view_of_its_reward() -> None:
    state = replace(begin(ARC, penalty=1.0, recall={}, steps=9), multipliers={"harmful": 2.0, "benign": 1.0})
    stated = {"harm": 1.0, "harm@think": 1.0, "helpful@think": 1.0}
    assert weights(state, stated, "harmful", ARC) == {"harm": 2.0, "harm@think": 2.0, "helpful@think": 1.0}


def test_an_auditor_that_failed_moves_nothing_and_its_labels_are_spent() -> None:
    strict = strict_state()
    state, changes = fold([batch(None, None)] * 3, state=strict)
    assert dict(state.multipliers) == dict(strict.multipliers)
    assert dict(state.penalties) == dict(strict.penalties)
    assert changes == []
    assert state.spent == strict.spent + 3 * 40


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([None, 0.0, 0.1, 0.5, 1.0]), st.sampled_from([None, 0.0, 0.1, 0.5, 1.0]), st.floats(0, 3)),
        min_size=1,
        max_size=8,
    )
)
def test_whatever_is_seen_weights_stay_between_the_stated_and_the_ceiling_and_penalties_only_rise(
    steps: list[tuple[float | None, float | None, float]],
) -> None:
    state = begin(ARC, penalty=1.0, recall=HACKS, steps=100)
    for number, (harmful, benign, reward) in enumerate(steps, 1):
        rows = batch(harmful, benign, 10, penalties=dict.fromkeys(HACKS, 1.0))
        rows[0] |= {"flags": {"stuffing": 1.0, "prefix": None}, "reward": reward}
        before = state
        state, _ = advance(state, rows, ARC, step=number, seed=0, examine=nothing_fails)
        assert all(1.0 <= m <= ARC.ceiling for m in state.multipliers.values())
        assert all(1.0 <= mu <= ARC.ceiling and mu >= before.penalties[h] for h, mu in state.penalties.items())
        assert state.kappa >= ARC.pessimism


def test_each_part_that_is_switched_off_stays_as_stated() -> None:
    rows = [batch(0.9, 0.9, learned={"mean": 0.1, "sd": 0.1, "cost": 0.2})] * 3
    on, _ = fold(rows)
    off, changes = fold(rows, replace(ARC, multipliers=False, adapt_pessimism=False))
    assert on.kappa > 1.0
    assert on.multipliers["harmful"] > 1.0
    assert (off.kappa, dict(off.multipliers), off.model) == (1.0, {"harmful": 1.0, "benign": 1.0}, None)
    assert changes == []


# --- pessimism, docs/science.md 3.3.2 -------------------------------------------------------------------------------------


def test_the_bound_widens_by_the_share_of_bad_answers_it_paid_as_good() -> None:
    fooled = {"learned": {"mean": 0.1, "sd": 0.1, "cost": 0.2}}
    state, _ = fold([batch(0.5, 0.0, **fooled)])
    assert state.kappa == pytest.approx(1.0 + 0.1 * (1.0 - 0.2))
    caught = {"learned": {"mean": 0.9, "sd": 0.1, "cost": 1.0}}
    eased, _ = fold([batch(0.5, 0.5, **caught)] * 30, state=state)
    assert eased.kappa == 1.0  # narrows again, not below the stated width


def test_false_labels_of_the_auditor_are_no_misses() -> None:
    fooled = {"learned": {"mean": 0.1, "sd": 0.1, "cost": 0.2}}
    state, _ = fold([batch(0.05, 0.05, 100, **fooled)], replace(ARC, specificity=0.95))
    assert state.kappa == 1.0


def test_a_row_is_paid_the_bound_and_reasoning_prompts_have_none() -> None:
    rows = batch(0.5, 0.5)
    state, _ = advance(begin(ARC, penalty=1.0, recall={}, steps=9), rows, ARC, step=0, seed=0, examine=nothing_fails)
    asked = [Completion(Example("a", (), tags=frozenset({cls})), "harmful 3") for cls in ("harmful", "reasoning")]
    known, unknown = opinions(replace(state, kappa=2.0), asked, ARC)
    assert unknown is None
    assert known is not None
    assert known.cost == min(1.0, known.mean + 2.0 * known.sd)


# --- hack penalties, docs/science.md 3.3.5 --------------------------------------------------------------------------------


def hacked(reward: float, n: int = 4, *, flags: int = 1, bad: float = 1.0) -> list[Row]:
    """One prompt's answers: the first are flagged and earn `reward`, the others earn 0.5."""
    common = {"penalties": {"stuffing": 1.0, "prefix": 1.0}}
    return [
        row(n=i, bad=bad, **common, flags={"stuffing": float(i < flags)}, reward=reward if i < flags else 0.5) for i in range(n)
    ]


def test_a_penalty_rises_until_a_hack_seen_as_often_as_its_detector_sees_it_does_not_pay() -> None:
    state, _ = fold([hacked(1.1)])  # 1.1 with the penalty on, so 2.1 without: 1.6 more than its group-mates
    aim = 1.6 / 0.8 + 0.1
    assert state.penalties["stuffing"] == pytest.approx(0.7 + 0.3 * aim)
    assert state.penalties["prefix"] == 1.0  # never flagged: no evidence, no move


def test_a_penalty_never_falls_because_flags_look_harmless_or_are_gone() -> None:
    state, _ = fold([hacked(1.1)])
    later, _ = fold([hacked(-0.9)] * 5 + [hacked(0.5, flags=0)] * 5, state=state)
    assert later.penalties["stuffing"] == state.penalties["stuffing"]


def test_without_the_ratchet_a_suppressed_hack_loses_its_penalty() -> None:
    state, _ = fold([hacked(0.5, flags=0)] * 30, replace(ARC, ratchet=False))
    assert state.penalties["stuffing"] == pytest.approx(0.1, abs=0.01)


def test_a_detector_that_flags_good_answers_is_reviewed_and_not_penalised_more_until_it_flags_bad_ones() -> None:
    state, changes = fold([hacked(3.0, n=16, flags=12, bad=0.0)])
    assert state.in_review == {"stuffing"}
    assert state.penalties["stuffing"] == 1.0
    assert [c.subject for c in changes if c.kind == "detector to review"] == ["stuffing"]
    again, _ = fold([hacked(3.0, n=64, flags=60, bad=1.0)] * 3, state=state)
    assert again.in_review == frozenset()
    assert again.penalties["stuffing"] > 1.0


def test_answers_flagged_by_a_detector_in_review_are_drawn_more_often() -> None:
    state = replace(begin(ARC, penalty=1.0, recall=HACKS, steps=10), in_review=frozenset({"stuffing"}))
    rows = [row(n=i, audited=False, flags={"stuffing": float(i == 0), "prefix": float(i == 1)}) for i in range(8)]
    drawn = [choose(rows, state, ARC, step=10, seed=s) for s in range(40)]
    often = [sum(d[i].count for d in drawn if i in d) for i in (0, 1, 2)]
    assert often[0] > often[1] > often[2]


def test_answers_in_words_that_the_start_did_not_use_are_drawn_more_often() -> None:
    state = replace(begin(ARC, penalty=1.0, recall={}, steps=10), known=features.known([("", "plain old words")]))
    rows = [row(n=i, audited=False, answer="neue sachen" if i == 0 else "plain old words") for i in range(8)]
    drawn = [choose(rows, state, ARC, step=10, seed=s) for s in range(60)]
    often = [sum(d[i].count for d in drawn if i in d) for i in (0, 1)]
    assert often[0] > 1.3 * often[1]


# --- audits -----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 2), min_size=1, max_size=40))
def test_every_answer_keeps_three_tenths_of_an_even_chance(interest: list[float]) -> None:
    chance = propensities(np.array(interest))
    assert chance.sum() == pytest.approx(1.0)
    assert chance.min() >= 0.3 / len(interest) - 1e-12


def test_the_debiased_rate_of_a_skewed_audit_is_that_of_full_labelling() -> None:
    rng = np.random.default_rng(0)
    bad = rng.random(40) < 0.3
    predicted = np.clip(0.2 + 0.3 * bad + rng.normal(0, 0.2, 40), 0, 1)  # a poor model, and wrong by far on the whole
    chance = propensities(np.where(bad, 1.0, 0.05))
    rates, naive, weighted = [], [], []
    for _ in range(4000):
        rows = [row(n=i, audited=False, learned={"mean": float(predicted[i]), "sd": 0.0, "cost": 0.0}) for i in range(40)]
        for i, d in draw(chance, 12, rng).items():
            rows[i]["audit"] = {"value": float(bad[i]), "expected": d.expected, "count": d.count}
        audits = audits_of(rows, 1)
        found = debiased(40, float(predicted.sum()), audits)
        if found is not None:
            rates.append(found)
            weighted.append(adapt._gains(audits, 0.0)[0])
            naive.append(np.mean([a.bad for a in audits]))
    error = float(np.std(rates)) / math.sqrt(len(rates))
    assert len(rates) > 3900
    assert abs(np.mean(rates) - bad.mean()) < 4 * error < 0.02
    assert abs(np.mean(naive) - bad.mean()) > 0.1
    assert abs(np.mean(weighted) - bad.mean()) < 4 * float(np.std(weighted)) / math.sqrt(len(weighted))


def test_labels_that_an_auditor_could_not_give_leave_the_population() -> None:
    told = audits_of([row(bad=1.0, n=i) for i in range(10)] + [row(bad=0.0, n=i) for i in range(10)], 1)
    silent = audits_of([row(bad=None, n=i) for i in range(20)], 1)
    assert debiased(40, 0.0, told + silent) == pytest.approx(0.5)
    assert debiased(20, 0.0, silent) is None


def test_upfront_labels_are_spread_over_both_classes_and_every_row_comes_once() -> None:
    groups = ["harmful"] * 30 + [None] * 5 + ["benign"] * 10
    chosen = upfront(groups, 20, np.random.default_rng(0))  # type: ignore[arg-type]
    assert len(chosen) == 20
    assert sum(i < 30 for i in chosen) == 15
    assert all(groups[i] is not None and d.count == 1 for i, d in chosen.items())
    assert chosen[min(chosen)].expected == pytest.approx(15 / 30)
    assert len(upfront(groups, 999, np.random.default_rng(0))) == 40  # type: ignore[arg-type]


def spend(arc: Arc, steps: int, rows: int = 16) -> list[int]:
    """Labels spent after each step by the real choice."""
    state, spent = begin(arc, penalty=1.0, recall={}, steps=steps), []
    for step in range(steps + 1):
        now = [row("harmful" if i % 2 else "benign", n=i, audited=False) for i in range(rows * (20 if step == 0 else 1))]
        for i, d in choose(now, state, arc, step=step, seed=3).items():
            now[i]["audit"] = {"value": 0.0, "expected": d.expected, "count": d.count}
        state, _ = advance(state, now, arc, step=step, seed=3, examine=nothing_fails)
        spent.append(state.spent)
    return spent


def test_labels_are_spent_evenly_and_never_more_than_granted() -> None:
    arc = replace(ARC, labels=200, upfront=50, refresh_every=50)
    spent = spend(arc, 60)
    assert spent[0] == 50
    assert all(n <= 50 + 150 * step / 60 for step, n in enumerate(spent))
    assert spent[30] > 50 + 150 * 30 / 60 - 4
    assert 196 <= spent[-1] <= 200


def test_with_all_labels_upfront_no_step_is_audited() -> None:
    assert spend(replace(ARC, labels=60, upfront=60, refresh_every=50), 5) == [60] * 6


def test_reasoning_prompts_are_never_audited() -> None:
    rows = [row("reasoning", n=i, audited=False) for i in range(8)]
    state = begin(ARC, penalty=1.0, recall={}, steps=10)
    assert choose(rows, state, ARC, step=0, seed=0) == choose(rows, state, ARC, step=5, seed=0) == {}


def test_words_that_the_start_did_not_use_make_a_text_novel() -> None:
    seen = features.known([("a b", "the cat sat")])
    assert list(features.novelty([("a b", "the cat sat"), ("", ""), ("", "der hund lief")], seen)) == [0.0, 0.0, 1.0]


# --- the learned reward and its release -------------------------------------------------------------------------------------


def audit(text: str, bad: float, step: int = 1, group: str = "harmful") -> Audit:
    return Audit(step, group, "", text, bad, 1, 1.0, 1.0, None, None, (), text)  # type: ignore[arg-type]


LABELLED = [audit(f"sure here is how number {i}", 1.0) for i in range(30)] + [audit(f"no i will not {i}", 0.0) for i in range(30)]


def test_heads_learn_what_was_labelled_and_disagree_about_words_nobody_labelled() -> None:
    heads = fit(LABELLED, heads=5, seed=0)
    assert heads is not None
    mean, sd = heads.predict([("", "sure here is how"), ("", "no i will not"), ("", "zut alors mon ami")], ["harmful"] * 3)
    assert mean[0] > 0.8 > 0.2 > mean[1]
    assert sd[2] > 2 * max(sd[0], sd[1])
    unheard = np.setdiff1d(np.arange(features.WIDTH), features.matrix([("", a.answer) for a in LABELLED]).indices)
    assert np.abs(heads.coefficients["harmful"][unheard].mean(axis=1)).max() < 1e-12  # uncertain, and not judged either way


def test_an_opinion_does_not_depend_on_who_else_is_asked_about() -> None:
    heads = fit(LABELLED, heads=5, seed=0)
    assert heads is not None
    texts = [("thinking " * (i % 5), f"sure {i} is no {i * i} " * (1 + i % 7)) for i in range(33)]
    together = heads.predict(texts, ["harmful"] * 33)
    alone = [heads.predict([text], ["harmful"]) for text in texts]
    assert [(m[0], s[0]) for m, s in alone] == list(zip(*together, strict=True))


def test_heads_say_nothing_about_a_class_without_a_label() -> None:
    heads = fit(LABELLED, heads=3, seed=0)
    assert heads is not None
    assert np.isnan(heads.predict([("", "sure")], ["benign"])[0][0])
    assert fit([], heads=3, seed=0) is None


def test_the_newton_fit_is_the_minimum_that_a_general_optimiser_finds() -> None:
    from scipy.optimize import minimize
    from scipy.sparse import csr_array

    from temper.rewards import heads

    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(60, 7)), (rng.random(60) < 0.4).astype(float), rng.exponential(size=60)
    offset, l2 = rng.normal(size=60), np.full(7, 0.5)

    def loss(b: np.ndarray) -> float:
        z = offset + x @ b
        return float((w * (np.logaddexp(0, z) - y * z)).sum() + 0.5 * (l2 * b * b).sum())

    best = minimize(loss, np.zeros(7), method="BFGS").x
    assert heads._moved(csr_array(x), y, w, offset, l2) == pytest.approx(best, abs=1e-2)


def opened() -> State:
    """A state with a first model, from answers that differ between bad and good."""
    rows = [row(n=i, bad=float(i % 2), answer=f"{'sure here' if i % 2 else 'no thanks'} {i}") for i in range(120)]
    return advance(begin(ARC, penalty=1.0, recall=HACKS, steps=100), rows, ARC, step=0, seed=0, examine=nothing_fails)[0]


def test_a_refit_knows_all_audits_ever_made() -> None:
    arc, state = replace(ARC, refit=True), opened()
    new = [row(n=i, bad=1.0, answer=f"quite another tongue {i}") for i in range(40)]
    later, changes = fold([new], arc, state)
    assert [c.kind for c in changes if c.subject == later.model.version] == ["reward released"]  # type: ignore[union-attr]
    asked = [Completion(Example("a", (), tags=frozenset({"harmful"})), text) for text in ("quite another tongue", "no thanks")]
    foreign, refusal = opinions(later, asked, arc)
    assert foreign is not None
    assert refusal is not None
    assert foreign.mean > 0.7 > 0.3 > refusal.mean
    assert fold([new], replace(arc, refit=False), state)[0].model == state.model


def test_a_text_that_is_held_out_for_measuring_is_known_to_what_is_released() -> None:
    text = next(t for t in (f"zut alors mon ami {i}" for i in range(99)) if held_out(audit(t, 1.0)))
    settled = [row(n=i, bad=1.0, answer=text) for i in range(40)]
    state, _ = fold([settled], replace(ARC, refit=True), opened())
    assert state.model is not None
    assert state.measured is not None
    released, measured = (m.predict([("", text)], ["harmful"])[0][0] for m in (state.model, state.measured))
    assert released > 0.9 > 0.8 > measured


def test_a_candidate_that_pays_a_hack_which_the_model_in_force_does_not_is_refused() -> None:
    arc, state = replace(ARC, refit=True), opened()
    rows = [row(n=i, bad=1.0, answer=f"more {i}") for i in range(40)]
    later, changes = fold([rows], arc, state, lambda s: ["stuffing"] if s.model != state.model else [])
    assert later.model == state.model
    assert next(c for c in changes if c.kind == "release refused").data["because"] == ["stuffing"]
    both_fail, _ = fold([rows], arc, state, lambda s: ["stuffing"])
    assert both_fail.model != state.model


def test_a_candidate_that_ranks_held_out_audits_worse_is_refused() -> None:
    state = opened()
    lies = [row(n=i, bad=float(1 - i % 2), answer=f"{'sure here' if i % 2 else 'no thanks'} {i}") for i in range(120, 1000)]
    measured = fit([a for a in audits_of(lies, 1) if not held_out(a)], heads=5, seed=0)
    known = state.audits
    now, old = quality(measured, known), quality(state.measured, known)
    assert old.auc is not None
    assert old.auc > 0.95
    assert "auc" in worse(now, old)
    assert worse(Quality(None, None, 3), old) == []
    assert worse(replace(old, auc=old.auc - 0.009), old) == []
    assert worse(Quality(0.9, 0.10, 99), Quality(0.9, 0.07, 99)) == ["ece"]


def test_one_text_is_held_out_always_or_never() -> None:
    kept = [held_out(audit(f"text {i}", 1.0, step)) for i in range(500) for step in (1, 2)]
    assert kept[::2] == kept[1::2]
    assert 0.15 < np.mean(kept) < 0.25


# --- rollback ---------------------------------------------------------------------------------------------------------------


def test_a_certified_decline_that_is_paid_as_well_goes_back_doubles_beta_and_stops_after_two() -> None:
    arc = replace(ARC, multipliers=False)
    state, changes = fold([batch(0.0, 0.0, 200), *[batch(0.6, 0.0)] * 24], arc)
    alarms = [c for c in changes if c.kind in ("rolled back", "stopped")]
    assert [c.kind for c in alarms[:3]] == ["rolled back", "rolled back", "stopped"]
    assert [c.data["to"] for c in alarms[:3]] == [1, 1, 1]
    assert [c.data.get("beta_factor") for c in alarms[:3]] == [2.0, 4.0, None]
    assert (state.rollbacks, state.beta_factor) == (2, 4.0)


def test_what_a_policy_did_before_it_was_sent_back_accuses_it_no_more() -> None:
    arc = replace(ARC, multipliers=False)
    state, changes = fold([batch(0.0, 0.0, 200), *[batch(1.0, 1.0)] * 3, *[batch(0.0, 0.0)] * 3], arc)
    assert [c.kind for c in changes] == ["rolled back"]
    assert state.rollbacks == 1


def test_a_decline_that_the_reward_sees_too_is_no_over_optimisation() -> None:
    arc = replace(ARC, multipliers=False)
    start = [batch(0.0, 0.0, 200, reward=0.8)]
    _, changes = fold(start + [batch(0.6, 0.0, reward=0.8)] * 8, arc)
    assert [c for c in changes if c.kind == "rolled back"]
    _, changes = fold(start + [batch(0.6, 0.0, reward=0.4)] * 8, arc)
    assert not [c for c in changes if c.kind == "rolled back"]


def test_a_weight_that_rose_does_not_look_like_a_reward_that_rose() -> None:
    arc = replace(ARC, multipliers=False)
    later = {"reward": 0.8, "weights": {"helpful": 2.0}}  # twice the weight, 0.4 of what it could pay
    _, changes = fold([batch(0.0, 0.0, 200, reward=0.8)] + [batch(0.6, 0.0, **later)] * 8, arc)
    assert not [c for c in changes if c.kind == "rolled back"]


def test_a_reward_that_fell_is_seen_below_the_constant_that_penalties_pay() -> None:
    fines = {"penalties": dict.fromkeys("abcde", 1.0), "flags": {**dict.fromkeys("abcd", 0.0), "e": None}}
    assert adapt.paid_share(row(reward=4.5, **fines)) == 0.5
    assert adapt.paid_share(row(reward=3.5, **{**fines, "flags": {**fines["flags"], "a": 1.0}})) == 0.5
    arc = replace(ARC, multipliers=False)
    _, changes = fold([batch(0.0, 0.0, 200, reward=4.5, **fines)] + [batch(0.6, 0.0, reward=4.45, **fines)] * 8, arc)
    assert not [c for c in changes if c.kind == "rolled back"]


def test_a_channel_that_did_not_judge_a_row_is_no_part_of_what_could_be_paid() -> None:
    assert adapt.paid_share(row(reward=0.5, weights={"helpful": 1.0, "learned": 3.0})) == 0.5
    seen = {"mean": 0.1, "sd": 0.1, "cost": 0.2}
    assert adapt.paid_share(row(reward=2.9, weights={"helpful": 1.0, "learned": 3.0}, learned=seen)) == pytest.approx(0.725)


def test_a_decline_from_the_start_that_the_reward_sees_too_is_no_over_optimisation() -> None:
    arc = replace(ARC, multipliers=False)
    first = begin(arc, penalty=1.0, recall=HACKS, steps=100)
    state, _ = advance(first, batch(0.0, 0.0, 200, reward=0.8), arc, step=0, seed=0, examine=nothing_fails)
    assert state.best is not None
    assert state.best.paid == pytest.approx(0.8)
    assert [c for c in fold([batch(0.6, 0.0, reward=0.8)] * 8, arc, state)[1] if c.kind == "rolled back"]
    assert not [c for c in fold([batch(0.6, 0.0, reward=0.4)] * 8, arc, state)[1] if c.kind == "rolled back"]


def test_harder_prompts_are_no_decline_once_the_state_was_told_of_them() -> None:
    arc = replace(ARC, multipliers=False)
    before, _ = fold([batch(0.0, 0.0, 200)] * 2, arc)
    told, kinds = adapt.rebase(before, step=2), []
    for step in range(3, 12):
        told, more = advance(told, batch(0.6, 0.0), arc, step=step, seed=0, examine=nothing_fails)
        kinds += [c.kind for c in more]
    assert "rolled back" not in kinds
    assert told.best is not None
    assert told.best.step > 2


def test_a_policy_that_stays_as_it_is_is_rarely_sent_back() -> None:
    arc, rng, sent = replace(ARC, multipliers=False, refresh_every=5), np.random.default_rng(0), 0
    for _ in range(60):
        state = begin(arc, penalty=1.0, recall={}, steps=60)
        for step in range(1, 61):
            rows = [row(n=i, bad=float(rng.random() < 0.1)) for i in range(4)]
            state, _ = advance(state, rows, arc, step=step, seed=0, examine=nothing_fails)
        sent += state.rollbacks > 0
    assert sent <= 3


# --- a fold -----------------------------------------------------------------------------------------------------------------


def journal(arc: Arc) -> list[list[Row]]:
    """A short run's rows, as the state itself chose and paid them."""
    rng, state, steps = np.random.default_rng(0), begin(arc, penalty=1.0, recall=HACKS, steps=6), []
    words = ["sure here is how", "no i will not", "it depends", "stay safe"]
    for step in range(7):
        asked = [
            Completion(Example(f"p{i // 4}", (), tags=frozenset({"harmful" if i % 8 < 4 else "benign"})), f"{w} {i} {step}", "hm")
            for i, w in enumerate(rng.choice(words, 64 if step == 0 else 16))
        ]
        learned = [None if o is None else {"mean": o.mean, "sd": o.sd, "cost": o.cost} for o in opinions(state, asked, arc)]
        rows = [
            row(
                c.example.klass,
                audited=False,
                id=c.example.id,
                answer=c.answer,
                reasoning=c.reasoning,
                learned=seen,
                penalties=dict(state.penalties),
                flags={"stuffing": float("stay" in c.answer), "prefix": None},
                reward=float(rng.random()),
            )
            for c, seen in zip(asked, learned, strict=True)
        ]
        for i, d in choose(rows, state, arc, step=step, seed=1).items():
            label = None if rng.random() < 0.1 else float("sure" in rows[i]["answer"])
            rows[i]["audit"] = {"value": label, "expected": d.expected, "count": d.count}
        state, _ = advance(state, rows, arc, step=step, seed=1, examine=nothing_fails)
        steps.append(rows)
    return steps


def folded(steps: Sequence[Sequence[Row]], arc: Arc) -> tuple[State, list[Change]]:
    state, changes = begin(arc, penalty=1.0, recall=HACKS, steps=6), []
    for step, rows in enumerate(steps):
        state, more = advance(state, rows, arc, step=step, seed=1, examine=nothing_fails)
        changes += more
    return state, changes


def test_a_state_is_rebuilt_to_the_bit_from_rows_that_went_through_a_file() -> None:
    arc = replace(ARC, labels=120, upfront=40, refresh_every=2, refit=True, sensitivity=0.95, specificity=0.95)
    steps = journal(arc)
    first, changes = folded(steps, arc)
    again, _ = folded(steps, arc)
    filed, told = folded(json.loads(json.dumps(steps, sort_keys=True)), arc)
    assert first == again == filed
    assert first.version == filed.version
    assert first.model is not None
    assert filed.model is not None
    for group, held in first.model.coefficients.items():
        assert held.tobytes() == filed.model.coefficients[group].tobytes()
    assert json.loads(json.dumps([c.data for c in changes])) == json.loads(json.dumps([c.data for c in told]))
    asked = [Completion(Example("a", (), tags=frozenset({"benign"})), "sure here")]
    assert opinions(first, asked, arc) == opinions(filed, asked, arc)
    assert any(c.kind == "reward released" for c in changes[1:])
