"""The numbers and figures of a followed run, from the store and the view alone, as `views` has those of a pair."""

from __future__ import annotations

from collections.abc import Sequence

from analysis import course_report
from analysis.dynamics import Course
from analysis.encoding import Rows
from analysis.errors import NotStored
from analysis.figures import steps
from analysis.figures.theme import Figure
from analysis.links import View
from analysis.patches import PatchSize
from analysis.series import Axis, Series, axis, label_of, series_of
from pages.parts import courses


def series(view: View) -> Series:
    """The view's run. Raises NotStored where it was never looked up here."""
    found = series_of(view.base, view.tuned)
    if courses.find(found) is None:
        raise NotStored("This run was not followed on this server", do="Open its link and follow it")
    return found


def where(view: View) -> Axis:
    """Where its checkpoints stand."""
    labels, models = view.many("step"), series(view).checkpoints
    return axis(labels if len(labels) == len(models) else tuple(label_of(model) for model in models))


def course(view: View) -> Course:
    """The counts along the run. Raises NotStored while there are none."""
    found = courses.course(series(view), view.mask_rule)
    if found is None:
        raise NotStored("This run is not counted yet", do="Open its page and wait for it")
    return found


def step_numbers(view: View) -> Rows:
    of, rule = series(view), view.mask_rule
    landed = courses.landed(of, "base"), courses.landed(of, "previous")
    return course_report.step_rows(of, where(view), rule, *landed, courses.course(of, rule))


def patch_numbers(view: View) -> Rows:
    return course_report.patch_rows(where(view), view.one("patch"), _patches(view))


def sparsity(view: View) -> Figure:
    lines = courses.sparsity(series(view), view.mask_rule)
    return steps.sparsity_over_steps(lines, where(view), fitted=_fitted(view))


def growth(view: View) -> Figure:
    return steps.union_growth(course(view), where(view), fitted=_fitted(view))


def fates(view: View) -> Figure:
    return steps.fates_over_steps(course(view), where(view), fitted=_fitted(view))


def by_layer(view: View) -> Figure:
    grid = courses.grid(series(view), view.mask_rule, view.one("show"), view.one("rows"))
    return steps.step_heatmap(grid, where(view), fitted=_fitted(view), rows=view.one("rows"))


def patch_sizes(view: View) -> Figure:
    return steps.patch_sizes(_patches(view), where(view))


def _patches(view: View) -> Sequence[PatchSize | None]:
    return courses.patches(series(view), view.one("patch"))


def _fitted(view: View) -> bool:
    return view.one("colours") == "fitted"
