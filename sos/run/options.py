"""The options of run_all.sh, checked and with messages that help."""

import argparse
import re
from pathlib import Path

from sos import profiles
from sos.run.catalogue import NOTEBOOKS, Notebook
from sos.system import paths


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the options; end the process with a message where they do not fit."""
    parser = argparse.ArgumentParser(
        prog="run_all.sh",
        description="Regenerates every figure and table: data, training, notebooks.",
        epilog="Interrupted at any point, the same command goes on where it was.",
    )
    add = parser.add_argument
    add("--profile", choices=tuple(profiles.PROFILES), default="demo", type=str.lower,
        help="smoke: tiny; demo (default): two CPU cores; paper-simulated: the paper's network, "
        "trained for minutes of a GPU; paper: its network and constants")  # fmt: skip
    add("--only", metavar="NN", action="extend", nargs="+", default=[],
        help="these notebooks alone, by number or name: --only 01 03")  # fmt: skip
    add("--dry-run", action="store_true",
        help="print the plan, with how long it takes here, and end")  # fmt: skip
    add("--weights", choices=("train", "released"),
        help="train (default): train here what is not in the cache; released (default with --set): "
        "use the published weights where they fit the configuration")  # fmt: skip
    add("--fresh", action="store_true",
        help="train and execute again even what is cached")  # fmt: skip
    add("--faces", metavar="DIR", type=Path,
        help="a folder of your own images (any size) in place of the simulated faces")  # fmt: skip
    add("--data", choices=("real", "simulated", "cells"),
        help="real: CelebA and brain volumes or slices; simulated (default, but for the profile "
        "paper): as many images of the same sizes, made here; cells: photographs of solar cells, "
        "from the package elpv-dataset, in place of the simulated faces")  # fmt: skip
    add("--celeba", metavar="PLACE", type=Path,
        help="where CelebA lies: a folder, img_align_celeba.zip or Parquet files (default "
        "data/celeba)")  # fmt: skip
    add("--biobank", metavar="PLACE", type=Path,
        help="where brain volumes (.nii.gz) or slices lie (default data/biobank)")  # fmt: skip
    add("--partition", choices=("subset", "official"), default="subset",
        help="of CelebA: subset (default): 10,000 images, as the paper; official: all of "
        "them")  # fmt: skip
    add("--skip-unreadable", action="store_true",
        help="leave out images that cannot be read, instead of stopping")  # fmt: skip
    add("--png", action="store_true",
        help="also write the images that Table 1 compares as files, in data/cache/png")  # fmt: skip
    add("--study", choices=tuple(profiles.STUDIES), type=str.lower,
        help="train and measure what is missing of a study, such as five seeds of every model of "
        "Table 1, and keep the numbers; no notebook is run")  # fmt: skip
    add("--minutes", metavar="N", type=float,
        help="stop trainings at a checkpoint after N minutes, with exit status 75 where something "
        "is left; the same command goes on, on another machine too")  # fmt: skip
    add("--set", metavar="MODEL.SETTING=VALUE", action="extend", nargs="+", default=[],
        help="change one thing, such as --set faces-sos.rank=5, and compare; "
        "needs --name")  # fmt: skip
    add("--name", metavar="WORD",
        help="with --set: results go to folders of this name, such as "
        "figures/demo.WORD")  # fmt: skip
    add("--write", action="store_true",
        help="for maintainers: also renew the committed copies in notebooks/, or release a "
        "study's numbers in data/evaluations/")  # fmt: skip
    args = parser.parse_args(argv)
    args.only = [numbered(word, parser) for words in args.only for word in words.split(",")]
    args.base = args.profile
    check_study(args, parser)
    if args.set or args.name:
        choose_changes(args, parser)
    args.weights = args.weights or ("released" if args.set and not args.fresh else "train")
    choose_data(args, parser)
    if args.fresh and args.weights == "released":
        parser.error("--fresh trains again and --weights released does not train: choose one")
    if args.write and args.study and args.profile != "demo":
        parser.error("--write needs --profile demo, whose numbers are released")
    if args.write and not args.study and (args.profile, args.weights) != ("demo", "released"):
        parser.error("--write needs --profile demo --weights released, which the copies show")
    return args


def check_study(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End the process with a message where options do not go with --study."""
    if args.minutes is not None and not args.minutes > 0:
        parser.error(f"--minutes is {args.minutes:g}: give a number above zero")
    others = {
        "--only": args.only, "--set": args.set, "--name": args.name, "--faces": args.faces,
        "--celeba": args.celeba, "--biobank": args.biobank, "--png": args.png,
        "--data": args.data in ("real", "cells"),
    }  # fmt: skip
    wrong = [name for name, value in others.items() if value]
    if args.study and wrong:
        parser.error(f"--study says by itself what is trained: leave out {', '.join(wrong)}")


def choose_changes(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Make a profile of its own for --set, and set args.profile to its name.

    Ends the process with a message where a change is none, or the name has other changes.
    """
    if not args.set or not args.name:
        parser.error("--set MODEL.SETTING=VALUE and --name WORD go together: the name is that of "
                     "the folders for what the change makes")  # fmt: skip
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", args.name):
        parser.error(f"--name {args.name}: use letters, digits, - and _, such as rank5")
    known, changes = profiles.PROFILES[args.profile].experiments, {}
    for word in args.set:
        left, equals, value = word.partition("=")
        model, dot, setting = left.rpartition(".")
        if not (equals and dot and value):
            parser.error(f"--set {word}: expected MODEL.SETTING=VALUE, such as faces-sos.rank=5")
        if model not in known:
            parser.error(f"--set {word}: there is no model {model!r}; there are\n  "
                         + "\n  ".join(known))  # fmt: skip
        changes.setdefault(model, {})[setting] = profiles.value_of(value)
    if not args.only:
        args.only = [n.name[:2] for n in NOTEBOOKS if changes.keys() & set(n.experiments)]
    shown = {name for notebook in chosen_notebooks(args) for name in notebook.experiments}
    if unseen := changes.keys() - shown:
        parser.error(f"no notebook that is run shows {', '.join(unseen)}: choose others by --only")
    try:
        args.profile = profiles.define(args.profile, args.name, changes)
    except ValueError as error:
        parser.error(f"--set: {error}")


def numbered(word: str, parser: argparse.ArgumentParser) -> str:
    """Return the two digits of a notebook from any of its names: 1, 01, 01_beta, a path to it."""
    stem = Path(word).name.removesuffix(".ipynb")
    digits = re.match(r"\d*", stem).group().zfill(2)
    for notebook in NOTEBOOKS:
        if notebook.name.startswith(stem if len(stem) > 2 else digits):
            return digits
    known = "\n  ".join(notebook.name for notebook in NOTEBOOKS)
    parser.error(f"--only {word}: no such notebook; there are\n  {known}")


PLACES = {"faces": "folder", "celeba": "celeba", "biobank": "biobank"}  # option: reader


def choose_data(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Set faces, celeba and biobank to absolute paths, or None.

    Ends the process with a message that helps where images cannot be found.
    """
    if args.data is None:
        real = args.base == "paper" or args.celeba or args.biobank
        args.data = "real" if real else "simulated"
    if args.data == "simulated" and (args.celeba or args.biobank):
        parser.error("--data simulated reads nothing: leave out --celeba and --biobank")
    if args.data == "real":
        # Only one of them given on a small profile: the other stays simulated.
        both = args.base == "paper" or not (args.celeba or args.biobank)
        names = {name for notebook in chosen_notebooks(args) for name in notebook.experiments}
        needs = {profiles.PROFILES[args.base].experiments[name].data.name for name in names}
        if both and not args.faces and needs - {"brains", "cells"}:
            args.celeba = args.celeba or paths.DATA / "celeba"
        if both and "brains" in needs:
            args.biobank = args.biobank or paths.DATA / "biobank"
    if args.data == "cells":
        from sos.datasets import cells

        if args.faces or args.celeba:
            parser.error("--data cells takes the simulated faces' place: leave out --faces and "
                         "--celeba")  # fmt: skip
        if not cells.is_available():
            parser.error(f"--data cells: {cells.HELP}")
    if args.faces and args.celeba:
        parser.error("--faces and --celeba both take the simulated faces' place: choose one")
    for name, reader in PLACES.items():
        place = getattr(args, name)
        if place is None:
            continue
        from sos.datasets import READERS  # takes a while, and simulated images need none

        place = place.expanduser().resolve()
        setattr(args, name, place)
        try:
            str(place).encode()
        except UnicodeEncodeError:
            parser.error(
                f"--{name} {str(place)!r}: the name is not UTF-8, and no notebook can hold it; "
                f"rename the folder, or give a link of another name"
            )
        try:
            READERS[reader].scan(str(getattr(args, name)))
        except (FileNotFoundError, ValueError) as error:
            parser.error(str(error))


def chosen_notebooks(args: argparse.Namespace) -> list[Notebook]:
    """Return the notebooks that --only names, or all."""
    return [n for n in NOTEBOOKS if not args.only or n.name[:2] in args.only]


def parameters(args: argparse.Namespace) -> dict:
    """Return the parameters that papermill injects into every notebook."""
    return {"profile": args.profile, "weights": args.weights, "images": images(args)}


def images(args: argparse.Namespace) -> dict | None:
    """Return the `images` argument of `sos.profiles.profile`, or None where all are simulated."""
    places = {name: str(place) for name in PLACES if (place := getattr(args, name))}
    if args.data == "cells":
        places["cells"] = True
    if not places:
        return None
    return places | {"partition": args.partition, "skip_unreadable": args.skip_unreadable}
