"""The site's pages that are no files of docs/: README and its neighbours as they stand, notebooks,
the API by rooms, and two interactive pages made from a small run while the site is built.

Links in the repository are written for readers of plain Markdown; `on_page_markdown` turns them
to where the site has what they lead to. `<!-- on the site: TEXT -->` is shown on the site only.
"""

import ast
import functools
import os
import pathlib
import posixpath
import re
import tempfile

import jupytext
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "relu_dynamics"
NEIGHBOURS = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
NEIGHBOURS |= {"CHANGELOG.md": "CHANGELOG.md", "CITATION.cff": "CITATION.cff"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
FENCE = re.compile(r"^(```+)\w*\n.*?^\1$", re.MULTILINE | re.DOTALL)
SITE_ONLY = re.compile(r"<!-- on the site: (.*?) -->", re.DOTALL)


def on_config(config):
    """Lists the pages that are made, under the two empty entries of the navigation."""
    made = {
        "API": ["api/index.md", *({room: f"api/{room}.md"} for room in rooms())],
        "Notebooks": ["notebooks/index.md", *(f"notebooks/{n.stem}.md" for n in NOTEBOOKS)],
    }
    for entry in config.nav:
        for title in entry:
            entry[title] = made.get(title, entry[title])
    config.watch.extend(map(str, (PACKAGE, ROOT / "README.md", ROOT / "notebooks")))
    return config


def on_files(files: Files, config) -> Files:
    """Adds the pages that are no files of docs/."""
    for source, target in NEIGHBOURS.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    pages = {f"api/{room}.md": api_page(room) for room in ("index", *rooms())}
    titles = [f"* [{title(n)}]({n.stem}.md)" for n in NOTEBOOKS]
    pages["notebooks/index.md"] = "\n".join(["# Notebooks", "", *titles, ""])
    pages |= {f"notebooks/{n.stem}.md": notebook_page(n) for n in NOTEBOOKS}
    pages |= live_pages()
    for target, content in pages.items():
        files.append(File.generated(config, target, content=content))
    return files


def on_page_markdown(markdown: str, page, config, files: Files) -> str:
    """A page as the site shows it."""
    source = pathlib.Path(page.file.abs_src_path or "")
    if not source.is_relative_to(ROOT):
        return markdown
    prose, last = [], 0
    for fence in FENCE.finditer(markdown):
        prose += [as_on_site(markdown[last : fence.start()], source, page.file.src_uri), fence[0]]
        last = fence.end()
    return "".join([*prose, as_on_site(markdown[last:], source, page.file.src_uri)])


def as_on_site(text: str, source: pathlib.Path, uri: str) -> str:
    """Markdown without code blocks, its links led to the site's pages."""

    def led(link: re.Match) -> str:
        target = (source.parent / link[2]).resolve()
        if "://" in link[2] or not target.is_relative_to(ROOT) or not target.exists():
            return link[0]  # mkdocs says what is wrong with it
        path, anchor = place_of(target.relative_to(ROOT).as_posix())
        path = posixpath.relpath(path, posixpath.dirname(uri))
        return f"{link[1]}{path}{link[3] or anchor}{link[4]}"

    text = LINK.sub(led, text)
    return SITE_ONLY.sub(r"\1", text)


def place_of(path: str) -> tuple[str, str]:
    """(page of the site, anchor) of a file or folder of the repository, by its path there."""
    parts = pathlib.PurePosixPath(path).with_suffix("").parts
    if path in NEIGHBOURS:
        return NEIGHBOURS[path], ""
    if parts[0] == "notebooks":
        return "/".join([*parts, "index"][:2]) + ".md", ""
    if parts[0] == "relu_dynamics" and len(parts) > 1:
        return f"api/{parts[1]}.md", "" if len(parts) == 2 else "#" + ".".join(parts)
    return path.removeprefix("docs/"), ""


@functools.cache
def rooms() -> tuple[str, ...]:
    """The rooms of the package as docs/design.md lists them, from the ground up."""
    design = (ROOT / "docs" / "design.md").read_text()
    table = design[design.index("| room | job |") :].split("\n\n")[0]
    return tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))


def api_page(room: str) -> str:
    """A room's public names: those that its face lists, then its files that the face takes nothing
    from. `index` is the package's own face."""
    face = PACKAGE if room == "index" else PACKAGE / room
    module = "relu_dynamics" if room == "index" else f"relu_dynamics.{room}"
    text = f"# {'The package' if room == 'index' else room}\n\n"
    if not face.is_dir():
        return text + directive(module, None)
    listed = listed_in(face / "__init__.py")
    text += directive(module, [name for _, name in listed])
    if room == "index":
        return text
    taken = {origin for origin, _ in listed}
    for path in sorted(face.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if not path.stem.startswith("_") and name not in taken:
            text += directive(name, None)
    return text


def listed_in(face: pathlib.Path) -> list[tuple[str, str]]:
    """(module, name) of the public names of a face: what it imports `as` itself."""
    return [
        (node.module or "", alias.name)
        for node in ast.parse(face.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name and not is_module(node.module or "", alias.name)
    ]


def is_module(module: str, name: str) -> bool:
    folder = ROOT.joinpath(*module.split("."))
    return (folder / f"{name}.py").exists() or (folder / name).is_dir()


def directive(module: str, members: list[str] | None) -> str:
    """What mkdocstrings turns into the documentation of a module."""
    if members is None:
        return f"::: {module}\n\n"
    return f"::: {module}\n    options:\n      members: {members or 'false'}\n\n"


def title(notebook: pathlib.Path) -> str:
    return next(line[4:] for line in notebook.read_text().splitlines() if line.startswith("# # "))


def notebook_page(path: pathlib.Path) -> str:
    """A notebook as Markdown, without its header."""
    text = jupytext.writes(jupytext.read(path), fmt="md")
    return text.split("\n---\n", 1)[1].lstrip() if text.startswith("---\n") else text


@functools.cache
def live_pages() -> dict[str, str]:
    """The explorer and a diagnosis, each from a short run, and the pages that hold them."""
    pages = {}
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory() as folder:
        explorer, diagnosis = pathlib.Path(folder, "e.html"), pathlib.Path(folder, "d.html")
        write_explorer(explorer)
        write_diagnosis(diagnosis)
        pages["live/explorer_page.html"] = explorer.read_text()
        pages["live/diagnosis_page.html"] = diagnosis.read_text()
    pages["live/explorer.md"] = live(
        "An explorer page",
        "explorer_page.html",
        "A small grid, trained with this site: 12 cells, 4 seeds, 8 biased units per run. "
        "How to make one of your own result: [the explorer](../explorer.md).",
    )
    pages["live/diagnosis.md"] = live(
        "A diagnosis",
        "diagnosis_page.html",
        "Two hidden layers of 64 units on the handwritten digits, trained by SGD at rate 0.7 with "
        "this site. How to make one of your own model: [your own model](../own_model.md).",
    )
    return pages


def live(head: str, page: str, words: str) -> str:
    frame = f'<iframe class="live" src="{page}" title="{head}"></iframe>'
    return f"# {head}\n\n{words}\n\n[Open it alone]({page}): better on a phone.\n\n{frame}\n"


def write_explorer(path: pathlib.Path) -> None:
    from relu_dynamics import Config, explore, sweep

    axes = {"learning_rate": [0.03, 0.1, 0.3, 1.0], "initial_bias": [-3.0, -2.0, -1.0]}
    config = Config(examples=64, batch_size=16, hidden=(16, 16), biased_units=8, steps=100)
    explore(sweep(config, axes, seeds=4), path)


def write_diagnosis(path: pathlib.Path) -> None:
    import jax
    import jax.numpy as jnp
    import optax
    from sklearn.datasets import load_digits

    from relu_dynamics import inspection
    from relu_dynamics.diagnose import write_page

    digits = load_digits()
    x, y = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)
    sizes = (64, 64, 64, 10)
    scales = [(2 / n) ** 0.5 for n in sizes]
    keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
    params = {
        f"layer_{i}": {
            "kernel": scales[i] * jax.random.normal(keys[i], (n, m)),
            "bias": jnp.zeros(m),
        }
        for i, (n, m) in enumerate(zip(sizes, sizes[1:], strict=False))
    }

    def model(params, x):
        for i in range(len(sizes) - 2):
            x = jax.nn.relu(x @ params[f"layer_{i}"]["kernel"] + params[f"layer_{i}"]["bias"])
        return x @ params["layer_2"]["kernel"] + params["layer_2"]["bias"]

    tx = optax.sgd(0.7)

    @jax.jit
    def step(state, x, y):
        def loss(params):
            found = model(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(found, y).mean()

        updates, memory = tx.update(jax.grad(loss)(state[0]), state[1])
        return optax.apply_updates(state[0], updates), memory

    state = params, tx.init(params)
    for i in range(200):
        rows = jax.random.choice(jax.random.key(i), len(x), (64,), replace=False)
        state = step(state, x[rows], y[rows])
    write_page(
        inspection.diagnose(model, state[0], [(x[i : i + 256],) for i in range(0, len(x), 256)]),
        path,
    )
