"""Subnetscope from a terminal: compare two models, count how the updates of several overlap, follow a run of
checkpoints, write a report, or check an update.

    python cli.py compare BASE TUNED [--layers 0-3,30-31] [--modules 'q_proj,mlp.*'] [--spectra all|none|every:4]
                                     [--dry-run] [--json FILE]
    python cli.py overlap BASE TUNED TUNED [TUNED ...] [--rule RULE] [--json FILE]
    python cli.py dynamics BASE CKPT [CKPT ...] | BASE MODEL --revisions 'step_*' | --folders 'checkpoint-*'
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
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from analysis import checks, course_report, printed, report
from analysis.alerts import alerts, not_tuned_from
from analysis.coverage import part_of
from analysis.errors import BadReference, ResourceError, SubnetscopeError
from analysis.forecast import Forecast
from analysis.measurements import MASK_RULES, MOST_MODELS, RULES
from analysis.models import Pair
from analysis.overlaps import venn
from analysis.own_updates import OwnUpdates, sentences, summarize_adapter
from analysis.plan import Plan
from analysis.printed import shown
from analysis.rollup import headline_of_part, resemblance
from analysis.selection import read_spectra, select
from analysis.series import axis
from analysis.tensors import Alignment
from cache.bases import alerts_about_bases
from cache.jobs import Jobs, Preparation
from cache.progress import Progress
from cache.rows import without_pandas
from cache.settings import Settings
from cache.store import Store

_POLL_SECONDS = 0.1
DOES_NOT_HOLD = 9
DONE_WITH_GAPS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code, see the module's docstring."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except SubnetscopeError as error:
        print(f"{options.program}: {shown(str(error))}", file=sys.stderr)
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
    compare.add_argument("--layers", default="", metavar="0-3,30-31", help="only these layers; also every:4, outside")
    compare.add_argument("--modules", default="", metavar="q_proj,mlp.*", help="only these modules, by name or pattern")
    spectra = compare.add_mutually_exclusive_group()
    spectra.add_argument("--spectra", default="all", metavar="all|none|every:4", help="of which layers' matrices")
    spectra.add_argument(
        "--no-spectra", dest="spectra", action="store_const", const="none", help="leave out singular values and ranks"
    )
    compare.add_argument("--dry-run", action="store_true", help="say what it would take, and stop")
    compare.set_defaults(run=_compare, program="compare")
    overlap = commands.add_parser("overlap", help="count how the updates of several tuned models overlap")
    overlap.add_argument("base", metavar="BASE")
    overlap.add_argument("tuned", metavar="TUNED", nargs="+")
    overlap.add_argument(
        "--rule",
        dest="rules",
        action="append",
        choices=RULES,
        help="what counts as changed; may be given again (default: exact and mukherjee)",
    )
    overlap.set_defaults(run=_overlap, program="overlap")
    dynamics = commands.add_parser("dynamics", help="follow the parameters over the checkpoints of a run, in order")
    dynamics.add_argument("base", metavar="BASE")
    dynamics.add_argument(
        "checkpoints", metavar="CKPT", nargs="+", help="in order; 'org/name@step_*' or './run/checkpoint-*' are several"
    )
    several = dynamics.add_mutually_exclusive_group()
    several.add_argument("--revisions", metavar="PATTERN", help="branches and tags of the one model named")
    several.add_argument("--folders", metavar="PATTERN", help="folders of the one model named")
    dynamics.set_defaults(run=_dynamics, program="dynamics")
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
    for command in (compare, overlap, dynamics, html, check):
        command.add_argument(
            "--device", help="where to compute: cpu, cuda (all GPUs), cuda:1, cuda:0,cuda:1, or auto (the default)"
        )
        command.add_argument("--stream", action="store_true", help="read Hub models without keeping their files")
        command.add_argument("--store", type=Path, metavar="FILE", help="the DuckDB file that keeps results")
        command.add_argument(
            "--allow-pickles", action="store_true", help="read pytorch_model.bin where there are no safetensors"
        )
        command.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here ('-' for the terminal)")
    return parser


def _compare(options: argparse.Namespace) -> int:
    spectra_too, every = read_spectra(options.spectra)
    selection = select(options.layers, options.modules)
    plan = Plan(spectra=spectra_too, selection=selection, spectra_every=every, previews=False)
    with _working(options) as (store, jobs):
        preparation = _looked_up(jobs, options.base, options.tuned, None if options.dry_run else plan)
        pair, alignment = preparation.pair, preparation.alignment
        assert pair is not None
        assert alignment is not None
        forecast = jobs.forecast(preparation, plan)
        _print((f"note: {shown(sentence)}" for sentence in selection.unmet(alignment.pairs)), to=sys.stderr)
        wanted: set[tuple[str, str]] = {(hole.kind, hole.name) for hole in plan.wanted(alignment)}
        measured = _measured_already(store, pair, forecast, wanted)
        if not _foretold(options, preparation, forecast, plan, measured):
            return 0
        if not measured:
            _watch(jobs, jobs.submit(preparation, plan))
        tallies = {n: t for n, t in store.tallies(pair.key, arrays=False).items() if ("tally", n) in wanted}
        spectra = {n: s for n, s in store.spectra(pair.key).items() if ("spectrum", n) in wanted}
        gaps = {place: reason for place, reason in store.gaps(pair.key).items() if place in wanted}
        own, own_gaps = _own_updates(store, pair, alignment, wanted)
        known = store.find_pair(pair.key)
        about_bases = alerts_about_bases(store, known, tallies) if known else []
        if options.json:
            compared = report.comparison(pair, alignment, tallies, spectra, gaps, plan, about_bases, own)
            _write(options.json, compared)
        if str(options.json) != "-":
            part, found = part_of(alignment, [plan]), headline_of_part(alignment, tallies, spectra, [plan])
            _print(printed.headline_lines(pair, found))
            adapter = summarize_adapter(part, tallies, spectra, own)
            said, noted = sentences(adapter) if adapter else (), alerts(found, part, tallies, about_bases)
            _print(printed.note_lines(said, noted, report.coverage(part, tallies)))
        _print(printed.gap_lines(gaps), to=sys.stderr)
        _print(printed.gap_lines(own_gaps, of="the adapter's own update of "), to=sys.stderr)
        return DONE_WITH_GAPS if gaps or own_gaps else 0


def _own_updates(
    store: Store, pair: Pair, alignment: Alignment, wanted: Collection[tuple[str, str]]
) -> tuple[OwnUpdates, dict[tuple[str, str], str]]:
    """What the adapter itself adds, and why some of it is missing; nothing for a whole model."""
    if not alignment.is_adapter:
        return OwnUpdates(), {}
    tallies = {n: t for n, t in store.tallies(pair.key, "adapter", arrays=False).items() if ("tally", n) in wanted}
    spectra = {n: s for n, s in store.spectra(pair.key, "adapter").items() if ("spectrum", n) in wanted}
    gaps = {place: reason for place, reason in store.gaps(pair.key, "adapter").items() if place in wanted}
    return OwnUpdates(tallies, spectra), gaps


def _measured_already(store: Store, pair: Pair, forecast: Forecast, wanted: Collection[tuple[str, str]]) -> str:
    """Since when all of this is measured, in words; '' where some of it is missing, or failed and is tried again, or
    where nothing can be compared."""
    failed = [place for of in ("update", "adapter") for place in store.gaps(pair.key, of) if place in wanted]
    known = store.find_pair(pair.key)
    if forecast.measurements or failed or not known or not wanted:
        return ""
    return f"already measured on {known.last_activity:%Y-%m-%d %H:%M} UTC, at exactly these commits; nothing to do"


def _foretold(
    options: argparse.Namespace, looked_up: Preparation, forecast: Forecast, plan: Plan, measured: str
) -> bool:
    """Whether to go on, after saying what it will take, or that nothing is left to do. Raises what this machine has
    too little of."""
    cards = {"base": looked_up.base, "tuned": looked_up.tuned}
    sides = {side: (card.parameters, card.bytes) for side, card in cards.items() if card}
    lines = [measured] if measured else printed.forecast_lines(sides, looked_up.alignment, forecast)
    _print(lines, to=sys.stdout if options.dry_run and not options.json else sys.stderr)
    if options.dry_run and options.json and looked_up.pair and looked_up.alignment:
        _write(options.json, report.forecast(looked_up.pair, looked_up.alignment, plan, forecast))
    for refusal in forecast.refusals():
        raise refusal
    return not options.dry_run


def _overlap(options: argparse.Namespace) -> int:
    if len(options.tuned) < 2:
        raise BadReference("Only one tuned model was named", expected="Two or more tuned models of one base")
    if len(options.tuned) > MOST_MODELS:
        expected = f"At most {MOST_MODELS}: the regions double with each"
        raise BadReference(f"{len(options.tuned)} tuned models were named", expected=expected)
    rules = tuple(dict.fromkeys(options.rules or MASK_RULES))
    with _working(options) as (store, jobs):
        plan = Plan(spectra=False, mask_rules=rules)
        pairs = [_prepare(jobs, options.base, tuned, plan) for tuned in options.tuned]
        for pair in pairs:
            _watch(jobs, jobs.submit(pair, plan))
        base, tuned = pairs[0].base, [pair.tuned for pair in pairs]
        _watch(jobs, jobs.submit_overlap(base, tuned, rules))
        keys = tuple(model.key for model in tuned)
        regions = {rule: store.overlaps.regions(base.key, keys, rule) for rule in rules}
        magnitudes = {rule: [store.magnitudes(pair.key, rule) for pair in pairs] for rule in rules}
        _print(_strangers(store, pairs), to=sys.stderr)
        names = {entry.name for pair in pairs for entry in store.alignment(pair.key).pairs}
        not_counted = sorted(names - set(regions[rules[0]]))
        if options.json:
            _write(options.json, report.overlap(base, tuned, regions, magnitudes, not_counted))
        if str(options.json) != "-":
            for rule in rules:
                found = venn(rule, [model.title for model in tuned], regions[rule], magnitudes[rule])
                _print(printed.overlap_lines(found))
        gaps = [gap for pair in pairs for gap in store.gaps(pair.key).items()]
        reasons = {name: why for (kind, name), why in gaps if kind != "spectrum"}
        _print(printed.missing_lines(not_counted, reasons), to=sys.stderr)
        return DONE_WITH_GAPS if reasons.keys() & set(not_counted) else 0


def _strangers(store: Store, pairs: Iterable[Pair]) -> Iterator[str]:
    """A line for each of the tuned models that does not come from the base."""
    for pair in pairs:
        if warning := not_tuned_from(resemblance(store.alignment(pair.key), store.sums(pair.key))):
            yield f"note: {shown(pair.tuned.title)} {warning}"


def _dynamics(options: argparse.Namespace) -> int:
    with _working(options) as (store, jobs):
        found = jobs.prepare_series(options.base, "\n".join(_lines(options)))
        series, where = found.series, axis(found.labels)
        for note in found.notes:
            print(f"note: {shown(note)}", file=sys.stderr)
        if where.title != "step":
            print("note: the names do not tell rising steps; checkpoints are numbered 1, 2, 3, ...", file=sys.stderr)
        print(f"base   {series.base}", file=sys.stderr)
        for label, model in zip(where.names, series.checkpoints, strict=True):
            print(f"{shown(label)}   {model}", file=sys.stderr)
        _watch(jobs, jobs.submit_series(series))
        sides = [
            ([store.alignment(pair.key) for pair in pairs], [store.unchanged(pair.key) for pair in pairs])
            for pairs in (series.from_base, series.from_previous)
        ]
        counts = {rule: store.series.steps(series.key, rule) for rule in MASK_RULES}
        compared = {pair.name for pair in sides[0][0][0].pairs}
        not_followed = sorted(compared - set(counts["exact"]))
        if options.json:
            _write(options.json, course_report.document(series, where, sides[0], sides[1], counts, not_followed))
        if str(options.json) != "-":
            patches = course_report.patches(*sides[1])
            _print(printed.course_lines(where, sides[0][1], sides[1][1], counts, patches))
        for name in not_followed:
            print(f"  not followed, since not all checkpoints have it in one way: {shown(name)}", file=sys.stderr)
        return DONE_WITH_GAPS if any(store.gaps(pair.key) for pair in series.pairs) else 0


def _lines(options: argparse.Namespace) -> list[str]:
    """The checkpoints as lines of a list; of one model and a pattern, that pattern of it."""
    pattern = options.revisions or options.folders
    if not pattern:
        return list(options.checkpoints)
    if len(options.checkpoints) != 1:
        raise BadReference(f"{len(options.checkpoints)} models were named beside a pattern", expected="One model")
    model = options.checkpoints[0].rstrip("/")
    if options.revisions:
        return [f"{model}@{pattern}"]
    path, at, revision = model.partition("@")
    return [f"{path}/{pattern}{at}{revision}"]


def _report(options: argparse.Namespace) -> int:
    from analysis import citation, provenance
    from analysis.figures import report as reports  # brings plotly, which nothing else here needs
    from cache import code

    _make_folder(options.html)  # before the work, not after it
    plan = Plan(previews=False)
    with _working(options) as (store, jobs):
        pair = _prepare(jobs, options.base, options.tuned, plan)
        _watch(jobs, jobs.submit(pair, plan))
        alignment, tallies = store.alignment(pair.key), store.tallies(pair.key, arrays=False)
        spectra, gaps = store.spectra(pair.key), store.gaps(pair.key)
        known, now = store.find_pair(pair.key), datetime.now(UTC)
        basis = provenance.Basis(pair, alignment, len(tallies), known.last_activity if known else None)
        origin = provenance.document("report", [basis], {}, link="", code=code.commit(), written_at=now)
        cited = citation.sentence(pair, code.commit()), citation.bibtex(code.commit(), now.year)
        of = reports.Measured(pair, alignment, tallies, spectra, gaps)
        _write_text(options.html, reports.report(of, origin, *cited))
        wanted = {(hole.kind, hole.name) for hole in plan.wanted(alignment)}
        own, own_gaps = _own_updates(store, pair, alignment, wanted)
        if options.json:
            _write(options.json, report.comparison(pair, alignment, tallies, spectra, gaps, own=own))
        return DONE_WITH_GAPS if gaps or own_gaps else 0


def _check(options: argparse.Namespace) -> int:
    assertions = [checks.read_assertion(text) for text in options.assertions]
    plan = Plan(spectra=any(assertion.needs_spectra for assertion in assertions), masks=False, previews=False)
    with _working(options) as (store, jobs):
        pair = _prepare(jobs, options.base, options.tuned, plan)
        alignment = store.alignment(pair.key)
        for assertion in assertions:
            checks.refuse_aimless(assertion, alignment)
        _watch(jobs, jobs.submit(pair, plan))
        tallies, gaps = store.tallies(pair.key, arrays=False), store.gaps(pair.key)
        spectra = store.spectra(pair.key, arrays=False) if plan.spectra else {}
        verdicts = [checks.judge(assertion, alignment, tallies, spectra, gaps) for assertion in assertions]
        if options.json:
            _write(options.json, report.check(pair, alignment, tallies, verdicts))
        if str(options.json) != "-":
            _print(printed.verdict_lines(pair, verdicts, report.coverage(alignment, tallies)))
        return 0 if all(verdict.holds for verdict in verdicts) else DOES_NOT_HOLD


@contextmanager
def _working(options: argparse.Namespace) -> Iterator[tuple[Store, Jobs]]:
    """The terminal's own store and queue; closed whatever happens."""
    if options.allow_pickles:
        os.environ["SUBNETSCOPE_PICKLES"] = "1"  # for the children that look and fetch
    if options.device:
        os.environ["SUBNETSCOPE_DEVICE"] = options.device
    settings = Settings.from_environment()
    file = options.store or settings.data_dir / "terminal.duckdb"
    _make_folder(file)
    settings = dataclasses.replace(settings, store_file=file.absolute(), stream=settings.stream or options.stream)
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


def _prepare(jobs: Jobs, base: str, tuned: str, plan: Plan) -> Pair:
    pair = _looked_up(jobs, base, tuned, plan).pair
    assert pair is not None
    return pair


def _looked_up(jobs: Jobs, base: str, tuned: str, then: Plan | None) -> Preparation:
    preparation = jobs.prepare(base, tuned, then=then)
    assert preparation.pair is not None, "a base was named"
    for note in preparation.notes:
        print(f"note: {shown(note)}", file=sys.stderr)
    print(f"base   {preparation.pair.base}\ntuned  {preparation.pair.tuned}", file=sys.stderr)
    return preparation


def _watch(jobs: Jobs, job_id: str) -> None:
    """Draws bars while the job runs. Raises the job's error."""
    with _Bars() as bars:
        while not (progress := jobs.wait(job_id, timeout=_POLL_SECONDS)).ended:
            bars.show(progress)
        bars.show(progress)
    if progress.note:
        print(f"note: {progress.note}", file=sys.stderr)
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


def _print(lines: Iterable[str], to: TextIO | None = None) -> None:
    for line in lines:
        print(line, file=to)


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
    without_pandas()
    sys.exit(main())
