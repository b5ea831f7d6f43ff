"""The model card of a version: its purpose, its measured quality and its limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from features.payment_risk import PAYMENT_RISK

if TYPE_CHECKING:
    from collections.abc import Iterator

FIGURES = {
    "auc": "AUC, all payments",
    "average_precision": "average precision (AP), all payments",
    "recall_at_fpr_1_percent": "recall at a false positive rate of 1 %",
    "brier": "Brier score of p",
    "licit_refused": "licit payments refused",
    "fraud_refused": "frauds refused",
    "seen_auc": "AUC, recipients seen before",
    "seen_average_precision": "AP, recipients seen before",
    "seen_fraud_share": "share of fraud among payments to recipients seen before",
    "fresh_auc": "AUC, fresh recipients",
    "fresh_average_precision": "AP, fresh recipients",
    "fresh_fraud_refused": "frauds refused, fresh recipients",
    "lookalike_refused": "licit look-alikes refused",
    "swap_licit_refused": "recipient swap: licit recipients refused",
    "swap_illicit_refused": "recipient swap: scams and mules with 5 receipts or more refused",
}
GOALS = {
    "seen_average_precision": (">=", 0.90),
    "lookalike_refused": ("<=", 0.06),
    "swap_licit_refused": ("<=", 0.05),
    "swap_illicit_refused": (">=", 0.70),
}


def card(manifest: dict[str, Any]) -> str:
    """Returns the card as Markdown."""
    sections = (_claim, _figures, _blind, _calibration, _wrongs, _features, _origin)
    return "\n".join(line for section in sections for line in (*section(manifest), ""))


def _claim(manifest: dict[str, Any]) -> Iterator[str]:
    yield f"# {manifest['name']} {manifest['version']}"
    yield ""
    yield "Does the recipient of a proposed Bitcoin payment, or the holder of the sender's keys"
    yield "right now, act with intent to defraud? One row is one proposal: the sender's linked"
    yield "addresses, the recipient's address, the amount, and the confirmed chain up to a block."
    yield ""
    yield "**Trained on simulated payments only. It has never seen a real fraud.** Its scores on"
    yield "mainnet are unvalidated: run it in shadow there until there are outcomes of your own."
    yield "It is not a sanctions screening and not a tool for AML compliance."
    yield ""
    yield "No check on real blocks is part of this version: its features need the history of"
    yield "addresses, which single blocks do not hold."


def _figures(manifest: dict[str, Any]) -> Iterator[str]:
    first, last = manifest["worlds"]["test"]
    yield "## What it can do"
    yield ""
    yield f"Measured once, on {last - first + 1} simulated worlds it never saw. Intervals: 95 %,"
    yield "bootstrap over worlds. Refused means at or above the version's own threshold."
    yield ""
    yield "| | value | 95 % | goal |"
    yield "|---|---|---|---|"
    for name, label in FIGURES.items():
        figure = manifest["metrics"]["figures"][name]
        interval = f"{figure['low']:.3f} to {figure['high']:.3f}"
        yield f"| {label} | {figure['value']:.3f} | {interval} | {_goal(name, figure)} |"
    yield ""
    yield "Worlds in thirds, by how often addresses are reused and by how much fraud there is:"
    yield ""
    yield "| worlds | up to | AP | licit refused | frauds refused |"
    yield "|---|---|---|---|---|"
    for label, habit in (("reuse", "by_reuse"), ("illicit share", "by_prior")):
        for part in manifest["metrics"][habit]:
            yield (
                f"| {label} | {part['up_to']:.3f} | {part['average_precision']:.3f} |"
                f" {part['licit_refused']:.3f} | {part['fraud_refused']:.3f} |"
            )


def _goal(name: str, figure: dict[str, float]) -> str:
    if name not in GOALS:
        return ""
    sign, goal = GOALS[name]
    reached = figure["value"] >= goal if sign == ">=" else figure["value"] <= goal
    return f"{sign} {goal:.2f}, {'reached' if reached else '**missed**'}"


def _blind(manifest: dict[str, Any]) -> Iterator[str]:
    refused = manifest["metrics"]["refused_by_typology"]
    unseen = manifest["metrics"]["refused_when_never_seen"]
    yield "## Where it is blind"
    yield ""
    yield "To a recipient without history there is little to go by: it misses most ransoms and"
    yield "nearly every account takeover, and the first victim of a new scam has no warning."
    yield "A kind of fraud that training never showed is caught as the last column says."
    yield ""
    yield "| recipient or fraud | payments | refused | refused if never seen in training |"
    yield "|---|---|---|---|"
    for typology, figure in refused.items():
        blind = f"{unseen[typology]:.3f}" if typology in unseen else ""
        yield f"| {typology} | {figure['payments']} | {figure['refused']:.3f} | {blind} |"


def _calibration(manifest: dict[str, Any]) -> Iterator[str]:
    numbers = manifest["calibration"]
    yield "## What the numbers mean"
    yield ""
    yield f"`probability` p is calibrated where {numbers['prior']:.2%} of payments are frauds, as"
    yield "in the simulated worlds (Platt's scaling, on worlds of their own; prior shift"
    yield f"{numbers['prior_shift']:g}). The threshold tau = {numbers['threshold']:.4f} refuses 1 %"
    yield "of the licit payments of the validation worlds."
    yield "`risk_score` = sigmoid(logit p - logit tau + logit 0.7), so that a score of 0.7 or more"
    yield "says the same of every version: p >= tau. It is not a probability."
    yield ""
    yield "| payments | mean p | frauds |"
    yield "|---|---|---|"
    for bin in manifest["metrics"]["reliability"]:
        yield f"| {bin['payments']} | {bin['predicted']:.3f} | {bin['observed']:.3f} |"


def _wrongs(_: dict[str, Any]) -> Iterator[str]:
    yield "## Whom it can wrong"
    yield ""
    yield "People who never reuse an address, coinjoin users, new shops, causes with a public"
    yield "address, and customers of payment processors resemble fraud to the model. A refusal is"
    yield "no finding: give the refused a way to a human review, and never train on refusals."


def _features(manifest: dict[str, Any]) -> Iterator[str]:
    yield "## Features"
    yield ""
    yield f"Feature set `{PAYMENT_RISK.name}`, hash `{PAYMENT_RISK.hash}`. Statuses: present,"
    yield "no_history (a fact), unavailable and outside_max_age (no score if required)."
    yield ""
    yield "| feature | meaning | required | 0.1 % to 99.9 % in training |"
    yield "|---|---|---|---|"
    for definition in PAYMENT_RISK.definitions:
        low, high = manifest["ranges"][definition.name]
        required = "yes" if definition.required else "no"
        yield f"| {definition.name} | {definition.formula} | {required} | {low:.4g} to {high:.4g} |"


def _origin(manifest: dict[str, Any]) -> Iterator[str]:
    yield "## Origin"
    yield ""
    for split, (first, last) in manifest["worlds"].items():
        yield f"- {split} worlds: seeds {first} to {last}"
    yield "- besides payments that were made, training and the swap figures use the same payments"
    yield "  proposed to another recipient of the same world"
    yield f"- trees: {manifest['trees']['count']}; largest difference between LightGBM and ONNX"
    yield f"  Runtime: {manifest['trees']['parity']:.1e}"
    yield f"- SHA-256 of the code: `{manifest['code_sha256']}`"
    yield f"- {', '.join(f'{name} {version}' for name, version in manifest['libraries'].items())}"
