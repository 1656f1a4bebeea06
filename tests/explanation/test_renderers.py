"""The forms of a derivation: each holds the same equations, is well formed, and cannot be broken by names."""

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from jsonschema import Draft202012Validator

import backlit as bl
from backlit import nn, ops
from backlit.explanation.records import SCHEMA, VERSION

from .reading import agrees, read
from .test_worked import GIVEN, two_two_one

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags nest, and collects what a test wants to know."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture(scope="module")
def scalar():
    return bl.explain(two_two_one, *GIVEN, wrt="w11", lr=0.1)


@pytest.fixture(scope="module")
def folded():
    net = nn.Network([nn.Dense(40, activation="relu"), nn.Dense(3)], 30)
    return bl.explain(
        net, np.linspace(-1, 1, 30), np.array(2), loss="crossentropy", wrt="dense_1.weight[3, 1]", optimizer="adam"
    )


@pytest.fixture(scope="module")
def whole():
    net = nn.Network([nn.Dense(3, activation="tanh"), nn.Dense(2)], 2, dtype="float64")
    x = np.array([[0.1, 0.2], [0.3, -0.4]])
    return bl.explain(net, x, np.array([1, 0]), loss="crossentropy", wrt="dense_1.weight[0, 1]", view="matrix")


@pytest.fixture(params=["scalar", "folded", "whole"])
def derivation(request):
    return request.getfixturevalue(request.param)


def test_json_is_of_the_published_schema(derivation):
    Draft202012Validator.check_schema(SCHEMA)
    found = json.loads(derivation.json())
    Draft202012Validator(SCHEMA).validate(found)
    assert found["version"] == VERSION
    assert [s["number"] for s in found["steps"]] == list(range(1, len(derivation) + 1))
    for step in found["steps"]:
        assert all(n < step["number"] or step["kind"] == "loss" for n in step["uses"]) or step["kind"] != "forward"
        for operand in step.get("operands", ()):
            assert operand["quantity"] in found["quantities"] or operand["node"] == -1


def test_json_lines_are_true_by_themselves(scalar):
    for step in json.loads(scalar.json())["steps"]:
        if "substituted" in step:
            assert agrees(read(step["substituted"]["text"]), step["text"])


def test_every_number_of_a_line_is_that_of_the_run(scalar):
    """The operands' node and element lead to the value in the executed graph."""
    from backlit.explanation.execution import execute
    from backlit.tracing import trace_function

    graph = trace_function(two_two_one, *GIVEN).graph
    run = execute(graph, [np.asarray(v) for v in GIVEN], [graph.inputs[0]])
    nodes = run.graph.nodes
    seen = 0
    d = bl.explain(two_two_one, *GIVEN, wrt="w11", verify=False)
    for step in json.loads(d.json())["steps"]:
        for operand in step.get("operands", ()):
            if operand["node"] >= 0:
                assert run.values[nodes[operand["node"]]][tuple(operand["element"])].item() == operand["value"]
                seen += 1
    assert seen > 20


def test_json_of_what_is_no_number():
    d = bl.explain(lambda w: ops.log(w) * 0.0, np.float64(0.0), wrt="w")
    found = json.loads(d.json())
    Draft202012Validator(SCHEMA).validate(found)
    assert found["gradient"] == "nan"


def test_the_page_is_one_well_formed_file(derivation):
    text = derivation.html()
    page = Page(text)
    assert "script" not in page.tags
    assert not [a for a in page.attributes if a[1].startswith("on")]
    targets = {value for _, name, value in page.attributes if name == "id"}
    links = [value for tag, name, value in page.attributes if tag == "a" and name == "href"]
    assert links
    assert all(link.startswith("#") and link[1:] in targets for link in links)
    assert "http" not in re.sub(r"data:font/woff2;base64,[^)]*", "", text).replace("http-equiv", "")
    assert "default-src 'none'" in text
    assert text.count("<math") > len(derivation)
    for step in derivation:
        assert f'id="e{step.number}"' in text
    assert "stretchy" not in re.sub('stretchy="false"', "", text)


def test_the_page_draws_the_path(scalar):
    page = Page(scalar.html())
    lit = [value for tag, name, value in page.attributes if tag == "a" and name == "class" and "lit" in value.split()]
    assert len(lit) == 6  # w11, z1, a1, z3, yhat, E
    glow = re.search(r'<g class="glow".*?</g>', scalar.html())[0]
    assert glow.count("<path") == 5


def test_the_page_unfolds_what_is_folded(folded):
    text = folded.html()
    step = next(s for s in folded if s.folded)
    assert f"Unfold ({step.number})" in text
    whole = folded.unfold(step.number)
    assert html.escape(whole.substituted) in text
    assert agrees(read(whole.substituted), whole.text)


def test_a_page_in_a_notebook_is_framed(scalar):
    page = Page(scalar._repr_html_())
    assert page.tags == ["iframe"]
    assert ("iframe", "sandbox", "") in page.attributes


NASTY = ["</style><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&b<c>", "`rm`|x*y_z$1$", "{%}\\end"]


@pytest.mark.parametrize("name", NASTY)
def test_names_cannot_break_a_page(name):
    d = bl.explain(lambda p: p[name] * p[name] * 3.0, {name: np.float64(2.0)}, wrt=name)
    page = Page(d.html())
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert name in "".join(page.words)
    Draft202012Validator(SCHEMA).validate(json.loads(d.json()))
    assert d.latex().count(r"\begin{align}") == d.latex().count(r"\end{align}")
    assert name in d.text().replace("\n", "") or len(name) > 20


def test_markdown_has_every_equation(derivation):
    text = derivation.markdown()
    assert text.startswith("# ")
    for step in derivation:
        assert f"({step.number})" in text
    assert derivation._repr_markdown_() == text


def test_latex_is_balanced_and_has_every_equation(derivation):
    text = derivation.latex()
    for step in derivation:
        assert rf"\tag{{{step.number}}}" in text
    bare = re.sub(r"\\[{}\\]", "", text)
    depth = 0
    for char in bare:
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    assert sorted(re.findall(r"\\begin{(\w+\*?)}", text)) == sorted(re.findall(r"\\end{(\w+\*?)}", text))
    text.encode("ascii")  # any LaTeX engine takes it


def test_latex_of_the_board(scalar):
    text = scalar.latex()
    assert r"\frac{\partial E}{\partial w_{11}}" in text
    assert r"\hat{y} \cdot (1 - \hat{y})" in text
    assert r"\sigma(z_{1})" in text


def test_the_terminal_has_every_equation_in_order(derivation):
    text = str(derivation)
    numbers = [int(n) for n in re.findall(r"^\s*\((\d+)\)", text, re.M)]
    rest = [s.number for s in derivation if s.kind != "given"]
    assert [n for n in numbers if n in rest] == rest


def test_colour_is_for_terminals_only(scalar):
    import io

    from rich.console import Console

    assert "\x1b" not in str(scalar)
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, color_system="truecolor").print(scalar)
    assert "\x1b[" in stream.getvalue()


@pytest.mark.parametrize("ending", ["html", "md", "tex", "json", "txt"])
def test_saving_writes_the_form_of_the_ending(scalar, tmp_path, ending):
    path = scalar.save(tmp_path / f"why.{ending}")
    methods = {"html": "html", "md": "markdown", "tex": "latex", "json": "json", "txt": "text"}
    assert path.read_text(encoding="utf-8") == getattr(scalar, methods[ending])()
    assert [p.name for p in tmp_path.iterdir()] == [f"why.{ending}"]


def test_an_unknown_ending_writes_nothing(scalar, tmp_path):
    with pytest.raises(bl.errors.Error, match="no ending"):
        scalar.save(tmp_path / "why.doc")
    assert not list(tmp_path.iterdir())


def test_equations_are_reached_by_number(scalar):
    assert scalar[1].number == 1
    assert list(scalar)[-1] is scalar[len(scalar)]
    with pytest.raises(bl.errors.Error, match="no equation 0"):
        scalar[0]


def test_the_same_question_has_the_same_answer(scalar):
    again = bl.explain(two_two_one, *GIVEN, wrt="w11", lr=0.1)
    assert again.html() == scalar.html()
    assert again.json() == scalar.json()
