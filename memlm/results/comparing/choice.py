"""The settings of a method that are compared: chosen once, never again in a resample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memlm.results.comparing.measuring import MeasuredSetting
from memlm.results.comparing.sets import tuning_items
from memlm.results.comparing.trials import setting_key
from memlm.results.pareto import nondominated
from memlm.results.scores import LEARNING_SET, ScoreError, TrialResult


@dataclass(frozen=True, kw_only=True)
class TuningScores:
    """A setting on the tuning split."""

    seeds: list[int]
    learning: float
    drops: dict[str, float | None]
    """By held-out set; None where the start leaves no room."""


def tuning_scores(trials: Sequence[TrialResult]) -> TuningScores:
    """Means over one setting's trials on tuning seeds."""
    parts = [tuning_items(trial) for trial in trials]
    names = [name for name in parts[0].start if name != LEARNING_SET]
    drops = {name: float(np.mean([part.start[name].drop_to(part.end[name]) for part in parts])) for name in names}
    return TuningScores(
        seeds=sorted({trial.seed for trial in trials}),
        learning=float(np.mean([part.end[LEARNING_SET].value for part in parts])),
        drops={name: drop if np.isfinite(drop) else None for name, drop in drops.items()},
    )


def chosen_settings(
    settings: Sequence[MeasuredSetting], tuning: dict[str, TuningScores] | None, decided_by: str
) -> list[int]:
    """Indices of the settings that no other setting of the method beats in learning and in the drop
    on `decided_by`, in the order of the learning that is reported. `tuning` is by setting_key; None
    to choose by what is reported."""
    if tuning is None:
        scores = [(float(setting.learning[0]), float(setting.drops[decided_by][0])) for setting in settings]
    else:
        scores = [_axes(tuning.get(setting_key(setting.trials[0])), decided_by) for setting in settings]
    learning, drop = np.round(np.array(scores).T, 12)
    chosen = np.flatnonzero(nondominated(learning[None], drop[None])[0]).tolist()
    if not chosen:
        raise ScoreError(
            f"{settings[0].trials[0].method}: no setting can be chosen, because none has a drop on {decided_by} on the tuning seeds; "
            "run every setting with the tuning seeds, and pretrain for longer if the model starts near chance"
        )
    return sorted(chosen, key=lambda index: (settings[index].learning[0], settings[index].drops[decided_by][0]))


def _axes(scores: TuningScores | None, decided_by: str) -> tuple[float, float]:
    """Learning and drop; NaN for a setting that cannot be chosen."""
    drop = scores.drops[decided_by] if scores else None
    return (scores.learning, drop) if scores and drop is not None else (np.nan, np.nan)
