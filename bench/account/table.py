"""Tables of the account's case: plans, runs, and the published figures beside both."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.account.job import kept_over_seeds
from bench.account.plan import LENGTH
from bench.account.published import FIGURES, LATENCY_CARD, LATENCY_DEVICE
from compression.schema.report.card_rows import CardReport
from compression.schema.report.targets import target_text
from compression.schema.stages import BASELINE

Record = Mapping[str, Any]
UNKNOWN = "not_measured"
HEADS = {
    "plan": ("shape, recipe", "parameters", "after", "card", "host beside it", "hours on {} (training)", "preflight says"),
    "run": ("seed", "row", "parameters", "bytes", "1 × 64, one thread", "validation", "test", "targets"),
    "account": ("figure", "asked", "published: before", "after", "", "here"),
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plan_table(plans: Sequence[Record]) -> str:
    """Return what preflights expect, a line each."""
    machines = next((list(one["minutes"]) for one in plans if "minutes" in one), [])
    return table([one.format(", ".join(machines)) for one in HEADS["plan"]], [_plan(one) for one in plans])


def _plan(one: Record) -> list[str]:
    name = f"{one['shape']}, {one['recipe']}"
    if "refused" in one:
        refused = one["refused"]
        return [name, "", "", "", "", "", f"refused: {refused['code']}: {refused['cause']} ({refused['param']})"]
    found, estimate = one["preflight"], one["preflight"]["estimate"]
    before, after = (found[key]["total"] for key in ("baseline_parameters", "parameters"))
    hours = ", ".join(f"{each['total'] / 60:.1f} ({each['training'] / 60:.1f})" for each in one["minutes"].values())
    notes = [note for note in found["warnings"] if "data sheet" in note]
    sizes = (f"{estimate[key] / 1e9:.1f} GB" for key in ("card_bytes", "host_bytes_with_card"))
    return [name, f"{before / 1e9:.3f} B", f"{after / 1e9:.3f} B ({after / before - 1:+.1%})", *sizes, hours, " ".join(notes)]


def run_table(runs: Sequence[Record]) -> str:
    """Return the rows of runs, and under them what is kept on the mean of their seeds."""
    if len({(one["digest"], one["model_digest"]) for one in runs}) > 1:
        raise SystemExit(f"the records of {runs[0]['model']} are of several models or sets of rows: they have no mean")
    lines = [[str(one["seed"]), *_row(row)] for one in runs for row in one["rows"]]
    found, seeds = kept_over_seeds(runs, runs[0]["set"]), ", ".join(str(one["seed"]) for one in runs)
    minutes = sum(one["seconds"] for one in runs) / 60
    told = (
        f"{runs[0]['model']}, {runs[0]['set']}, {runs[0]['train_rows']} rows, seeds {seeds}: {found.before:.2%} → "
        f"{found.after:.2%} on test, kept {found.share:.1%} [{found.low:.1%}, {found.high:.1%}]; {minutes:.0f} min"
    )
    if runs[0].get("trial_steps"):
        told += f"; a trial of {runs[0]['trial_steps']} steps, whose scores mean nothing"
    if runs[0].get("random_weights"):
        told += f" on {runs[0]['device']}; weights are random, so scores mean nothing"
    return table(HEADS["run"], lines) + "\n\n" + told


def _row(row: Record) -> list[str]:
    ratios, latency = row["ratios"], row["latency"]
    return [
        row["stage"],
        f"{row['parameters']['total'] / 1e6:.2f} M ({-ratios['parameter_reduction']:+.1%})",
        f"{row['size']['bytes'] / 1e6:.1f} MB ({-ratios['size_reduction']:+.1%})",
        latency.get("not_measured") or f"{latency['median_ms']:.1f} ms ({ratios['speed_up']:.2f}×)",
        _score(row["validation"]),
        _score(row["score"]),
        "; ".join(_verdict(name, found) for name, found in row["targets"].items()),
    ]


def _score(found: Record | None) -> str:
    if found is None or "not_measured" in found:
        return UNKNOWN
    return f"{found['value']:.2%} ± {found['standard_error']:.2%}"


def _verdict(name: str, found: Record) -> str:
    """Return a verdict as text, with the device that it is judged on."""
    value = found["value"]
    told = UNKNOWN if value is None else target_text(name, value, found.get("metric"))
    where = f" on {found['device']}" if found.get("device") else ""
    return f"{name}{where} {told}: {found['status']}"


def account_table(plans: Sequence[Record], runs: Sequence[Record]) -> str:
    """Return the published figures, each beside what was found here: by plans, or by the last rows of runs."""
    here = dict.fromkeys((one.name for one in FIGURES), UNKNOWN)
    cards = [CardReport.model_validate(one["card"]) for one in runs if "card" in one]
    here["latency on an A100"] = card_latency(cards[0]) if cards else f"{UNKNOWN}: no profile on {LATENCY_DEVICE}"
    known = [one["preflight"] for one in plans if "preflight" in one]
    if known:
        before, after = (known[0][key]["total"] for key in ("baseline_parameters", "parameters"))
        here["parameters"] = f"{before / 1e9:.2f} B → {after / 1e9:.2f} B ({after / before - 1:+.1%}), planned"
    if runs:
        first, last = runs[0]["rows"][0], runs[0]["rows"][-1]
        here["parameters"] = _change(first["parameters"]["total"] / 1e6, last["parameters"]["total"] / 1e6, "M")
        here["size"] = _change(first["size"]["bytes"] / 1e6, last["size"]["bytes"] / 1e6, "MB")
    if runs and not (runs[0].get("random_weights") or runs[0].get("trial_steps")):
        found = kept_over_seeds(runs, runs[0]["set"])
        here["score"] = f"{runs[0]['set']} {100 * found.before:.1f} → {100 * found.after:.1f}, {found.share:.1%} kept"
    rows = [[one.name, one.target or "–", one.before, one.after, one.change, here[one.name]] for one in FIGURES]
    return table(HEADS["account"], rows)


def card_latency(card: CardReport) -> str:
    """Return what a pass of one row takes on a job's card, in the runtime that is the fastest after the job, and before it in
    the same one. On another card than the account's the account's own figure stays not measured.
    """
    known = {
        (row.stage, row.runtime): (one.median_ms, row.exclusive)
        for row in card.rows
        for one in row.figures
        if (one.batch, one.length) == (1, LENGTH)
    }
    after = {runtime: found for (stage, runtime), found in known.items() if stage != BASELINE}
    if not after:
        return f"{UNKNOWN}: {card.device} has no figure of 1 × {LENGTH} tokens"
    runtime = min(after, key=lambda one: after[one][0])
    pair = [known[BASELINE, runtime], after[runtime]] if (BASELINE, runtime) in known else [after[runtime]]
    told = _change(pair[0][0], pair[1][0], "ms") if len(pair) == 2 else f"{pair[0][0]:.1f} ms after"
    told += f" in {runtime}, 1 × {LENGTH} tokens, {card.device}"
    if not all(exclusive for _, exclusive in pair):
        told += ", while another job was perhaps timed"
    return told if LATENCY_CARD in card.device else f"{UNKNOWN} on an A100: {told}"


def _change(before: float, after: float, unit: str) -> str:
    return f"{before:.1f} {unit} → {after:.1f} {unit} ({after / before - 1:+.1%})"
