"""The tables of a spectral run's report."""

import numpy as np

from fusionjax.evaluation import cross_modal
from fusionjax.tasks import spectral_report


def test_pairs_are_named_whose_names_have_more_words():
    names = ("near_ir", "far_ir")
    rng = np.random.default_rng(0)
    known = {name: rng.normal(size=(6, 4)).astype(np.float32) for name in names}
    split = cross_modal.Embedded(known, known, np.arange(6), np.zeros(6, int))
    found = cross_modal.evaluate(split, np.arange(6), None, permutations=19)
    tables = {title: rows for title, _, rows in spectral_report._tables(names, {"test": found})}
    agree = tables["Do the modalities agree on which images are alike?"]
    assert [row[1] for row in agree] == ["near_ir and far_ir"]
    assert {row[1] for row in tables["Retrieval"]} == {"near_ir → far_ir", "far_ir → near_ir"}
