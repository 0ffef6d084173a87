"""Subnetscope from a terminal: compare two models, count how the updates of several overlap, write a report, or check
an update.

    python cli.py compare BASE TUNED [--json FILE]
    python cli.py overlap BASE TUNED TUNED [TUNED ...] [--json FILE]
    python cli.py report BASE TUNED --html FILE
    python cli.py check BASE TUNED --assert "nonfinite() == 0" [--assert ...] [--json FILE]

Exit codes: 0 done; 1 something unforeseen; 2 the command line; 3 a model; 4 the Hub did not answer; 5 the weight files;
6 the pair cannot be compared; 7 the store; 8 the machine; 9 an assertion of a check does not hold; 10 done, but
some tensors could not be measured; 130 interrupted.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from analysis import checks, report
from analysis.alerts import alerts
from analysis.checks import Verdict
from analysis.errors import BadReference, ResourceError, SubnetscopeError
from analysis.measurements import MASK_RULES, RULES
from analysis.models import Pair
from analysis.plan import Plan
from analysis.rollup import Headline, Venn, headline, venn
from cache.jobs import Jobs
from cache.progress import Progress
from cache.settings import Settings
from cache.store import Store

_POLL_SECONDS = 0.1
_MOST_TUNED = 8
DOES_NOT_HOLD = 9
DONE_WITH_GAPS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code, see the module's docstring."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except SubnetscopeError as error:
        print(f"{options.program}: {_shown(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{options.program}: interrupted; what was measured is kept", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cli.py",
        description="What fine-tuning did to a language model's weights.",
        epilog="A model is 'org/name', 'org/name@revision', 'org/name/subfolder@revision', or a directory.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    compare = commands.add_parser("compare", help="compare a tuned model with its base, tensor by tensor")
    compare.add_argument("base", metavar="BASE")
    compare.add_argument("tuned", metavar="TUNED")
    compare.add_argument("--no-spectra", action="store_true", help="leave out singular values and ranks")
    compare.set_defaults(run=_compare, program="compare")
    overlap = commands.add_parser("overlap", help="count how the updates of several tuned models overlap")
    overlap.add_argument("base", metavar="BASE")
    overlap.add_argument("tuned", metavar="TUNED", nargs="+")
    overlap.set_defaults(run=_overlap, program="overlap")
    html = commands.add_parser("report", help="compare, and write what is found as one HTML file that opens offline")
    html.add_argument("base", metavar="BASE")
    html.add_argument("tuned", metavar="TUNED")
    html.add_argument("--html", type=Path, metavar="FILE", required=True, help="the file to write")
    html.set_defaults(run=_report, program="report")
    check = commands.add_parser("check", help="say whether assertions about an update hold, by the exit code too")
    check.add_argument("base", metavar="BASE")
    check.add_argument("tuned", metavar="TUNED")
    check.add_argument(
        "--assert",
        dest="assertions",
        metavar="ASSERTION",
        action="append",
        required=True,
        help="such as \"unchanged(exact, 'vision_tower.*') == 1\"; may be given again; see docs/checks.md",
    )
    check.set_defaults(run=_check, program="check")
    for command in (compare, overlap, html, check):
        command.add_argument("--device", choices=("cpu", "cuda", "auto"), help="where to compute (default: auto)")
        command.add_argument("--store", type=Path, metavar="FILE", help="the DuckDB file that keeps results")
        command.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here ('-' for the terminal)")
    return parser


def _compare(options: argparse.Namespace) -> int:
    with _working(options) as (store, jobs):
        pair = _prepare(jobs, options.base, options.tuned)
        plan = Plan(spectra=not options.no_spectra)
        _watch(jobs, jobs.submit(pair, plan))
        alignment, tallies = store.alignment(pair.key), store.tallies(pair.key, arrays=False)
        spectra = store.spectra(pair.key) if plan.spectra else {}
        kinds = ("tally", "spectrum") if plan.spectra else ("tally",)
        gaps = {place: reason for place, reason in store.gaps(pair.key).items() if place[0] in kinds}
        if options.json:
            _write(options.json, report.comparison(pair, alignment, tallies, spectra, gaps))
        if str(options.json) != "-":
            found = headline(alignment, tallies, spectra, spectra_planned=plan.spectra)
            _print_headline(pair, found)
            for alert in alerts(found, alignment, tallies):
                print(f"  note                   {alert.sentence}")
            print(f"  compared               {_covered(report.coverage(alignment, tallies))}")
        for (kind, name), reason in gaps.items():
            print(f"  no {kind} of {_shown(name)}: {reason}", file=sys.stderr)
        return DONE_WITH_GAPS if gaps else 0


def _overlap(options: argparse.Namespace) -> int:
    if len(options.tuned) < 2:
        raise BadReference("Only one tuned model was named", expected="Two or more tuned models of one base")
    if len(options.tuned) > _MOST_TUNED:
        expected = f"At most {_MOST_TUNED}: the regions double with each"
        raise BadReference(f"{len(options.tuned)} tuned models were named", expected=expected)
    with _working(options) as (store, jobs):
        pairs = [_prepare(jobs, options.base, tuned) for tuned in options.tuned]
        for pair in pairs:
            _watch(jobs, jobs.submit(pair, Plan(spectra=False)))
        base, tuned = pairs[0].base, [pair.tuned for pair in pairs]
        _watch(jobs, jobs.submit_overlap(base, tuned))
        keys = tuple(model.key for model in tuned)
        regions = {rule: store.regions(base.key, keys, rule) for rule in MASK_RULES}
        tallies = [store.tallies_by_binade(pair.key) for pair in pairs]
        names = {entry.name for pair in pairs for entry in store.alignment(pair.key).pairs}
        not_counted = sorted(names - set(regions["exact"]))
        if options.json:
            _write(options.json, report.overlap(base, tuned, regions, tallies, not_counted))
        if str(options.json) != "-":
            for rule in MASK_RULES:
                _print_overlap(venn(rule, [model.title for model in tuned], regions[rule], tallies))
        for name in not_counted:
            print(f"  not counted, since not all models have it in one shape: {_shown(name)}", file=sys.stderr)
        return 0


def _report(options: argparse.Namespace) -> int:
    from analysis import citation, provenance
    from analysis.figures import report as reports  # brings plotly, which nothing else here needs
    from cache import code

    _make_folder(options.html)  # before the work, not after it
    with _working(options) as (store, jobs):
        pair = _prepare(jobs, options.base, options.tuned)
        _watch(jobs, jobs.submit(pair, Plan()))
        alignment, tallies = store.alignment(pair.key), store.tallies(pair.key, arrays=False)
        spectra, gaps = store.spectra(pair.key), store.gaps(pair.key)
        known, now = store.find_pair(pair.key), datetime.now(UTC)
        basis = provenance.Basis(pair, alignment, len(tallies), known.last_activity if known else None)
        origin = provenance.document("report", [basis], {}, link="", code=code.commit(), written_at=now)
        cited = citation.sentence(pair, code.commit()), citation.bibtex(code.commit(), now.year)
        of = reports.Measured(pair, alignment, tallies, spectra, gaps)
        _write_text(options.html, reports.report(of, origin, *cited))
        if options.json:
            _write(options.json, report.comparison(pair, alignment, tallies, spectra, gaps))
        return DONE_WITH_GAPS if gaps else 0


def _check(options: argparse.Namespace) -> int:
    assertions = [checks.read_assertion(text) for text in options.assertions]
    with _working(options) as (store, jobs):
        pair = _prepare(jobs, options.base, options.tuned)
        alignment = store.alignment(pair.key)
        for assertion in assertions:
            checks.refuse_aimless(assertion, alignment)
        plan = Plan(spectra=any(assertion.needs_spectra for assertion in assertions), masks=False)
        _watch(jobs, jobs.submit(pair, plan))
        tallies, gaps = store.tallies(pair.key, arrays=False), store.gaps(pair.key)
        spectra = store.spectra(pair.key, arrays=False) if plan.spectra else {}
        verdicts = [checks.judge(assertion, alignment, tallies, spectra, gaps) for assertion in assertions]
        if options.json:
            _write(options.json, report.check(pair, alignment, tallies, verdicts))
        if str(options.json) != "-":
            _print_verdicts(pair, verdicts)
            print(f"{_covered(report.coverage(alignment, tallies))}")
        return 0 if all(verdict.holds for verdict in verdicts) else DOES_NOT_HOLD


@contextmanager
def _working(options: argparse.Namespace) -> Iterator[tuple[Store, Jobs]]:
    """The terminal's own store and queue; closed whatever happens."""
    settings = Settings.from_environment()
    if options.device:
        settings = dataclasses.replace(settings, device=options.device)
    file = options.store or settings.data_dir / "terminal.duckdb"
    _make_folder(file)
    settings = dataclasses.replace(settings, store_file=file.absolute())
    if options.json and str(options.json) != "-":
        _make_folder(options.json)  # before the work, not after it
    with Store.open(file) as store:
        jobs = Jobs(store, settings, any_folder=True)
        jobs.start(resume=False)
        try:
            yield store, jobs
        finally:
            jobs.stop()


def _make_folder(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"'{file.parent}' cannot be made ({error.strerror})", do="Name another place") from error


def _shown(text: str) -> str:
    """Text of strangers for a terminal: what steers it, and line breaks, written out."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _prepare(jobs: Jobs, base: str, tuned: str) -> Pair:
    preparation = jobs.prepare(base, tuned)
    assert preparation.pair is not None, "a base was named"
    assert preparation.alignment is not None
    for note in preparation.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"base   {preparation.pair.base}\ntuned  {preparation.pair.tuned}", file=sys.stderr)
    return preparation.pair


def _watch(jobs: Jobs, job_id: str) -> None:
    """Draws bars while the job runs. Raises the job's error."""
    with _Bars() as bars:
        while not (progress := jobs.wait(job_id, timeout=_POLL_SECONDS)).ended:
            bars.show(progress)
        bars.show(progress)
    if progress.error is not None:
        raise progress.error


class _Bars:
    """One bar for the download, one for the measurements; silent where the output is no terminal."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm] = {}
        self._said = ""

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def show(self, progress: Progress) -> None:
        if progress.waiting_words not in ("", self._said):
            self._said = progress.waiting_words
            tqdm.write(self._said, file=sys.stderr)
        if progress.bytes_planned:
            self._move("fetching", progress.bytes_done, progress.bytes_planned, unit="B", unit_scale=True)
        if progress.planned:
            unit = "regions" if progress.kind == "overlap" else "measurements"
            self._move("measuring", progress.done, progress.planned, unit=f" {unit}")

    def _move(self, title: str, done: int, planned: int, **style: Any) -> None:
        bar = self._bars.get(title)
        if bar is None:
            bar = self._bars[title] = tqdm(total=planned, desc=title, disable=None, leave=False, **style)
        bar.total = planned
        bar.update(done - bar.n)


def _print_headline(pair: Pair, found: Headline) -> None:
    print(f"\n{pair.base.title} -> {pair.tuned.title}")
    for reason in found.reasons_withheld:
        print(f"  no headline            {reason}")
    for rule in RULES if not found.withheld else ():
        share = found.unchanged[rule]
        print(f"  unchanged {rule:<12} {100 * share.value:9.4f} %   {share.part:,} of {share.whole:,}")
    if found.spectra_measured and not found.withheld:
        rank, matrices = 100 * found.mean_rank_share, found.spectra_measured
        print(f"  mean rank of updates   {rank:9.4f} %   of full, over {matrices} matrices")
    print(f"  tensors touched        {found.tensors_touched} of {found.tensors_measured}")
    if found.nonfinite:
        print(f"  not finite             {found.nonfinite:,} entries")


def _print_verdicts(pair: Pair, verdicts: Sequence[Verdict]) -> None:
    print(f"\n{pair.base.title} -> {pair.tuned.title}")
    width = max(len(verdict.assertion.text) for verdict in verdicts)
    for verdict in verdicts:
        print(f"  {'holds' if verdict.holds else 'FAILS'}  {verdict.assertion.text:<{width}}  {verdict.words}")
    print(f"{sum(verdict.holds for verdict in verdicts)} of {len(verdicts)} assertions hold; ", end="")


def _covered(coverage: dict[str, Any]) -> str:
    compared, base, tuned = (coverage[f"{what}_parameters"] for what in ("compared", "base", "tuned"))
    of_base, of_tuned = (sum(coverage["by_match"][side].values()) for side in ("base", "tuned"))
    left_out = len(coverage["not_compared"])
    shares = f"{100 * of_base / base:.2f} % of base, {100 * of_tuned / tuned:.2f} % of tuned"
    return f"{compared:,} parameters: {shares}" + (f"; {left_out} tensors not compared" if left_out else "")


def _print_overlap(found: Venn) -> None:
    document = report.overlap_numbers(found)
    print(f"\nrule {found.rule}: {document['entries']:,} entries")
    for index, label in enumerate(found.labels):
        print(f"  {chr(65 + index)}  {label}: {document['changed'][index]:,} changed")
    for pair in document["pairs"]:
        one, other = (chr(65 + index) for index in pair["models"])
        numbers = "  ".join(f"{name} {_percent(pair[name])}" for name in ("o1", "o2", "jaccard"))
        chance = f"by chance o1 {_percent(pair['chance']['o1'])}, matched {_percent(pair['chance_matched']['o1'])}"
        print(f"  {one} and {other}: {pair['both']:,} in both  {numbers}  ({chance})")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _write(file: Path, document: dict[str, Any]) -> None:
    text = json.dumps(document, allow_nan=False)
    if str(file) == "-":
        print(text)
        return
    _write_text(file, text + "\n")


def _write_text(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"'{file}' cannot be written ({error.strerror})", do="Name another file") from error


if __name__ == "__main__":
    sys.exit(main())
