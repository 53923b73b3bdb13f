"""Commands that judge a model on a page: report, diagnose, probe.

Nothing heavy is imported before one of them runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from latently.interfaces.arguments import (
    AsJson,
    DataDir,
    Force,
    Mask,
    ModelPath,
    Out,
    Samples,
    Seed,
    Spec,
    whole,
)

__all__ = ["diagnose", "probe", "report"]


def report(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="model files")],
    data: Spec,
    out: Out = "report.html",
    samples: Samples = None,
    mask: Annotated[
        str | None,
        typer.Option("--mask", help="holes of the imputation section; latently list masks"),
    ] = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write one HTML page: evidence, curves, latents, samples, imputations."""
    from latently.interfaces.opening import Rows
    from latently.interfaces.reporting import report_command

    rows = Rows(data, data_dir, seed, mask)
    print(report_command(models, rows, out, samples=samples, force=force))


def diagnose(
    model: ModelPath,
    data: Spec,
    train: Annotated[
        str | None,
        typer.Option(
            "--train", help="rows it was fitted to; without: those its file names, if it does"
        ),
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(
            "--parts",
            help="some of latents, gaps, opinion, bracket, curve, samples, factors; without: all",
        ),
    ] = None,
    few: Annotated[
        int,
        typer.Option(
            "--rows", parser=whole, metavar="INT", help="rows for parts that take long per row"
        ),
    ] = 50,
    method: Annotated[
        str | None,
        typer.Option("--method", help='the second opinion, e.g. "AIS(steps=5000)"'),
    ] = None,
    factors: Annotated[
        str | None,
        typer.Option("--factors", help="columns with known factors of the rows, by commas"),
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="page to write, .html")] = None,
    mask: Mask = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    json: AsJson = False,
    force: Force = False,
) -> None:
    """What the latents do, whose fault the gap is, second opinions, samples."""
    from latently.interfaces.diagnosing import diagnose_command
    from latently.interfaces.opening import Rows

    diagnose_command(
        model,
        Rows(data, data_dir, seed, mask),
        train=train,
        parts=parts,
        few=few,
        method=method,
        factors=factors,
        out=out,
        as_json=json,
        force=force,
    )


def probe(
    model: ModelPath,
    data: Annotated[
        str,
        typer.Option("--data", help="rows with labels: a named set (its train split) or a file"),
    ],
    labels: Annotated[
        str | None,
        typer.Option("--labels", help="numbers of labelled rows [10,100,1000,all]"),
    ] = None,
    draws: Annotated[
        int,
        typer.Option("--draws", parser=whole, metavar="INT", help="draws of labelled rows"),
    ] = 5,
    test: Annotated[
        str | None,
        typer.Option(
            "--test", help="rows to test on; without: the set's test split, or a fifth of a file"
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods", help="some of linear, fine-tuned, scratch, cells, pca; without: all"
        ),
    ] = None,
    corruption: Annotated[
        str | None,
        typer.Option(
            "--corruption",
            help='spoils test rows of the linear probe, e.g. "Masking(0.5)"; latently list '
            "corruptions",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="file to write: .html, .json or .csv")
    ] = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    json: AsJson = False,
    force: Force = False,
) -> None:
    """What the codes are worth to a classifier that has few labels."""
    from latently.interfaces.probing import Asked, probe_command

    asked = Asked(data, test, labels, draws, methods, corruption, data_dir, seed)
    probe_command(model, asked, out=out, as_json=json, force=force)
