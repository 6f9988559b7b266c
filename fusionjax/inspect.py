"""Says what a data set holds and what would spoil a result: python -m fusionjax.inspect photos"""

import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from fusionjax import cli
from fusionjax.arguments import Command, at_least, needed, output_folder


def add(parser: ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "data", nargs="?", metavar="PATH", help="folder of images, manifest, or official data set"
    )
    parser.add_argument("--out", metavar="DIR", help="folder for index.html, a page with thumbnails")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--threads", type=at_least(1), default=8, metavar="N", help="that read images (8)")


def main(options: Namespace) -> int:
    """Prints what is there; exit code 1 where a finding would spoil a result."""
    needed(options.data, "no data set given: fusionjax inspect photos")
    out = output_folder(options.out) if options.out else None
    import tqdm

    from fusionjax.data.inspection import inspect
    from fusionjax.interpret import inspection_page

    with tqdm.tqdm(unit=" images", disable=None, leave=False) as bar:

        def progress(split: str, images: int) -> object:
            bar.set_description(split)
            bar.total = (bar.total or 0) + images
            return bar.update

        found = inspect(Path(options.data), threads=options.threads, progress=progress, out=out)  # type: ignore[arg-type]
    if options.json:
        json.dump(found.to_dict(), sys.stdout, indent=1)
        print()
    else:
        print(inspection_page.text(found))
    if out is not None:
        page = inspection_page.write(out, found)
        print(f"page: {page}", file=sys.stderr if options.json else sys.stdout)
    return 1 if found.errors else 0


COMMAND = Command(
    "inspect",
    "Says what a folder, manifest or official data set holds, and what would spoil a result.",
    add,
    main,
    ("fusionjax inspect photos --out=photos_inspected", "fusionjax inspect leaves.csv --json"),
)

if __name__ == "__main__":
    cli.run(COMMAND)
