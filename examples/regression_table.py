"""Regression on a table: how heavy is a penguin, from its bill, flippers, sex, species and island?

Needs the extra `tables`. The same from the command line:

    backlit train penguins.csv --target body_mass_g --drop-missing-target

python examples/regression_table.py           the full run
python examples/regression_table.py --quick   a short one
"""

import sys

import polars as pl

from backlit import data, tables


def main(quick: bool = False) -> float:
    frame = tables.read(data.penguins()).filter(pl.col("body_mass_g").is_not_null())
    trained = tables.train(frame, "body_mass_g", epochs=40 if quick else 400, patience=60, learning_rate=3e-3)
    print(f"taken as a {trained.model.schema.target.task} ({trained.fitted.why})")
    for name, value in trained.scores.figures().items():
        print(f"{name:14}{value:10.3f}")

    predicted = trained.model.predict(frame.head(3))
    print(frame.head(3).select("species", "sex", "body_mass_g").hstack(predicted.get_columns()))
    return trained.scores.r2


if __name__ == "__main__":
    main("--quick" in sys.argv)
