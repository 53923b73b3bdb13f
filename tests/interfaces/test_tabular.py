"""Tables on the command line: the same columns, names and cells come out as went in."""

import csv
import json
import math
from collections import Counter

import numpy as np
import pytest

from latently.data import load
from latently.data.tables import MISSING, Schema, read_frame
from latently.io import load_saved
from latently.training.progress import Bar

FIT = "--epochs 2 --quiet --net MLP(hidden=(8,)) --latents 2 --samples 2"


def people(n=120, seed=0):
    """Rows of text with holes: an identifier, numbers, a count, names and grades."""
    rng = np.random.default_rng(seed)
    rows = []
    for k in range(n):
        age = rng.normal(40, 12)
        town = rng.choice(["Bonn", "Rome", "Oslo"])
        grade = int(rng.integers(1, 6))
        cells = [f"p{k:04d}", f"{age:.1f}", town, "yes" if age > 45 else "no", str(grade)]
        cells.append(str(int(rng.poisson(3 + grade) * (1 + age / 40))))
        for j in range(1, 6):
            if rng.random() < 0.1:
                cells[j] = "" if j % 2 else "NA"
        rows.append(cells)
    return ["person", "age", "town", "retired", "grade", "visits"], rows


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "people.csv"
    names, rows = people()
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


@pytest.fixture(scope="module")
def model(table, done):
    out = table.parent / "m.safetensors"
    done("fit", "table", "--data", table, *FIT.split(), "--out", out)
    return out


def read(path):
    with path.open(newline="") as file:
        names, *rows = csv.reader(file)
    return names, rows


def test_imputed_rows_are_the_table_with_its_holes_filled(table, model, done, tmp_path):
    out = tmp_path / "filled.csv"
    assert "the means of" in done("impute", model, "--data", table, "--out", out, "--samples", 50)
    (names, before), (same, after) = read(table), read(out)
    assert same == names
    towns, grades = {"Bonn", "Rome", "Oslo"}, set("12345")
    for old, new in zip(before, after, strict=True):
        for j, (a, b) in enumerate(zip(old, new, strict=True)):
            if a not in ("", "NA"):
                assert a == b
            elif j:
                assert b not in ("", "NA")
        assert new[2] in towns
        assert new[3] in ("yes", "no")
        assert new[4] in grades
        assert new[5].isdecimal()
        assert len(new[1].partition(".")[2]) <= 1


def test_unknown_values_stay_as_they_are_and_a_command_reads_everything_once(
    table, model, cli, tmp_path, monkeypatch
):
    names, rows = read(table)
    strange = tmp_path / "strange.csv"
    rows[0][1:3], rows[1][2], rows[2][0] = ["", "Paris"], "", ""
    with strange.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows[:20]])
    calls = Counter()
    inner = {name: getattr(Schema, name) for name in ("encode", "from_json")}

    def encode(self, frame):
        calls["encode"] += 1
        return inner["encode"](self, frame)

    def from_json(content):
        calls["from_json"] += 1
        return inner["from_json"](content)

    monkeypatch.setattr(Schema, "encode", encode)
    monkeypatch.setattr(Schema, "from_json", from_json)
    out = tmp_path / "filled.csv"
    ran = cli("impute", model, "--data", strange, "--out", out, "--samples", 20)
    assert ran.code == 0
    assert "warning: column 'person' is left out (identifier) and lacks 1 cell, which" in ran.err
    assert calls == {"encode": 1, "from_json": 1}
    _, after = read(out)
    assert after[0][2] == "Paris"
    assert after[0][1] != ""
    assert after[1][2] in ("Bonn", "Rome", "Oslo")
    assert after[2][0] == ""


def test_a_table_that_lacks_identifiers_alone_has_nothing_to_impute(
    table, model, rejected, tmp_path
):
    names, rows = read(table)
    whole = [row for row in rows if not {"", "NA"} & set(row)][:9]
    whole[4][0] = ""
    unnamed = tmp_path / "unnamed.csv"
    with unnamed.open("w", newline="") as file:
        csv.writer(file).writerows([names, *whole])
    words = ("impute", model, "--data", unnamed, "--out", tmp_path / "x.csv")
    rejected(words, "no missing value (NaN) in a column that is modelled")


def test_draws_stand_under_each_other(table, model, done, tmp_path):
    out = tmp_path / "drawn.parquet"
    done("impute", model, "--data", table, "--out", out, "--draws", 3, "--samples", 50)
    data = load(out, like=load_saved(model).data)
    assert len(data) == 360
    assert data.mask is None
    assert "draw" in data.frame.names
    assert "'draw'" in " ".join(data.notices)


def test_samples_have_the_columns_of_the_table(model, done, tmp_path):
    out = tmp_path / "new.csv"
    done("sample", model, "-n", 20, "--out", out)
    names, rows = read(out)
    assert names == ["person", "age", "town", "retired", "grade", "visits"]
    assert len(rows) == 20
    assert all(row[0] == "" and row[2] in ("Bonn", "Rome", "Oslo") for row in rows)


def test_rows_are_drawn_with_some_cells_held(model, cli, done, tmp_path):
    out = tmp_path / "given.csv"
    done("sample", model, "-n", 15, "--given", "town=Rome, age=50.5", "--out", out)
    rows = read(out)[1]
    assert {(row[1], row[2]) for row in rows} == {("50.5", "Rome")}
    assert len({row[5] for row in rows}) > 1
    for given, said in (
        ("town=Paris", "'Paris'"),
        ("twon=Rome", "did you mean town"),
        ("age=old", "'old' is no number"),
        ("age", "column=value"),
    ):
        ran = cli("sample", model, "-n", 2, "--given", given, "--out", tmp_path / "x.csv")
        assert ran.code == 2
        assert said in ran.err


def test_a_column_called_draw_is_named_before_any_work(done, rejected, tmp_path):
    data, model = tmp_path / "t.csv", tmp_path / "m.safetensors"
    rng = np.random.default_rng(0)
    with data.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["draw", "x"])
        for k in range(40):
            rows.writerow([f"{rng.normal():.2f}", "" if k % 5 == 0 else f"{rng.normal():.2f}"])
    done("fit", "fa", "--data", data, "--latents", 1, "--out", model)
    how = ("impute", model, "--data", data, "--out", tmp_path / "five.csv")
    rejected((*how, "--draws", 5), "'draw'", "rename it")
    done(*how, "--draws", 1)


def test_values_lost_because_they_are_high_are_filled_in_above_all_that_were_seen(done, tmp_path):
    rng = np.random.default_rng(0)
    z = rng.normal(size=300)
    x = np.column_stack([z + 0.3 * rng.normal(size=300) for _ in range(3)])
    data = tmp_path / "cut.csv"
    with data.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["a", "b", "y"])
        for a, b, y in x:
            rows.writerow([f"{a:.2f}", f"{b:.2f}", "" if y > 0.5 else f"{y:.2f}"])
    most, out = 0.5, tmp_path / "filled.csv"
    budget = "--steps 300 --quiet --learning-rate 5e-3 --net MLP(hidden=(16,))".split()
    for name, options, above in (
        ("mnar", ("--missingness", "SelfMasking(sign='above')"), True),
        ("mar", (), False),
    ):
        model = tmp_path / f"{name}.safetensors"
        done("fit", "table", "--data", data, *budget, *options, "--out", model)
        done("impute", model, "--data", data, "--samples", 100, "--force", "--out", out)
        pairs = zip(read(out)[1], x[:, 2], strict=True)
        filled = np.array([float(row[2]) for row, y in pairs if y > 0.5])
        assert ((filled > most).mean() > 0.5) == above


def test_cells_are_held_as_they_are_given(done, cli, tmp_path):
    """Beyond all that was seen, with more digits, or a name that is pooled with rare ones."""
    rng, data, out = np.random.default_rng(0), tmp_path / "t.csv", tmp_path / "held.csv"
    towns = ["Bonn"] * 60 + ["Rome"] * 50 + ["Paris, TX", "Oslo", "Ulm", "Köln"]
    codes = [101] * 60 + [102] * 50 + [7, 8, 9, 10]
    with data.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["weight, kg", "town", "code", "a=b"])
        for town, code in zip(towns, codes, strict=True):
            rows.writerow([f"{rng.normal(70, 9):.1f}", town, code, f"{rng.normal():.3f}"])
    model = tmp_path / "m.safetensors"
    kinds = "code=categorical"
    done("fit", "table", "--data", data, *FIT.split(), "--kinds", kinds, "--out", model)
    how = ("sample", model, "-n", 2, "--samples", 20, "--force", "--out", out, "--given")
    done(*how, '"weight, kg=250.25","town=Paris, TX",code=9,a=b=0.12345')
    assert read(out)[1] == [["250.25", "Paris, TX", "9", "0.12345"]] * 2
    ran = cli(*how, "weight, kg=250.25")
    assert ran.code == 2
    assert "double quotes" in ran.err


def test_a_column_that_is_left_out_is_given_no_cell(model, rejected, tmp_path):
    how = ("sample", model, "-n", 2, "--out", tmp_path / "x.csv", "--given")
    rejected((*how, "person=p0001"), "'person'", "identifier", "left out")


def test_scores_say_which_cell_is_strange(table, model, done, tmp_path):
    names, rows = read(table)
    strange = tmp_path / "strange.csv"
    rows[3][1:] = ["41.0", "Rome", "no", "3", "400"]
    with strange.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows[:6]])
    out = tmp_path / "scores.csv"
    how = ("--data", strange, "--attribution", "--samples", 20, "--out", out)
    done("score", model, *how)
    columns, scores = read(out)
    assert columns[4:] == ["strangest", *(f"excess_{name}" for name in names[1:])]
    assert scores[3][4] == "visits"
    assert max(range(6), key=lambda k: float(scores[k][3])) == 3
    for row, score in zip(rows[:6], scores, strict=True):
        assert [cell == "" for cell in score[5:]] == [cell in ("", "NA") for cell in row[1:]]


def test_a_cell_out_of_all_proportion_hides_the_others_and_no_other_row(
    table, model, done, tmp_path
):
    names, rows = read(table)
    rows = [["p", "40.5", "Bonn", "no", "3", "5"] for _ in range(4)]
    rows[2][1] = "1e29"
    strange, out = tmp_path / "strange.csv", tmp_path / "scores.csv"
    with strange.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    how = ("--data", strange, "--attribution", "--samples", 20, "--out", out)
    done("score", model, *how)
    scores = read(out)[1]
    assert scores[2][4] == "age"
    assert scores[2][5] == "inf"
    assert scores[2][6:] == [""] * 4
    assert all(cell for score in scores[:2] for cell in score)
    page = tmp_path / "page.html"
    done("report", model, "--data", strange, "--samples", 20, "--out", page)
    assert "1.000e29" in page.read_text()


def test_the_bar_of_attribution_counts_cells(table, model, done, tmp_path, monkeypatch):
    ends, leave = [], Bar.__exit__

    def left(bar, *why):
        ends.append((bar.unit, bar.done, bar.total))
        leave(bar, *why)

    monkeypatch.setattr(Bar, "__exit__", left)
    how = ("--data", table, "--attribution", "--samples", 5, "--out", tmp_path / "scores.csv")
    done("score", model, *how)
    cells = sum(cell not in ("", "NA") for row in read(table)[1] for cell in row[1:])
    assert ends[-1] == ("cell", cells, cells)


def test_columns_in_another_order_are_the_same_rows(table, model, done, tmp_path):
    names, rows = read(table)
    turned = tmp_path / "turned.csv"
    with turned.open("w", newline="") as file:
        csv.writer(file).writerows(row[::-1] for row in [names, *rows])
    scores = []
    for path in (table, turned):
        out = tmp_path / f"{path.stem}-scores.csv"
        done("score", model, "--data", path, "--out", out, "--samples", 20)
        scores.append([row[0] for row in read(out)[1]])
    assert scores[0] == scores[1]


def test_a_schema_is_shown_written_edited_and_used(table, done, tmp_path):
    shown = done("schema", table)
    lines = {line.split()[0]: line.split()[1] for line in shown.splitlines()[1:]}
    assert lines == {
        **{"person": "identifier", "age": "real", "town": "categorical", "retired": "binary"},
        **{"grade": "ordinal", "visits": "count"},
    }
    file = tmp_path / "schema.json"
    done("schema", table, "--kinds", "grade=categorical", "--out", file)
    content = json.loads(file.read_text())
    for column in content["columns"]:
        if column["name"] == "age":
            column["likelihood"] = "StudentT"
    file.write_text(json.dumps(content))
    out = tmp_path / "m.safetensors"
    how = ("--data", table, "--schema", file, *FIT.split(), "--out", out)
    done("fit", "table", *how)
    family = load_saved(out).data["family"]
    assert "StudentT" in family
    assert "Categorical(levels=5)" in family
    assert f"--schema {file}" in done("show", out, "--command")


def test_codes_of_missing_cells_are_told(done, tmp_path):
    file, schema, model = (tmp_path / name for name in ("t.csv", "s.json", "m.safetensors"))
    names, rows = people(60)
    coded = [[{"": "-9", "NA": "unknown"}.get(cell, cell) for cell in row] for row in rows]
    holes = Counter(j for row in rows for j, cell in enumerate(row) if cell in ("", "NA"))
    with file.open("w", newline="") as target:
        csv.writer(target).writerows([names, *coded])
    done("schema", file, "--na-values", "-9,unknown", "--out", schema)
    plain = Schema.infer(read_frame(file), missing=(*MISSING, "-9", "unknown"))
    assert Schema.from_json(json.loads(schema.read_text())) == plain
    how = ("--data", file, "--schema", schema, "--components", 2, "--quiet", "--out", model)
    done("fit", "mixture", *how)
    assert load_saved(model).read(file).missing == sum(holes.values())
    out = tmp_path / "filled.csv"
    done("impute", model, "--data", file, "--out", out)
    _, filled = read(out)
    assert not {"-9", "unknown"} & {cell for row in filled for cell in row[1:]}


def test_a_code_means_missing_in_one_column_alone(done, cli, tmp_path):
    file, schema, model = (tmp_path / name for name in ("t.csv", "s.json", "m.safetensors"))
    names, rows = people(60)
    age, visits = names.index("age"), names.index("visits")
    for k, row in enumerate(rows):
        row[visits] = row[visits] or "0"
        row[age] = "0.0" if k < 5 else row[age] or "41.5"
    zeros = sum(row[visits] == "0" for row in rows)
    assert zeros
    with file.open("w", newline="") as target:
        csv.writer(target).writerows([names, *rows])
    done("schema", file, "--na-values", "NaN!,age=0", "--out", schema)
    content = json.loads(schema.read_text())
    assert content["missing"][-1] == "NaN!"
    assert {c["name"]: c.get("na_values") for c in content["columns"]} == {
        **dict.fromkeys(names),
        "age": ["0"],
    }
    how = ("--data", file, "--schema", schema, "--components", 2, "--quiet", "--out", model)
    done("fit", "mixture", *how)
    out = tmp_path / "filled.csv"
    done("impute", model, "--data", file, "--out", out)
    _, filled = read(out)
    assert all(float(row[age]) > 0 for row in filled)
    assert sum(row[visits] == "0" for row in filled) == zeros
    ran = cli("schema", file, "--na-values", "aeg=0")
    assert ran.code == 2
    assert "na_values: no column 'aeg'; did you mean age" in ran.err


def test_a_mixture_reads_names_and_fa_refuses_them(table, model, cli, done, tmp_path):
    out = tmp_path / "mixture.safetensors"
    done("fit", "mixture", "--data", table, "--components", 2, "--quiet", "--out", out)
    assert "Columns(columns=(Normal, Categorical(levels=3)" in done("show", out)
    ranked = done("compare", out, model, "--data", table, "--samples", 20)
    assert "exact" in ranked
    ran = cli("fit", "fa", "--data", table, "--out", tmp_path / "fa.safetensors")
    assert ran.code == 2
    assert "column 'town' of people.csv" in ran.err
    assert "--kinds town=identifier" in ran.err
    fa = tmp_path / "fa.safetensors"
    how = ("--data", table, "--kinds", "town=identifier", "--latents", 2, "--quiet")
    done("fit", "fa", *how, "--out", fa)
    ran = cli("compare", fa, out, "--data", table)
    assert ran.code == 2


@pytest.mark.parametrize("family", ["Columns", "Columns(pseudo=0.5)"])
def test_columns_of_a_mixture_are_those_of_the_table_unless_they_are_named(
    table, model, done, tmp_path, family
):
    numbers, named = tmp_path / "numbers.safetensors", tmp_path / "named.safetensors"
    how = ("fit", "mixture", "--data", table, "--components", 2, "--quiet", "--family", family)
    done(*how, "--out", named)
    assert "exact" in done("compare", named, model, "--data", table, "--samples", 20)
    done(*how, "--kinds", "town=identifier", "--out", numbers)
    shown = done("show", numbers)
    assert "Columns(columns=(Normal, Bernoulli" in shown
    assert ("pseudo=0.5" in shown) == ("pseudo" in family)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("impute {model} --data {table} --out {to}/x.png", "no pictures"),
        ("impute {model} --data {to}/none.csv --out {to}/x.csv", "no such file"),
        ("fit table --data {table} --kinds town=names --out {to}/m.safetensors", "kind 'names'"),
        (
            "fit table --data {table} --kinds twon=count --out {to}/m.safetensors",
            "did you mean town",
        ),
        ("fit table --data {table} --kinds town --out {to}/m.safetensors", "column=kind"),
        ("fit table --data {table} --schema {table} --out {to}/m.safetensors", "no JSON"),
        ("fit table --data {table} --schema {to}/no.json --out {to}/m.safetensors", "No such"),
        ("fit table --data {table} --levels 3 --out {to}/m.safetensors", "levels"),
        ("schema {to}/none.csv", "No such file"),
        ("score {model} --data digits/test --out {to}/x.csv", "rows of shape"),
    ],
)
def test_mistakes_are_one_line(words, said, table, model, cli, tmp_path):
    ran = cli(*words.format(model=model, table=table, to=tmp_path).split())
    assert ran.code == 2, ran.err
    assert said in ran.err
    assert ran.err.strip().count("\n") == 0


def test_particles_of_given_cells_are_options(table, model, cli, rejected, tmp_path):
    words = ["sample", model, "--given", "town=Rome", "-n", 40, "--force"]
    few, many = tmp_path / "few.csv", tmp_path / "many.csv"
    ran = cli(*words, "--samples", 20, "--sweeps", 0, "--out", few)
    assert ran.code == 0
    assert "than draws (40): draws share latents; raise --samples or --sweeps\n" in ran.err
    ran = cli(*words, "--samples", 4000, "--out", many)
    assert ran.code == 0
    assert "effective particles" not in ran.err  # what was advised helps
    assert read(few) != read(many)
    for options, said in (
        (("--samples", 0), "--samples 0 must be at least 1"),
        (("--sweeps", -1), "--sweeps -1 must be at least 0"),
    ):
        rejected((*words, *options, "--out", few), said)
    rejected(
        ("sample", model, "--sweeps", 3, "--out", tmp_path / "no.csv"), "--sweeps 3", "--given"
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("age=40,age=50", "column 'age' is given twice"),
        ("age=NA", "NA means a missing cell; leave it out"),
        ("town=?", "? means a missing cell; leave it out"),
        ("town=Pisa", "column 'town' has no value 'Pisa'; known: Bonn, Oslo, Rome"),
        ("age=old", "--given: column 'age', row 0"),
    ],
)
def test_given_cells_that_are_none_are_named(given, said, model, rejected, tmp_path):
    rejected(("sample", model, "--given", given, "--out", tmp_path / "x.csv"), said)


@pytest.mark.parametrize("text", ["", ",", "a\nb=count", "a" * 140_000, '"', "age=count,"])
def test_words_that_are_none_are_named(table, model, rejected, tmp_path, text):
    rejected(
        ("fit", "table", "--data", table, f"--kinds={text}", "--out", tmp_path / "x"), "--kinds"
    )
    how = ("sample", model, "-n", 2, "--out", tmp_path / "x.csv", f"--given={text}")
    rejected(how, "--given")


def test_a_column_has_one_kind(table, rejected):
    rejected(("schema", table, "--kinds", "age=real,age=positive"), "'age' has two kinds")


def edited(table, path, done, **fields):
    """The schema of a table with fields of its column of ages changed."""
    done("schema", table, "--out", path, "--force")
    content = json.loads(path.read_text())
    content["columns"][1] |= fields
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("likelihood", "said"),
    [
        ("Nrmal", "column 'age': unknown component 'Nrmal'; did you mean Normal"),
        ("StudentT(df=3)", "column 'age': StudentT takes no option 'df'"),
        ("Linear", "column 'age': unknown component 'Linear'"),
    ],
)
def test_a_likelihood_of_no_family_is_named_by_column(
    likelihood, said, table, done, rejected, tmp_path
):
    schema = edited(table, tmp_path / "s.json", done, likelihood=likelihood)
    words = (
        "fit",
        "table",
        "--data",
        table,
        "--schema",
        schema,
        "--out",
        tmp_path / "m.safetensors",
    )
    rejected(words, f"--schema {schema}", said)


def test_a_deep_model_takes_families_that_no_mixture_can_fit(table, done, rejected, tmp_path):
    schema = edited(table, tmp_path / "s.json", done, likelihood="Laplace")
    out = tmp_path / "m.safetensors"
    words = ("--data", table, "--schema", schema, "--out", out)
    rejected(("fit", "mixture", *words), "Laplace", "which EM cannot fit")
    done("fit", "table", *words, *FIT.split())
    assert "Laplace" in done("show", out)


def test_a_schema_with_a_byte_order_mark_is_read(table, done, tmp_path):
    schema = edited(table, tmp_path / "s.json", done)
    schema.write_text(schema.read_text(), encoding="utf-8-sig")
    words = ("--data", table, "--schema", schema, "--out", tmp_path / "m.safetensors")
    done("fit", "mixture", *words, "--components", 1, "--quiet")


def test_rows_without_any_cell_are_scored_and_reported(table, model, done, tmp_path):
    bare = tmp_path / "bare.csv"
    bare.write_text(table.read_text().split("\n")[0] + "\n" + ",,,,,\n" * 3)
    out = tmp_path / "scores.csv"
    done("score", model, "--data", bare, "--attribution", "--samples", 20, "--out", out)
    names, rows = read(out)
    assert len(rows) == 3
    assert all(math.isfinite(float(row[names.index("log_prob")])) for row in rows)
    done("report", model, "--data", bare, "--samples", 20, "--out", tmp_path / "r.html")
