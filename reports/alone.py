"""A section by itself: `python -m reports.data` writes its page and its figures, which takes seconds."""

from collections.abc import Callable

from base.command import stage_parser
from reports.material import Material, run_to_look_at
from reports.page import Facts, Section
from reports.render import FOLDER, render, write_page, write_pngs


def section_command(module: str, what: str, build: Callable[[Material], Section]) -> Callable[[list[str] | None], None]:
    """The `main` of a section's module."""

    def main(argv: list[str] | None = None) -> None:
        args = stage_parser(module, what).parse_intermixed_args(argv)
        run = run_to_look_at(args.config, args.overrides)
        section = build(Material(run))
        folder = run.dir / FOLDER
        name = run.experiment.name
        pictures = write_pngs(folder, [section])
        path = folder / f"{section.name}.html"
        write_page(path, render([section], f"{name}: {section.title.lower()}", Facts([]), ""))
        print(f"{path}, and {len(pictures)} pictures in {folder}")

    return main
