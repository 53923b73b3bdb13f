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
from latently.interfaces import judging_commands, table_commands
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
    number,
    whole,
)
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
    n: Annotated[int, typer.Option("-n", parser=whole, metavar="INT", help="rows to draw")] = 64,
    context: Annotated[
        str | None,
        typer.Option("--context", help="of a conditional model: 7, each, or 0.5,2"),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option("--temperature", parser=number, metavar="T", help="of a flow's noise"),
    ] = 1.0,
    given: Annotated[
        str | None,
        typer.Option("--given", help="cells of a table that are held: 'age=40,town=Rome'"),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples", parser=whole, metavar="INT", help="particles of --given, or 1000"
        ),
    ] = None,
    sweeps: Annotated[
        int | None,
        typer.Option(
            "--sweeps", parser=whole, metavar="INT", help="most rounds of refining them, or 10"
        ),
    ] = None,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Draw from the model: .png grid, .npz, .npy or .csv."""
    from latently.interfaces import verbs

    how: dict[str, Any] = {"seed": seed, "force": force, "context": context, "given": given}
    how["particles"] = {"samples": samples, "sweeps": sweeps}
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
            parser=whole,
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


app.command()(table_commands.schema)
app.command()(table_commands.impute)
app.command()(judging_commands.report)
app.command()(judging_commands.diagnose)
app.command()(judging_commands.probe)
app.command()(table_commands.amputate)


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
