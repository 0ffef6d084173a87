"""Results as the terminal prints them, line by line; names of strangers are printed so that they steer nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from analysis import report
from analysis.alerts import Alert
from analysis.checks import Verdict
from analysis.dynamics import Landed, course, fate, unchanged_shares
from analysis.forecast import Forecast
from analysis.labels import letter, rough_count, rule_title, size
from analysis.measurements import MASK_RULES, RULES, TOLERANCES, MaskRule, StepCounts
from analysis.models import Pair
from analysis.overlaps import Venn
from analysis.patches import ENCODINGS, PatchSize
from analysis.rollup import Headline
from analysis.series import Axis
from analysis.tables import Row, agreement_rows, match_rows, region_rows
from analysis.tensors import NO_PARAMETER, Alignment

_MOST_REGIONS = 20  # the JSON has them all
_MOST_LISTED = 20  # of what is not compared, before a comparison; the JSON has all

Lines = Iterator[str]


def shown(text: str) -> str:
    """Text of strangers for a terminal: what steers it, and line breaks, written out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def forecast_lines(sides: Mapping[str, tuple[int, int]], alignment: Alignment | None, forecast: Forecast) -> Lines:
    """What a comparison takes, and what will not be compared. `sides`: 'base' and 'tuned' -> parameters and bytes."""
    for side, (parameters, n_bytes) in sides.items():
        yield f"  {side:<12} {rough_count(parameters)} parameters, {size(n_bytes)}"
    for what, value, behind in forecast.in_words():
        yield f"  {what.lower():<12} {value}" + (f" ({shown(behind)})" if behind else "")
    if alignment:
        yield from _match_lines(alignment)
    for name, reason in forecast.left_out[:_MOST_LISTED]:
        yield f"  no spectrum  {shown(name)}: {reason}"


def _match_lines(alignment: Alignment) -> Lines:
    for row in match_rows(alignment):
        yield f"  pairs        {row['pairs']:,} by {row['matched by']}"
    if left_out := alignment.not_compared:
        n_parameters = rough_count(sum(entry.parameters for entry in left_out))
        yield f"  not compared {len(left_out):,} tensors of {n_parameters} parameters"
        for entry in left_out[:_MOST_LISTED]:
            yield f"               {shown(entry.name)} ({entry.side}): {shown(entry.reason)}"


def headline_lines(pair: Pair, found: Headline) -> Lines:
    """The numbers of a pair that a reader looks for first."""
    yield _title(pair)
    if found.chosen:
        yield _line("of", f"{found.chosen.words}, as selected")
    for reason in found.reasons_withheld:
        yield _line("no headline", reason)
    for rule in RULES if not found.withheld else ():
        share = found.unchanged[rule]
        title = f"within {rule}" if rule in TOLERANCES else rule_title(rule)
        yield _line(f"unchanged, {title}", f"{100 * share.value:9.4f} %   {share.part:,} of {share.whole:,}")
    if found.spectra_measured and not found.withheld:
        rank, matrices = 100 * found.mean_rank_share, found.spectra_measured
        yield _line("mean rank of updates", f"{rank:9.4f} %   of full, over {matrices} matrices")
    yield _line("tensors touched", f"{found.tensors_touched} of {found.tensors_measured}")
    if found.nonfinite:
        yield _line("not finite", f"{found.nonfinite:,} entries")


def note_lines(sentences: Sequence[str], alerts: Sequence[Alert], coverage: Mapping[str, Any]) -> Lines:
    """What stands below the headline: of an adapter, what calls for attention, how much was compared."""
    for sentence in sentences:
        yield _line("adapter", sentence)
    for alert in alerts:
        named = f" ({', '.join(map(shown, alert.models))})" if alert.models else ""
        yield _line("note", f"{alert.sentence}{named}")
    yield _line("compared", covered(coverage))


def gap_lines(gaps: Mapping[tuple[str, str], str], of: str = "") -> Lines:
    """What could not be measured, and why; `of` stands before the tensor's name."""
    for (kind, name), reason in gaps.items():
        yield f"  no {kind} of {of}{shown(name)}: {reason}"


def verdict_lines(pair: Pair, verdicts: Sequence[Verdict], coverage: Mapping[str, Any]) -> Lines:
    """Each assertion of a check, whether it holds, and what was found."""
    yield _title(pair)
    width = max(len(verdict.assertion.text) for verdict in verdicts)
    for verdict in verdicts:
        yield f"  {'holds' if verdict.holds else 'FAILS'}  {verdict.assertion.text:<{width}}  {verdict.words}"
    holding = sum(verdict.holds for verdict in verdicts)
    yield f"{holding} of {len(verdicts)} assertions hold; {covered(coverage)}"


def covered(coverage: Mapping[str, Any]) -> str:
    """How much of both models was compared, see analysis.report.coverage."""
    compared, base, tuned = (coverage[f"{what}_parameters"] for what in ("compared", "base", "tuned"))
    of_base, of_tuned = (sum(coverage["by_match"][side].values()) for side in ("base", "tuned"))
    left_out = sum(not entry["reason"].endswith(NO_PARAMETER) for entry in coverage["not_compared"])
    shares = f"{100 * of_base / base:.2f} % of base, {100 * of_tuned / tuned:.2f} % of tuned"
    return f"{compared:,} parameters: {shares}" + (f"; {left_out} tensors not compared" if left_out else "")


def overlap_lines(found: Venn) -> Lines:
    """Who changed what alone and with whom, beside what chance would give."""
    yield f"\nrule {found.rule}: {found.entries:,} entries"
    for index, label in enumerate(found.labels):
        yield f"  {letter(index)}  {shown(label)}: {found.changed(index):,} changed"
    yield from _region_lines(found)
    yield "\n" + _heading("changed by exactly")
    for row in agreement_rows(found):
        yield f"  {row['runs']:>2} of {row['of']:<13} {row['entries']:>17,}  {_beside(row)}"
    yield "\n  two and two"
    for pair in report.overlap_numbers(found)["pairs"]:
        one, other = (letter(index) for index in pair["models"])
        numbers = "  ".join(f"{name} {_percent(pair[name])}" for name in ("o1", "o2", "jaccard"))
        chance = (
            f"chance o1 {_percent(pair['chance']['o1'])}, magnitude-matched {_percent(pair['chance_matched']['o1'])}"
        )
        yield f"  {one} and {other}: {pair['both']:,} in both  {numbers}  ({chance})"


def _region_lines(found: Venn) -> Lines:
    """The largest regions, each with who changed it and nobody else."""
    rows = [row for row in region_rows(found) if row["models"]]
    yield "\n" + _heading("changed by these alone")
    for row in rows[:_MOST_REGIONS]:
        members = "".join(
            letter(index) if row[f"{letter(index)} {name}"] else "·" for index, name in enumerate(found.labels)
        )
        yield f"  {members:<19} {row['entries']:>17,}  {_beside(row)}"
    if rest := rows[_MOST_REGIONS:]:
        yield f"  {len(rest):,} smaller regions {sum(int(str(row['entries'])) for row in rest):>17,}"


def _heading(what: str) -> str:
    return f"  {what:<22} {'entries':>14}  {'share':>10} {'chance':>13}  {'magnitude-matched chance':>24}"


def _beside(row: Row) -> str:
    share, expected, matched = (float(str(row[name])) for name in ("share_of_entries", "chance", "chance_matched"))
    at_magnitude = "-" if math.isnan(matched) else f"{matched:,.0f}"
    return f"{100 * share:8.4f} % {expected:>13,.0f}  {at_magnitude:>24}"


def course_lines(
    where: Axis,
    from_base: Landed,
    from_previous: Landed,
    counts: Mapping[MaskRule, Mapping[str, StepCounts]],
    sizes: Sequence[PatchSize | None],
) -> Lines:
    """What became of the entries over a run, a line a checkpoint, and what a patch of each step would weigh."""
    for rule in MASK_RULES:
        run = course(rule, counts[rule], len(where.positions))
        told = fate(run)
        yield f"\nrule {rule}: {run.entries:,} entries"
        fates = (("never changed", told.never), ("changed and came back", told.returned))
        for name, share in (*fates, ("in the final subnetwork", told.final)):
            yield f"  {name:<23} {100 * share.value:9.4f} %   {share.part:,}"
        yield f"  {where.title:>10}  unchanged: base   previous   changed, outside final   changed so far"
        since = [unchanged_shares(landed, rule) for landed in (from_base, from_previous)]
        for at, position in enumerate(where.positions):
            outside = int(run.changed_outside[at]) / int(run.changed[at]) if run.changed[at] else None
            union = int(run.union[at]) / run.entries if run.entries else None
            yield (
                f"  {position:>10}  {_percent(since[0][at].value):>15} {_percent(since[1][at].value):>10} "
                f"{_percent(outside):>24} {_percent(union):>16}"
            )
    yield "\nlossless patch from the checkpoint before, of the full checkpoint"
    yield f"  {where.title:>10}      changed  " + "  ".join(f"{encoding:>9}" for encoding in ENCODINGS)
    for position, patch in zip(where.positions, sizes, strict=True):
        ratios = [_percent(patch.ratio(encoding) if patch else None) for encoding in ENCODINGS]
        changed = f"{patch.changed:,}" if patch else "-"
        yield f"  {position:>10} {changed:>12}  " + "  ".join(f"{ratio:>9}" for ratio in ratios)


def missing_lines(not_counted: Collection[str], reasons: Mapping[str, str]) -> Lines:
    """Tensors that an overlap leaves out, and why."""
    for name in not_counted:
        yield f"  not counted, {shown(name)}: {reasons.get(name, 'not all models have it in one shape')}"


def _line(what: str, found: str) -> str:
    return f"  {what:<27}{found}"


def _title(pair: Pair) -> str:
    return f"\n{pair.base.title} -> {pair.tuned.title}"


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f} %"
