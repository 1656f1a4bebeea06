"""Small real data sets that come with backlit, and ways to hold a part of a data set out.

Nothing is fetched: the files stand in this folder, with their sources and licences in LICENSES.md; the text of
`python_reference` is the one that comes with Python itself.
"""

from backlit.data.sets import Images, digits, penguins, python_reference
from backlit.data.splits import random_split, stratified_split

__all__ = ["Images", "digits", "penguins", "python_reference", "random_split", "stratified_split"]
