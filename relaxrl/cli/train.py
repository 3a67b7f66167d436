"""`relaxrl train`: a configuration in, a run folder out."""

from __future__ import annotations

import argparse

from relaxrl.errors import ConfigError

_DESCRIPTION = """\
Train an agent on a set of crystals, from a configuration in YAML.

The run folder (`run.dir`) gets the resolved configuration, versions, metrics.csv, TensorBoard logs, plots, checkpoints,
and the agents best/ (best evaluation on the development crystals) and last/. Ctrl-C ends a run in order; --resume
continues it, also after a crash, bit for bit on a CPU.
"""

_EPILOG = """\
examples:
  relaxrl train configs/demo.yaml
      the shipped metals with the embedded EMT potential, about five minutes on two cores
  relaxrl train configs/demo.yaml structures=mine.extxyz kind=minimum calculator=lj,sigma=2.3 run.dir=runs/mine
      your own relaxed crystals and calculator; structures may be files, folders, databases, [a.cif, b.cif]
  relaxrl train configs/demo.yaml run.seed=1 run.minutes=20 td3.gamma=0.9 expert.name=bfgs
      any key of the configuration can be given as key=value
  relaxrl train --resume runs/mine run.minutes=40
      continue a run, here for longer

then:
  relaxrl evaluate --agent runs/mine --structures test.extxyz --calculator emt --out report
  tensorboard --logdir runs

All keys with meaning, unit and default: docs/training.md, or the config.yaml of any run.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "train",
        help="train an agent on a set of crystals",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG",
        help="YAML file; keys that it leaves out keep their defaults",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="wins over the file; nested keys with dots: td3.gamma=0.9"
    )
    parser.add_argument("--resume", metavar="RUN_DIR", help="continue the run in this folder from its last checkpoint")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, and say where the results are."""
    given = [text for text in (args.config, *args.overrides) if text is not None]
    if args.resume is not None:
        wrong = [text for text in given if "=" not in text]
        if wrong:
            raise ConfigError(
                f"got both --resume {args.resume} and a configuration, `{wrong[0]}`; a resumed run has its own: "
                "leave the file out"
            )
    elif args.config is None or "=" in args.config:
        raise ConfigError("expected the configuration's file first, for example `relaxrl train configs/demo.yaml`")

    # Imported here: torch takes seconds to load, and --help must not.
    from relaxrl.training import load_run_config, resume, train

    if args.resume is not None:
        result = resume(args.resume, tuple(given), verbose=not args.quiet)
    else:
        result = train(load_run_config(args.config, args.overrides), verbose=not args.quiet)
    if result.interrupted:
        print(f"interrupted at step {result.t_total}; continue with `relaxrl train --resume {result.folder}`")
        return 130
    print(f"{result.t_total} environment steps, {result.updates} updates")
    print(f"best agent: {result.folder / 'best'} ({result.best:.2f} of BFGS's evaluations on the development crystals)")
    print(f"plots: {result.folder / 'plots'}; metrics: {result.folder / 'metrics.csv'}")
    print(f"all of it as a page: relaxrl report {result.folder}")
    print(f"compare it: relaxrl evaluate --agent {result.folder} --structures FILE --calculator NAME --out DIR")
    return 0
