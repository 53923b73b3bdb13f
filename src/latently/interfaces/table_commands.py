"""Commands of tables, and of what is missing in any rows: schema, impute, amputate.

Nothing heavy is imported before one of them runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from latently.interfaces.arguments import DataDir, Force, Mask, ModelPath, Out, Seed, Spec, whole

__all__ = ["amputate", "impute", "schema"]


def schema(
    table: Annotated[str, typer.Argument(help="a table: .csv, .tsv or .parquet")],
    out: Annotated[
        str | None, typer.Option("--out", help="JSON file to write, to edit and fit --schema")
    ] = None,
    kinds: Annotated[
        str | None, typer.Option("--kinds", help="what some columns are, e.g. zip=categorical")
    ] = None,
    na_values: Annotated[
        str | None,
        typer.Option(
            "--na-values",
            help="what means missing beside ?, NA, ...: -9,unknown, or for one column insulin=0",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Say what the columns of a table are taken for."""
    from latently.interfaces.tabular import schema_command

    print(schema_command(table, out, kinds, na_values, force))


def impute(
    model: ModelPath,
    data: Spec,
    out: Out,
    draws: Annotated[
        int | None,
        typer.Option("--draws", parser=whole, metavar="INT", help="imputations per row, or 10"),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", parser=whole, metavar="INT", help="particles per row")
    ] = 1000,
    sweeps: Annotated[
        int,
        typer.Option(
            "--sweeps", parser=whole, metavar="INT", help="most rounds of refining the particles"
        ),
    ] = 10,
    quantiles: Annotated[
        str, typer.Option("--quantiles", help="quantiles of every missing cell, for .npz")
    ] = "0.05,0.5,0.95",
    fill: Annotated[
        str | None,
        typer.Option(
            "--fill",
            help="what .csv and .npy hold: draws, mean, median or mode; of tables the mean (of "
            "names the mode) where no --draws are asked for",
        ),
    ] = None,
    mask: Mask = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Fill in missing entries (NaN): .npz with draws, mean, spread; .csv; or a .png."""
    from latently.interfaces.imputing import impute_command
    from latently.interfaces.opening import Rows

    rows = Rows(data, data_dir, seed, mask)
    print(
        impute_command(
            model,
            rows,
            out,
            draws=draws,
            samples=samples,
            sweeps=sweeps,
            quantiles=quantiles,
            fill=fill,
            force=force,
        )
    )


def amputate(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="a table, .npz or .npy")],
    mechanism: Annotated[
        str,
        typer.Option(
            "--mechanism", help="what is lost, e.g. 'MNAR(0.3)'; latently list mechanisms"
        ),
    ],
    out: Out,
    truth: Annotated[
        str | None, typer.Option("--truth", help="also write what was hidden: .npz or .csv")
    ] = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Hide cells of a table by a rule that looks at values, to test imputation."""
    from latently.interfaces.amputating import amputate_command

    print(amputate_command(table, mechanism, out, truth=truth, seed=seed, force=force))
