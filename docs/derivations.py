"""A MkDocs hook: derives what the pages show at each build, so that no number in them was typed by hand.

`<!-- derivation: NAME -->` on a page stands for the derivation of that name; each of `GALLERY` gets a page of its own,
and its self-contained HTML beside it.
"""

import json
import re
from collections.abc import Callable

import numpy as np
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import backlit as bl
from backlit import ops
from backlit.explanation import Derivation
from backlit.explanation.markdown import equation
from backlit.explanation.notation import plain
from backlit.explanation.records import SCHEMA
from backlit.explanation.sections import legend, sections


def numbers(text: str) -> list[np.float64]:
    """Numbers written one after the other, in double precision."""
    return [np.float64(word) for word in text.split()]


def two_two_one(w11, w12, w21, w22, w31, w32, b1, b2, b3, x1, x2, y):
    """A 2-2-1 network, sigmoid throughout, squared error."""
    z1 = w11 * x1 + w12 * x2 + b1
    a1 = ops.sigmoid(z1)
    z2 = w21 * x1 + w22 * x2 + b2
    a2 = ops.sigmoid(z2)
    z3 = w31 * a1 + w32 * a2 + b3
    yhat = ops.sigmoid(z3)
    E = (yhat - y) ** 2
    return E


def two_two_two(w1, w2, w3, w4, w5, w6, w7, w8, b1, b2, i1, i2, t1, t2):
    """The 2-2-2 network that most of the web has copied."""
    net_h1 = w1 * i1 + w2 * i2 + b1
    out_h1 = ops.sigmoid(net_h1)
    net_h2 = w3 * i1 + w4 * i2 + b1
    out_h2 = ops.sigmoid(net_h2)
    net_o1 = w5 * out_h1 + w6 * out_h2 + b2
    out_o1 = ops.sigmoid(net_o1)
    net_o2 = w7 * out_h1 + w8 * out_h2 + b2
    out_o2 = ops.sigmoid(net_o2)
    E_o1 = (t1 - out_o1) ** 2 / 2
    E_o2 = (t2 - out_o2) ** 2 / 2
    E = E_o1 + E_o2
    return E


ONE = numbers("0.4 0.3 0.6 0.9 0.5 0.7 0.1 0.2 0.3 0.5 0.1 0.6")
TWO = numbers("0.15 0.2 0.25 0.3 0.4 0.45 0.5 0.55 0.35 0.6 0.05 0.1 0.01 0.99")


def convolution() -> Derivation:
    """A 3x3 kernel slides over a 5x5 picture of a cross; the weight in its middle acts at nine places."""

    def loss(w, x, t):
        z = ops.reshape(ops.conv(ops.reshape(x, (1, 5, 5, 1)), ops.reshape(w, (3, 3, 1, 1))), (3, 3))
        a = ops.relu(z)
        y = ops.max(a)
        E = 0.5 * (y - t) ** 2 + 0.01 * ops.sum(a)
        return E

    x = np.zeros((5, 5))
    x[2, :] = x[:, 2] = 1.0
    w = np.array([[0.1, 0.4, -0.2], [0.3, 0.5, 0.2], [-0.1, 0.6, 0.1]])
    return bl.explain(loss, w, x, np.float64(1.0), wrt="w[1, 1]", terms=9, lr=0.1)


def recurrence() -> Derivation:
    """A recurrent net reads three numbers with the same two weights; the recurrent gradient is a sum over time."""

    def loss(u, v, x, t):
        def step(h, x):
            z = v * x + u * h
            h = ops.tanh(z)
            return h, None

        h, _ = ops.scan(step, np.float64(0.0), x)
        E = 0.5 * (h - t) ** 2
        return E

    return bl.explain(loss, np.float64(0.8), np.float64(0.5), np.array([1.0, -0.5, 0.25]), np.float64(1.0), wrt="u")


def attention() -> Derivation:
    """One attention head over two positions, all of size two: a query weight changes the scores, and so the weights."""

    def loss(Wq, Wk, Wv, x, t):
        Q = x @ Wq
        K = x @ Wk
        V = x @ Wv
        S = Q @ ops.transpose(K) / np.sqrt(2.0)
        P = ops.softmax(S)
        Y = P @ V
        E = 0.5 * ops.sum((Y - t) ** 2)
        return E

    rng = np.random.default_rng(0)
    weights = [np.round(rng.normal(size=(2, 2)), 1) for _ in range(3)]
    return bl.explain(loss, *weights, np.array([[1.0, 0.0], [0.5, 1.0]]), np.eye(2), wrt="Wq[0, 1]")


def adam() -> Derivation:
    """One neuron and the first step of Adam: the two moving averages, their bias corrections, and the new weight."""

    def loss(w, b, x, y):
        z = w * x + b
        a = ops.tanh(z)
        E = (a - y) ** 2
        return E

    return bl.explain(loss, *numbers("0.5 0.1 2 0"), wrt="w", optimizer="adam", lr=0.01)


DERIVATIONS: dict[str, Callable[[], Derivation]] = {
    "two_two_one": lambda: bl.explain(two_two_one, *ONE, wrt="w11", lr=0.1),
    "output_weight": lambda: bl.explain(two_two_two, *TWO, wrt="w5", lr=0.5, digits=9),
    "hidden_weight": lambda: bl.explain(two_two_two, *TWO, wrt="w1", lr=0.5, digits=9),
    "paths": lambda: bl.explain(two_two_two, *TWO, wrt="w1", view="paths", verify=False),
}
GALLERY = {
    "convolution": ("A 3x3 convolution", convolution),
    "recurrence": ("Three steps of a recurrent net", recurrence),
    "attention": ("One attention head", attention),
    "adam": ("One step of Adam", adam),
}


def text(d: Derivation, level: int) -> str:
    """A derivation as Markdown whose headings start at a level."""
    lines = [legend(d), ""]
    for section in sections(d):
        lines += [f"{'#' * level} {section.title}", ""]
        if section.steps[0].kind == "given":
            lines += [", ".join(f"({s.number}) `{plain(s.symbol)} = {s.text}`" for s in section.steps), ""]
            continue
        for s in section.steps:
            lines += equation(s)
    return "\n".join(lines)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the gallery."""
    for name, (title, make) in GALLERY.items():
        d = make()
        about = " ".join((make.__doc__ or "").split())
        content = f"# {title}\n\n{about} The same [as a page](../{name}-page.html).\n\n{text(d, 2)}\n"
        files.append(File.generated(config, f"gallery/{name}.md", content=content))
        files.append(File.generated(config, f"gallery/{name}-page.html", content=d.html()))
    files.append(File.generated(config, "derivation.schema.json", content=json.dumps(SCHEMA, indent=1)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the derivations where the page asks for them; a name that is none fails the build."""
    return re.sub(r"<!-- derivation: (\w+) -->", lambda found: text(DERIVATIONS[found[1]](), 4), markdown)
