"""The command line. Nothing heavy is imported before a command runs.

Exit codes: 0 done; 130 interrupted, checkpoint kept; 2 the user's mistake, one line on stderr
that names it and the fix; 1 ours.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from latently.errors import Interrupted, UserError
from latently.interfaces.leaving import check_words, explain, fail, leave_quietly

__all__ = ["app", "main"]

app = typer.Typer(
    name="latently",
    help="Deep latent variable models, where every number says what it is.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class _Stopped(Exception):
    """A stopped fit, by an exception that the parser lets through with its message."""


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    try:
        yield
    except Interrupted as stop:
        raise _Stopped(str(stop)) from None


def _whole(text: object) -> int:
    try:
        return int(str(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def _seed(text: object) -> int:
    number = _whole(text)
    if not 0 <= number < 2**63:
        raise typer.BadParameter(f"{number} is not from 0 to 2^63 - 1")
    return number


ModelPath = Annotated[str, typer.Argument(metavar="MODEL", help="a model file")]
Spec = Annotated[str, typer.Option("--data", help="a data set such as digits/test, or a file")]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", help="folder of the data sets [$LATENTLY_DATA]")
]
Out = Annotated[str, typer.Option("--out", help="file to write; its suffix says the kind")]
Force = Annotated[bool, typer.Option("--force", help="replace an existing --out")]
Seed = Annotated[
    int, typer.Option("--seed", parser=_seed, metavar="INT", help="seed of everything random")
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        parser=_whole,
        metavar="INT",
        help="draws per row of importance sampling; without: exact if that is cheap, else 1000",
    ),
]
Mask = Annotated[
    str | None,
    typer.Option("--mask", help="cells to hide, e.g. \"Half(side='lower')\"; latently list masks"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]

_RAW = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def _print_version(asked: bool) -> None:
    if asked:
        from latently._version import __version__

        print(f"latently {__version__}")
        raise typer.Exit


@app.callback()
def latently(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="print the version"
        ),
    ] = False,
) -> None:
    """Deep latent variable models, where every number says what it is."""


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", help="folder to write to")] = "demo",
    quick: Annotated[bool, typer.Option("--quick", help="a few seconds, worse models")] = False,
) -> None:
    """Fit FA, PPCA, VAE and IWAE to digits; evidence, samples and a report."""
    from latently.interfaces.demo import run_demo

    with _stopping():
        run_demo(out, quick=quick)


@app.command(context_settings=_RAW)
def fit(context: typer.Context) -> None:
    """Fit RECIPE to --data and write --out; see latently fit RECIPE --help."""
    from latently.interfaces.fitting import fit_command
    from latently.interfaces.request import fit_help

    words = context.args
    if not words or "--help" in words or "-h" in words:
        print(fit_help(words[0] if words and not words[0].startswith("-") else None))
        return
    with _stopping():
        fit_command(words)


@app.command()
def evaluate(
    model: ModelPath,
    data: Spec,
    samples: Samples = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="e.g. Enumeration; latently list methods"),
    ] = None,
    mask: Mask = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """How likely are these rows: log p(x), with its kind and error bars."""
    from latently.interfaces.opening import Rows
    from latently.interfaces.verbs import evaluate_model

    rows = Rows(data, data_dir, seed, mask)
    print(evaluate_model(model, rows, samples=samples, method=method, as_json=json))


@app.command()
def compare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="model files")],
    data: Spec,
    samples: Samples = None,
    mask: Mask = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    json: AsJson = False,
) -> None:
    """Rank models on the same rows, with kinds, error bars and paired differences."""
    from latently.interfaces import verbs
    from latently.interfaces.opening import Rows

    verbs.compare(models, Rows(data, data_dir, seed, mask), samples=samples, as_json=json)


@app.command()
def sample(
    model: ModelPath,
    out: Out,
    n: Annotated[int, typer.Option("-n", parser=_whole, metavar="INT", help="rows to draw")] = 64,
    context: Annotated[
        str | None,
        typer.Option("--context", help="of a conditional model: 7, each, or 0.5,2"),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option("--temperature", parser=_number, metavar="T", help="of a flow's noise"),
    ] = 1.0,
    given: Annotated[
        str | None,
        typer.Option("--given", help="cells of a table that are held: 'age=40,town=Rome'"),
    ] = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Draw from the model: .png grid, .npz, .npy or .csv."""
    from latently.interfaces import verbs

    how: dict[str, Any] = {"seed": seed, "force": force, "context": context, "given": given}
    print(verbs.sample(model, n, out, temperature=temperature, **how))


@app.command()
def reconstruct(
    model: ModelPath,
    data: Spec,
    out: Out,
    mask: Mask = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write reconstructions: .npz, .npy, .csv, or a .png beside the originals."""
    from latently.interfaces import verbs
    from latently.interfaces.opening import Rows

    print(verbs.reconstruct(model, Rows(data, data_dir, seed, mask), out, force=force))


@app.command()
def encode(
    model: ModelPath,
    data: Spec,
    out: Out,
    mask: Mask = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write every row's posterior mean: .npz with z0, z1, ... or .csv."""
    from latently.interfaces import verbs
    from latently.interfaces.opening import Rows

    print(verbs.encode(model, Rows(data, data_dir, seed, mask), out, force=force))


@app.command()
def score(
    model: ModelPath,
    data: Spec,
    out: Out,
    samples: Samples = None,
    typical: Annotated[
        str | None,
        typer.Option("--typical", help="held-out rows like the training rows: adds typicality"),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(
            "--background", help="a model of what all rows share: adds the likelihood ratio"
        ),
    ] = None,
    complexity: Annotated[
        bool, typer.Option("--complexity", help="add the ratio against a compressor")
    ] = False,
    contributions: Annotated[
        bool,
        typer.Option("--contributions", help="add what every cell adds to the error"),
    ] = False,
    attribution: Annotated[
        bool,
        typer.Option(
            "--attribution", help="add how strange every cell is, given the others of its row"
        ),
    ] = False,
    mask: Mask = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write every row's log p(x), anomaly score and error: .csv or .npz."""
    from latently.interfaces import scoring
    from latently.interfaces.opening import Rows

    rows = Rows(data, data_dir, seed, mask)
    asked = scoring.Asked(samples, typical, background, complexity, contributions, attribution)
    print(scoring.score(model, rows, out, asked, force=force))


@app.command("fit-density")
def fit_density(
    model: ModelPath,
    data: Spec,
    out: Out,
    codes: Annotated[
        str, typer.Option("--codes", help="recipe of the density, e.g. flow or mixture")
    ] = "mixture",
    data_dir: DataDir = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Put a density on the codes of an autoencoder, so that it can draw rows."""
    from latently.interfaces.densities import fit_density_command

    with _stopping():
        print(fit_density_command(model, data, out, codes, data_dir, seed, force=force))


@app.command()
def classify(
    model: ModelPath,
    data: Spec,
    out: Out,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            parser=_whole,
            metavar="INT",
            help="draws per class for the model's own p(y|x); without: the classifier's q(y|x)",
        ),
    ] = None,
    mask: Mask = None,
    data_dir: DataDir = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Write every row's class and its probabilities: .csv or .npz."""
    from latently.interfaces.classifying import classify as classes_of
    from latently.interfaces.opening import Rows

    rows = Rows(data, data_dir, seed, mask)
    print(classes_of(model, rows, out, samples=samples, force=force))


@app.command("schema")
def schema_(
    table: Annotated[str, typer.Argument(help="a table: .csv, .tsv or .parquet")],
    out: Annotated[
        str | None, typer.Option("--out", help="JSON file to write, to edit and fit --schema")
    ] = None,
    kinds: Annotated[
        str | None, typer.Option("--kinds", help="what some columns are, e.g. zip=categorical")
    ] = None,
    force: Force = False,
) -> None:
    """Say what the columns of a table are taken for."""
    from latently.interfaces.tabular import schema_command

    print(schema_command(table, out, kinds, force))


@app.command()
def impute(
    model: ModelPath,
    data: Spec,
    out: Out,
    draws: Annotated[
        int | None,
        typer.Option("--draws", parser=_whole, metavar="INT", help="imputations per row, or 10"),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", parser=_whole, metavar="INT", help="particles per row")
    ] = 1000,
    sweeps: Annotated[
        int,
        typer.Option(
            "--sweeps", parser=_whole, metavar="INT", help="most rounds of refining the particles"
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


@app.command()
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


@app.command()
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
            "--rows", parser=_whole, metavar="INT", help="rows for parts that take long per row"
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


@app.command()
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
        typer.Option("--draws", parser=_whole, metavar="INT", help="draws of labelled rows"),
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


@app.command()
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


@app.command()
def show(
    model: ModelPath,
    command: Annotated[bool, typer.Option("--command", help="only the fit call")] = False,
) -> None:
    """Print a model file's recipe call, sizes and training record."""
    from latently.interfaces import verbs

    print(verbs.show(model, command=command))


@app.command("list")
def list_(
    kind: Annotated[
        str | None,
        typer.Argument(help="recipes, families, priors, bounds, estimators, nets, data, ..."),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(help="one of them: its options and what it does")
    ] = None,
) -> None:
    """List the kinds of parts, those of a KIND, or the options of one by NAME."""
    from latently.interfaces import verbs

    print(verbs.list_kind(kind, name))


@app.command()
def doctor(data_dir: DataDir = None) -> None:
    """Print versions, devices, threads, compiler and the data sets found."""
    from latently.interfaces import doctor as found

    print(found.doctor(data_dir))


@app.command()
def reproduce(
    card: Annotated[str, typer.Argument(help="a card's name; see latently list cards")],
    out: Annotated[str, typer.Option("--out", help="folder to write to")] = "runs",
    quick: Annotated[bool, typer.Option("--quick", help="a small budget, to see it work")] = False,
    data_dir: DataDir = None,
) -> None:
    """Run a published number again, from its card."""
    from latently.interfaces.cards import reproduce_card

    with _stopping():
        reproduce_card(card, out, quick=quick, data_dir=data_dir)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits by the contract above."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        check_words(words)
        code = app(words or ["--help"], prog_name="latently", standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        fail(str(error), 2)
    except _Stopped as error:
        fail(f"interrupted: {error}", 130)
    except (KeyboardInterrupt, typer.Abort):
        fail("interrupted", 130)
    except BrokenPipeError:
        leave_quietly()
    except SystemExit as left:  # the parser's word for a broken pipe
        if isinstance(left.__context__, BrokenPipeError):
            leave_quietly()
        raise
    except OSError as error:
        fail(f"{error.filename or 'a file'}: {error.strerror or error}; see the path", 2)
    except Exception as error:
        explain(error)
    if code == 130:  # the parser's word for a Ctrl-C
        fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
